"""The appearance of masks: right ones cause no warning, each known mistake causes its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data.annotations import rle
from data.annotations.annotation_file import combined_mask, read_annotations
from data.phantoms.anatomy import draw
from data.submissions.mask_appearance import EncodedMask, appearance_warnings, orientation

Pixels = NDArray[np.uint8]
SIZE = 160


@pytest.fixture(scope="module")
def phantoms() -> list[Pixels]:
    """The masks of 24 phantoms, all of them positive."""
    return [
        np.bitwise_or.reduce([np.asarray(region, np.uint8) for region in draw(5, n, SIZE, True).regions])
        for n in range(24)
    ]


def encoded(pixels: Pixels, height: int = 0, width: int = 0) -> EncodedMask:
    """Encode a mask for an image of a size; by default the mask's own size."""
    return EncodedMask(rle.runs(rle.encode(pixels)), height or pixels.shape[0], width or pixels.shape[1])


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)


def one_warning(masks: Sequence[EncodedMask]) -> str:
    found = appearance_warnings(masks)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (500, 410), (300, 401), (64, 64), (1024, 1000)])
def test_right_masks_cause_no_warning(phantoms: list[Pixels], height: int, width: int) -> None:
    masks = [encoded(resized(pixels, height, width)) for pixels in phantoms]
    assert appearance_warnings(masks) == []
    assert all(appearance_warnings([mask]) == [] for mask in masks)


def test_sizes_may_differ_from_mask_to_mask(phantoms: list[Pixels]) -> None:
    masks = [encoded(resized(pixels, 200 + 9 * n, 330 - 7 * n)) for n, pixels in enumerate(phantoms)]
    assert appearance_warnings(masks) == []


def test_ragged_masks_cause_no_warning(phantoms: list[Pixels]) -> None:
    random = np.random.default_rng(2)
    holed = [pixels & (random.random(pixels.shape) < 0.8) for pixels in phantoms]
    specks = [(random.random((SIZE, SIZE)) < 0.01).astype(np.uint8) for _ in phantoms]
    assert appearance_warnings([encoded(pixels) for pixels in holed]) == []
    assert appearance_warnings([encoded(pixels) for pixels in specks]) == []


def test_no_masks_cause_no_warning() -> None:
    assert appearance_warnings([]) == []
    assert appearance_warnings([encoded(np.ones((5, 4), np.uint8)), encoded(np.eye(7, dtype=np.uint8))]) == []


def test_transposed_masks_of_square_images(phantoms: list[Pixels]) -> None:
    said = one_warning([encoded(pixels.T) for pixels in phantoms])
    assert said.startswith("the masks look transposed: ")
    assert "of 24 lie where" in said


@pytest.mark.parametrize(("height", "width"), [(300, 401), (401, 300)])
def test_masks_written_row_by_row(phantoms: list[Pixels], height: int, width: int) -> None:
    masks = [encoded(resized(pixels, height, width).T, height, width) for pixels in phantoms]
    for some in (masks, masks[:1], [*masks, encoded(resized(phantoms[0], 300, 300))]):
        said = one_warning(some)
        assert "transposed" in said
        assert "repeat after the image's width" in said


@pytest.mark.parametrize("size", [96, 128, 333, 512])
def test_masks_encoded_at_another_size(phantoms: list[Pixels], size: int) -> None:
    masks = [encoded(resized(pixels, size, size), 256, 256) for pixels in phantoms]
    said = one_warning(masks)
    assert f"a height of about {size} pixels, not 256" in said
    assert "24 of 24" in said
    # Most of a mixture decide.
    right = [encoded(resized(pixels, 256, 256)) for pixels in phantoms]
    assert appearance_warnings(masks[:4] + right) == []
    assert "20 of 24" in one_warning(masks[:20] + right[:4])


def test_a_few_pixels_of_height_are_not_told_apart(phantoms: list[Pixels]) -> None:
    assert appearance_warnings([encoded(resized(pixels, 511, 512), 512, 512) for pixels in phantoms]) == []


