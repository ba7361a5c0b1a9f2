"""Crops: inside the image, around the mask as often as wanted, and evenly distributed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from store_files import COUNT, content, write_store

from data.batches.augmentation import AugmentationSettings, augment
from data.batches.crops import CropSettings, crop_window
from data.batches.loader import Loader
from data.hdf5.store import Store

SHAPE, SIZE, DRAWS = (11, 8), 5, 2000


def corners(mask: NDArray[np.uint8], positives: float) -> Counter[tuple[int, int]]:
    """Return how often each crop is taken, by its first row and column; assert that all are whole."""
    found = Counter[tuple[int, int]]()
    for place in range(DRAWS):
        rows, columns = crop_window(mask, CropSettings(SIZE, positives), 3, 1, place)
        assert mask[rows, columns].shape == (SIZE, SIZE)
        found[rows.start, columns.start] += 1
    return found


def assert_even(found: Counter[tuple[int, int]], expected: set[tuple[int, int]], draws: int = DRAWS) -> None:
    """Assert that exactly these crops are taken, all about equally often (5 standard deviations)."""
    assert set(found) == expected
    mean = draws / len(expected)
    assert all(abs(count - mean) < 5 * mean**0.5 for count in found.values())


EVERY = {(row, column) for row in range(7) for column in range(4)}


@pytest.mark.parametrize(("positives", "marked"), [(0.0, True), (1.0, False)])
def test_any_crop_is_as_likely_as_any_other(positives: float, marked: bool) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[2, 3] = marked
    assert_even(corners(mask, positives), EVERY)


@pytest.mark.parametrize("pixel", [(0, 0), (5, 4), (10, 7), (1, 6)])
def test_all_crops_with_the_chosen_pixel_are_as_likely(pixel: tuple[int, int]) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[pixel] = 1
    with_it = {(r, c) for r, c in EVERY if r <= pixel[0] < r + SIZE and c <= pixel[1] < c + SIZE}
    assert_even(corners(mask, 1.0), with_it)


def test_all_pixels_of_the_mask_are_as_likely() -> None:
    """One pixel in a corner, three in the opposite one; no crop contains pixels of both."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0] = mask[10, 5] = mask[10, 6] = mask[10, 7] = 1
    found = corners(mask, 1.0)
    assert found[0, 0] / DRAWS == pytest.approx(1 / 4, abs=0.05)
    assert {row for row, _ in found} == {0, 6}


def test_the_probability_is_a_share_of_the_crops() -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0] = 1
    in_view = corners(mask, 0.6)[0, 0] / DRAWS
    assert in_view == pytest.approx(0.6 + 0.4 / len(EVERY), abs=0.05)


def test_a_loader_crops_what_was_augmented(tmp_path: Path) -> None:
    write_store(tmp_path / "a.h5")
    wanted, crops = AugmentationSettings(0.5, 0.2, rotate=30), CropSettings(3, 0.7)
    images, masks = content()
    with Store.open(tmp_path / "a.h5") as store:
        loader = Loader(store, np.arange(COUNT), 2, 3, None, wanted, crops=crops)
        whole, place = list(loader.epoch(2)), 0
        for batch in whole:
            assert batch.images.shape == batch.masks.shape == (len(batch.indices), 3, 3, 1)
            for row, index in enumerate(batch.indices):
                image, mask = images[index].copy(), masks[index].copy()
                augment(image, mask, wanted, 3, 2, place)
                window = crop_window(mask, crops, 3, 2, place)
                np.testing.assert_array_equal(batch.images[row, ..., 0], image[window])
                np.testing.assert_array_equal(batch.masks[row, ..., 0], mask[window])
                place += 1
        assert place == COUNT
        for found, expected in zip(loader.epoch(2, start=1), whole[1:], strict=True):
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)
        plain = Loader(store, np.arange(COUNT), 2, 3, crops=CropSettings(3, 0.0))
        assert {batch.images.shape[1:] for batch in plain.epoch(1)} == {(3, 3, 1)}
