"""The table of bytes holds the very numbers that reading a data file computes."""

from __future__ import annotations

import numpy as np
import pytest

from core.base.byte_images import LEVELS, as_numbers


def test_each_byte_is_the_nearest_float32_to_its_share() -> None:
    bytes_ = np.arange(256, dtype=np.uint8)
    exact = bytes_.astype(np.float64) / 255
    assert LEVELS.dtype == np.float32
    assert np.array_equal(LEVELS, exact.astype(np.float32))
    assert np.array_equal(as_numbers(bytes_[:, np.newaxis]), LEVELS[:, np.newaxis])
    assert not np.array_equal(LEVELS, bytes_ * np.float32(1 / 255))  # a device that multiplies would differ


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numbers_stay_as_they_are(kind: type[np.floating]) -> None:
    numbers = np.array([[0.25, 1.0]], kind)
    assert as_numbers(numbers) is numbers
