"""CLAHE: as written out pixel by pixel, and as OpenCV computes it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data.radiographs.clahe import Clahe, equalize

Image = NDArray[np.float32]


def radiograph(shape: tuple[int, int], seed: int = 0) -> Image:
    """Return a dark picture with smooth structures, noise and a black border, of 8 bits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    smooth = 0.3 + 0.2 * np.sin(9 * x + 4 * y) + 0.15 * np.cos(17 * y * x) + 0.03 * rng.standard_normal(shape)
    smooth[: shape[0] // 9] = 0.0
    return np.round(np.clip(smooth, 0, 1) * 255).astype(np.float32) / np.float32(255)


def by_hand(image: Image, limit: float, tiles: int) -> NDArray[np.float64]:
    """Return the definition, loop by loop."""
    height, width = image.shape
    tall, wide = -(-height // tiles), -(-width // tiles)
    levels = image.astype(float) * 255
    padded = np.pad(levels, ((0, tall * tiles - height), (0, wide * tiles - width)), "reflect")
    tables = np.zeros((tiles, tiles, 256))
    for i in range(tiles):
        for j in range(tiles):
            counts = [0.0] * 256
            for value in padded[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide].ravel():
                counts[round(value)] += 1
            most = max(int(limit * tall * wide / 256), 1)
            excess = sum(max(count - most, 0) for count in counts)
            counts = [min(count, most) + excess / 256 for count in counts]
            tables[i, j] = [sum(counts[: level + 1]) / (tall * wide) for level in range(256)]
    found = np.zeros(image.shape)
    for row in range(height):
        for column in range(width):
            total = 0.0
            for i in range(tiles):
                for j in range(tiles):
                    # Beyond the outermost centres a tile has all the weight.
                    y = min(max((row + 0.5) / tall - 0.5, 0), tiles - 1)
                    x = min(max((column + 0.5) / wide - 0.5, 0), tiles - 1)
                    weight = max(1 - abs(y - i), 0) * max(1 - abs(x - j), 0)
                    if weight:
                        total += weight * np.interp(levels[row, column], np.arange(256), tables[i, j])
            found[row, column] = total
    return found


@pytest.mark.parametrize(
    ("shape", "limit", "tiles"),
    [((24, 33), 2.0, 3), ((17, 10), 3.7, 4), ((70, 9), 1.0, 1), ((5, 6), 300.0, 7)],
)
def test_it_is_what_the_definition_says(shape: tuple[int, int], limit: float, tiles: int) -> None:
    image = radiograph(shape)
    image[::3] = np.random.default_rng(1).random(image[::3].shape, np.float32)  # more than 8 bits
    before = image.copy()
    np.testing.assert_allclose(equalize(image, Clahe(limit, tiles)), by_hand(image, limit, tiles), atol=2e-5)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("limit", [1.0, 2.0, 4.0, 40.0])
@pytest.mark.parametrize(("shape", "tiles"), [((384, 384), 1), ((384, 256), 8), ((768, 640), 4)])
def test_it_is_what_opencv_computes(shape: tuple[int, int], tiles: int, limit: float) -> None:
    """Except for the differences that have known limits.

    OpenCV rounds the tables and the results, by half a level each. Its tiles' centres are half a pixel away.
    Of what is cut off, it gives the remainder of the division by 256 to every nth level, n a whole number, so
    up to 64 counts of a tile come too early.
    """
    image = radiograph(shape, seed=tiles)
    expected = cv2.createCLAHE(limit, (tiles, tiles)).apply(np.rint(image * 255).astype(np.uint8))
    difference = np.abs(equalize(image, Clahe(limit, tiles)) * 255 - expected)
    tall, wide = shape[0] / tiles, shape[1] / tiles
    allowed = 1 + 255 * (64 / (tall * wide) + (0.5 / tall + 0.5 / wide if tiles > 1 else 0))
    assert difference.max() < allowed
    assert difference.mean() < allowed / 4


def test_a_mirror_image_gives_the_mirror_image() -> None:
    image = radiograph((64, 48))
    found = equalize(image, Clahe(2.5, 4))
    np.testing.assert_allclose(equalize(image[:, ::-1], Clahe(2.5, 4))[:, ::-1], found, atol=1e-6)
    np.testing.assert_allclose(equalize(image[::-1], Clahe(2.5, 4))[::-1], found, atol=1e-6)


def test_a_low_contrast_is_raised_and_a_limit_holds() -> None:
    image = radiograph((96, 96)) * np.float32(0.2) + np.float32(0.4)
    deviations = [float(equalize(image, Clahe(limit, 2)).std()) for limit in (1.5, 3.0, 6.0)]
    assert 1.2 * image.std() < deviations[0] < deviations[1] < deviations[2]
    assert equalize(image, Clahe(300.0)).max() <= 1
