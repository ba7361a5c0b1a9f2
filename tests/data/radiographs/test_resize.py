"""Tests of resizing against exact areas, computed with matrices of overlaps."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from exact_resizing import exact
from numpy.typing import NDArray

from data.radiographs.resize import covered_area, resize_image, resize_mask


def fractions(source: int, target: int) -> list[dict[int, Fraction]]:
    """Return exact `weights`: for each output pixel the weights of input pixels, with sum 1."""
    ratio, half, rows = Fraction(source, target), Fraction(1, 2), []
    for row in range(target):
        found: dict[int, Fraction] = {}
        if target <= source:
            start, end = row * ratio, (row + 1) * ratio
            for column in range(math.floor(start), math.ceil(end)):
                found[column] = (min(end, column + 1) - max(start, column)) / ratio
        else:
            position = (row + half) * ratio - half
            below = math.floor(position)
            for column, weight in ((below, 1 - position + below), (below + 1, position - below)):
                inside = min(max(column, 0), source - 1)
                found[inside] = found.get(inside, Fraction(0)) + weight
        assert sum(found.values()) == 1
        rows.append(found)
    return rows


def counted(pixels: NDArray[np.generic], height: int, width: int) -> tuple[NDArray[np.float64], int]:
    """Return `exact` times a whole number, as whole numbers below 2^53: nothing is rounded."""
    matrices, parts = [], 1
    for source, target in zip(pixels.shape, (height, width), strict=True):
        rows = fractions(source, target)
        common = math.lcm(*{weight.denominator for row in rows for weight in row.values()})
        matrix = np.zeros((target, source))
        for number, row in enumerate(rows):
            for column, weight in row.items():
                matrix[number, column] = int(weight * common)
        matrices.append(matrix)
        parts *= common
    sums = matrices[0] @ pixels.astype(np.float64) @ matrices[1].T
    assert sums.max() < 2**53
    return sums, parts


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


@pytest.mark.parametrize(
    ("source", "target", "halves"),
    [
        ((1024, 1024), (384, 384), 4351),  # the competition's: 8 -> 3, in 64 parts
        ((1024, 768), (384, 256), 7071),  # 8 -> 3 and 3 -> 1, in 24 parts
        ((96, 192), (32, 32), 173),  # in 18 parts
        ((175, 189), (35, 27), 0),  # 5 -> 1 and 7 -> 1: in 35 parts, so that nothing is exactly half
        ((125, 64), (120, 64), 0),  # a block, and an axis that stays
        ((64, 66), (48, 50), 181),  # a block, and 33 -> 25
        ((60, 61), (44, 43), 0),
        ((128, 101), (256, 202), 0),  # twice as large: in quarters
        ((90, 40), (30, 160), 0),  # one axis shrunk, the other enlarged
        ((40, 97), (160, 29), 5),
        ((301, 307), (512, 384), 0),
        ((1999, 1997), (1024, 1000), 0),  # millions of parts: half and the next are 1e-7 apart
        ((2027, 1021), (1013, 2039), 0),  # 2.001 -> 1: what OpenCV leaves out is no longer little
    ],
)
def test_half_the_area_is_counted_exactly(
    source: tuple[int, int], target: tuple[int, int], halves: int
) -> None:
    mask = np.random.default_rng(7).random(source) < 0.5
    sums, parts = counted(mask, *target)
    beyond = 2 * sums - parts
    nearest = max(beyond[beyond > 0].min(), -beyond[beyond < 0].max())
    assert nearest <= max(2, 2e-5 * parts), "some pixels lie just above half, and some just below"
    assert (beyond == 0).sum() == halves
    np.testing.assert_array_equal(resize_mask(mask.astype(np.uint8), *target), beyond >= 0)
    np.testing.assert_array_equal(covered_area(mask.astype(np.uint8), *target), sums / parts)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "row", "middle"),
    [(1024, 384, 1, 4), (1022, 381, 190, 511)],  # 4 = 1.5 * 1024 / 384, 511 = 190.5 * 1022 / 381
)
def test_one_input_pixel_decides(before: int, after: int, row: int, middle: int, missing: bool) -> None:
    """A mask ends in the middle of an output row, where at most one pixel is missing."""
    mask = np.zeros((before, before), np.uint8)
    mask[:middle] = 1
    if missing:
        mask[middle - 1, 500] = 0
    resized = resize_mask(mask, after, after)
    expected = np.zeros_like(resized)
    expected[: row + 1] = 1
    if missing:
        expected[row, 500 * after // before] = 0
    np.testing.assert_array_equal(resized, expected)


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
    """For 8 -> 3, 4 -> 1, 2 -> 1 and 4 -> 3, the sums are whole numbers below 2^24."""
    pixels = np.random.default_rng(2).integers(0, full + 1, source).astype(kind)
    pixels[:9, :9] = full
    parts = exact(pixels, *target) / full
    resized = resize_image(pixels, *target, full)
    np.testing.assert_allclose(resized, parts, rtol=6e-8)  # half a unit in the last place of float32
    assert resized.max() == 1


@pytest.mark.parametrize(("kind", "full"), [(np.uint8, 255), (np.uint16, 4095), (np.uint16, 65535)])
def test_the_competitions_size_is_rounded_once(kind: type[np.unsignedinteger[Any]], full: int) -> None:
    """No float32 is nearer to the average, which is computed with fractions here."""
    pixels = np.random.default_rng(5).integers(0, full + 1, (1024, 1024)).astype(kind)
    sums, parts = counted(pixels, 384, 384)
    resized = resize_image(pixels, 384, 384, full)
    for row, column in np.random.default_rng(6).integers(0, 384, (500, 2)):
        average = Fraction(int(sums[row, column]), parts * full)
        found = resized[row, column]
        others = [np.nextafter(found, np.float32(end)) for end in (0, 1)]
        distance = abs(Fraction(float(found)) - average)
        assert all(distance <= abs(Fraction(float(other)) - average) for other in others)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1025, 61), (1024, 60)),  # a thousandth of a pixel more than one: OpenCV leaves that out
        ((31, 2027), (20, 1013)),
        ((1999, 20), (1001, 30)),
        ((20, 1999), (30, 1000)),
    ],
)
@pytest.mark.parametrize(("kind", "full"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_the_least_parts_of_pixels_count(
    source: tuple[int, int], target: tuple[int, int], kind: type[np.number[Any]], full: int
) -> None:
    pixels = (np.random.default_rng(8).integers(0, 2, source) * full).astype(kind)
    resized = resize_image(pixels, *target, full)
    assert resized.dtype == np.float32
    assert resized.flags.c_contiguous
    assert 0 <= resized.min() < resized.max() <= 1
    np.testing.assert_allclose(resized, exact(pixels, *target) / full, atol=2e-6)


@pytest.mark.parametrize("target", [(27, 33), (41, 50), (29, 90)])
def test_whole_numbers_give_what_their_quotients_give(target: tuple[int, int]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (72, 88), dtype=np.uint8)
    divided = (pixels / 255).astype(np.float32)
    np.testing.assert_allclose(resize_image(pixels, *target, 255), resize_image(divided, *target), atol=3e-7)
