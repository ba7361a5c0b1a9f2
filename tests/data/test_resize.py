"""Resizing against exact areas, computed with matrices of overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data.resize import resize_image, resize_mask


def weights(source: int, target: int) -> NDArray[np.float64]:
    """(target, source): area averages when shrinking, linear interpolation when enlarging."""
    matrix = np.zeros((target, source))
    ratio = source / target
    for row in range(target):
        if target <= source:
            start, end = row * ratio, (row + 1) * ratio
            for column in range(source):
                overlap = min(end, column + 1) - max(start, column)
                matrix[row, column] = max(overlap, 0) / ratio
        else:
            position = (row + 0.5) * ratio - 0.5  # pixel centres, the border repeated
            below = int(np.floor(position))
            for column, weight in ((below, 1 - position + below), (below + 1, position - below)):
                matrix[row, min(max(column, 0), source - 1)] += weight
    return matrix


def exact(pixels: NDArray[np.generic], height: int, width: int) -> NDArray[np.float64]:
    rows, columns = weights(pixels.shape[0], height), weights(pixels.shape[1], width)
    return np.asarray(rows @ pixels.astype(np.float64) @ columns.T)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((102, 96), (38, 36)),
        ((97, 131), (38, 41)),
        ((72, 88), (27, 33)),  # blocks of 8 -> 3 on both axes
        ((35, 99), (30, 97)),  # blocks of 7 -> 6, and one too long
        ((64, 64), (32, 16)),
        ((53, 31), (53, 31)),
        ((31, 53), (47, 71)),
        ((31, 97), (47, 29)),  # rows enlarged, columns shrunk: cv2 alone would alias
        ((97, 31), (29, 47)),
        ((40, 97), (40, 29)),
        ((1, 7), (3, 2)),
    ],
)
def test_images_against_exact_areas(source: tuple[int, int], target: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).random(source).astype(np.float32)
    resized = resize_image(pixels, *target)
    assert resized.dtype == np.float32
    assert resized.flags.c_contiguous
    np.testing.assert_allclose(resized, exact(pixels, *target), atol=2e-6)


@pytest.mark.parametrize("target", [(38, 36), (131, 150), (150, 36)])
def test_values_stay_in_range(target: tuple[int, int]) -> None:
    ones = np.ones((97, 96), np.float32)
    assert resize_image(ones, *target).max() <= 1
    np.testing.assert_allclose(resize_image(ones, *target), 1, atol=1e-6)


@pytest.mark.parametrize("target", [(38, 29), (61, 71), (61, 29)])
def test_masks_are_set_where_half_the_area_is(target: tuple[int, int]) -> None:
    mask = np.zeros((57, 49), np.uint8)
    mask[10:31, 5:40] = 1
    mask[30:50, 20:23] = 1
    area = exact(mask, *target)
    clear = abs(area - 0.5) > 1e-6
    resized = resize_mask(mask, *target)
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized[clear], area[clear] >= 0.5)


def test_exactly_half_is_set() -> None:
    mask = np.zeros((6, 6), np.uint8)
    mask[:, ::2] = 1
    assert resize_mask(mask, 3, 3).all()


def test_full_and_empty_masks_stay() -> None:
    for value in (0, 1):
        mask = np.full((1024, 1023), value, np.uint8)
        assert (resize_mask(mask, 384, 384) == value).all()


@pytest.mark.parametrize(
    ("source", "target"),
    [((72, 88), (27, 33)), ((64, 64), (32, 16)), ((53, 31), (53, 31)), ((96, 40), (24, 30))],
)
@pytest.mark.parametrize(("kind", "full"), [(np.uint8, 255), (np.uint16, 4095), (np.uint16, 65535)])
def test_averages_of_whole_numbers_are_rounded_once(
    source: tuple[int, int], target: tuple[int, int], kind: type[np.unsignedinteger[Any]], full: int
) -> None:
    """8 -> 3, 4 -> 1, 2 -> 1 and 4 -> 3: their sums are whole numbers below 2^24."""
    pixels = np.random.default_rng(2).integers(0, full + 1, source).astype(kind)
    pixels[:9, :9] = full
    parts = exact(pixels, *target) / full
    resized = resize_image(pixels, *target, full)
    np.testing.assert_allclose(resized, parts, rtol=6e-8)  # half a unit in the last place of float32
    assert resized.max() == 1


@pytest.mark.parametrize("target", [(27, 33), (41, 50), (29, 90)])
def test_whole_numbers_give_what_their_quotients_give(target: tuple[int, int]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (72, 88), dtype=np.uint8)
    divided = (pixels / 255).astype(np.float32)
    np.testing.assert_allclose(resize_image(pixels, *target, 255), resize_image(divided, *target), atol=3e-7)