def test_absolute_starts(phantoms: list[Pixels]) -> None:
    masks = []
    for pixels in phantoms:
        right = rle.runs(rle.encode(pixels))
        pairs = np.stack([right[:, 0] + 1, right[:, 1] - right[:, 0]], axis=1)  # from 1, as elsewhere
        masks.append(EncodedMask(rle.runs(" ".join(map(str, pairs.ravel()))), SIZE, SIZE))
    said = one_warning(masks)
    assert "in 24 of 24 masks" in said
    assert "are they absolute?" in said


def test_masks_too_large_for_a_pneumothorax_are_not_judged() -> None:
    """For example both lungs: they are more symmetric than any pneumothorax."""
    pixels = np.zeros((100, 100), np.uint8)
    pixels[45:55, :] = 1  # far from the apex and from side to side: transposed, by every sign
    assert "transposed" in one_warning([encoded(pixels)] * 5)
    pixels[30:55] = 1
    assert appearance_warnings([encoded(pixels)] * 5) == []


def orientation_by_pixels(pixels: Pixels) -> float:
    """Compute the same model from the coordinates of every pixel."""
    rows, columns = (places.astype(float) for places in np.nonzero(pixels))

    def features(places: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        centres = (places + 0.5) / size
        spread = np.sqrt(centres.var() + 1 / size**2 / 12)
        ends = [places.min() / size, (places.max() + 1) / size]
        return np.array([*ends, centres.mean(), (centres.mean() - 0.5) ** 2, -np.log(spread)])

    across, down = features(columns, pixels.shape[1]), features(rows, pixels.shape[0])
    return float((across - down) @ [9.82, -10.86, 4.10, -13.59, -1.22])


def test_orientation_is_that_of_the_pixels_and_turns_its_sign(phantoms: list[Pixels]) -> None:
    random = np.random.default_rng(4)
    oblong = [(random.random((9, 14)) < 0.2).astype(np.uint8) for _ in range(20)]
    for pixels in [*phantoms[:8], *oblong, np.pad(np.ones((30, 3), np.uint8), ((0, 0), (2, 5)))]:
        value = orientation(encoded(pixels))
        assert value == pytest.approx(orientation_by_pixels(pixels), abs=1e-9)
        assert orientation(encoded(pixels.T)) == pytest.approx(-value, abs=1e-9)


def test_pixels_beyond_the_last_are_borne() -> None:
    """`check` reports them; here they only must not cause an error."""
    assert np.isfinite(orientation(EncodedMask(np.array([[3, 9], [190, 260]]), 10, 20)))


@pytest.fixture(scope="module")
def real(real_data: Path) -> list[Pixels]:
    """The masks of 250 positives of the competition's file, at its size."""
    rows = read_annotations(real_data / "annotations/siim-pneumothorax-train-rle.csv.gz").rows_of.values()
    positive = [some for some in rows if not all(row.empty for row in some)]
    assert len(positive) == 2669
    chosen = np.random.default_rng(0).permutation(len(positive))[:250]
    return [combined_mask(positive[index], 1024, 1024) for index in chosen]


@pytest.mark.parametrize(
    ("change", "says", "least"),
    [
        (lambda pixels: encoded(pixels), "", {5: 1.0, 20: 1.0, 100: 1.0}),
        (lambda pixels: encoded(resized(pixels, 300, 300)), "", {5: 1.0, 20: 1.0, 100: 1.0}),
        (lambda pixels: encoded(pixels.T.copy()), "transposed", {5: 0.5, 20: 0.95, 100: 1.0}),
        (
            lambda pixels: encoded(resized(pixels, 512, 512), 1024, 1024),
            "height of about 51",
            {5: 1.0, 20: 1.0, 100: 1.0},
        ),
    ],
    ids=["right", "right at 300", "transposed", "at 512"],
)
def test_the_competitions_masks(
    real: list[Pixels], change: Callable[[Pixels], EncodedMask], says: str, least: dict[int, float]
) -> None:
    masks = [mask for pixels in real if len((mask := change(pixels)).runs)]
    random = np.random.default_rng(1)
    for count, share in least.items():
        drawn = (random.choice(len(masks), count, replace=False) for _ in range(300 // count))
        found = [appearance_warnings([masks[index] for index in chosen]) for chosen in drawn]
        right = [len(said) == 1 and says in said[0] if says else not said for said in found]
        assert np.mean(right) >= share, count
