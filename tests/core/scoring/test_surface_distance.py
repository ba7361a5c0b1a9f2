"""The normalised surface distance against a computation pair by pair, and worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from core.scoring.surface_distance import surface_distance, tolerance_of


def outline_by_loops(mask: NDArray[np.uint8]) -> list[tuple[int, int]]:
    height, width = mask.shape

    def inside(row: int, column: int) -> bool:
        return 0 <= row < height and 0 <= column < width and bool(mask[row, column])

    return [
        (row, column)
        for row in range(height)
        for column in range(width)
        if mask[row, column]
        and not all(inside(row + y, column + x) for y, x in ((1, 0), (-1, 0), (0, 1), (0, -1)))
    ]


def by_pairs(first: NDArray[np.uint8], second: NDArray[np.uint8], tolerance: float) -> float:
    one, other = outline_by_loops(first), outline_by_loops(second)
    close = sum(min(math.dist(a, b) for b in other) <= tolerance for a in one)
    close += sum(min(math.dist(a, b) for a in one) <= tolerance for b in other)
    return close / (len(one) + len(other))


@pytest.mark.parametrize("tolerance", [0.0, 0.9, 1.0, 1.5, 2.0, 2.9, 5.0, 40.0])
def test_it_is_that_of_all_pairs(tolerance: float) -> None:
    random = np.random.default_rng(int(10 * tolerance))
    found = []
    for number in range(6):
        masks = []
        for _ in range(2):
            mask = np.zeros((23, 31), np.uint8)
            for _ in range(1 + number % 3):
                top, left = random.integers(-3, 20, 2)
                mask[max(top, 0) : top + random.integers(4, 12), max(left, 0) : left + 9] = 1
            mask[random.integers(0, 23), random.integers(0, 31)] ^= 1
            masks.append(mask)
        found.append(surface_distance(masks[0], masks[1], tolerance))
        assert found[-1] == pytest.approx(by_pairs(masks[0], masks[1], tolerance))
        assert found[-1] == surface_distance(masks[1], masks[0], tolerance)
    assert any(0 < value < 1 for value in found) or tolerance > 30


def test_a_shift_by_the_tolerance_is_free_and_one_more_is_not() -> None:
    first = np.zeros((60, 50), np.uint8)
    first[10:40, 15:40] = 1
    assert surface_distance(first, np.roll(first, 3, axis=0), 3) == 1
    # Of each outline (106 pixels) the far side and two corners' rows are more than 2 away from the other.
    beyond = surface_distance(first, np.roll(first, 3, axis=0), 2)
    assert beyond == pytest.approx(by_pairs(first, np.roll(first, 3, axis=0), 2))
    assert beyond < 0.6
    hollow = first.copy()
    hollow[20:30, 20:30] = 0
    assert surface_distance(first, hollow, 2) == pytest.approx(2 * 106 / (2 * 106 + 40))


def test_empty_masks() -> None:
    empty, one = np.zeros((5, 7), np.uint8), np.zeros((5, 7), np.uint8)
    one[2, 3] = 1
    assert surface_distance(empty, empty, 1) == 1
    assert surface_distance(one, empty, 100) == surface_distance(empty, one, 100) == 0
    assert surface_distance(one, one, 0) == 1


def test_the_tolerance_follows_the_size() -> None:
    assert tolerance_of(1024, 1024) == 8
    assert tolerance_of(512, 512) == 4
    assert tolerance_of(2048, 512) == 8
