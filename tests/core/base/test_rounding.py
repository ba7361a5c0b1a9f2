"""Rounding to fewer digits agrees with exact arithmetic and with IEEE 754's table of special numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from core.base.rounding import Narrow, to_bfloat16, to_float16, to_narrow, to_tf32

SMALLEST = 2.0**-133
TYPES: dict[Narrow, tuple[int, int, int]] = {
    "bfloat16": (8, -133, 128),
    "float16": (11, -24, 16),
    "tf32": (11, -136, 128),
}
"""Significant bits, and the powers of two of the smallest number and of the first that is too large."""


def neighbours(value: float, bits: int, smallest: int) -> tuple[Fraction, Fraction, bool]:
    """Return the numbers of a type at and beyond a finite float32 number; whether the first is even."""
    exact = abs(Fraction(value))
    unit = Fraction(2) ** smallest
    while exact >= 2**bits * unit:
        unit *= 2
    steps = exact // unit
    return steps * unit, (steps + 1) * unit, steps % 2 == 0


@pytest.mark.parametrize("narrow", TYPES)
def test_finite_numbers_become_the_nearest_to_even(narrow: Narrow) -> None:
    significant, smallest, too_large = TYPES[narrow]
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 3000, dtype=np.uint64).astype(np.uint32)
    if narrow == "float16":  # random exponents of float32 are nearly all beyond its range
        bits = (bits & np.uint32(0x807FFFFF)) | (rng.integers(98, 145, 3000).astype(np.uint32) << 23)
    bits[:1000] &= np.uint32(0xFFFFFFFF << (23 - significant) & 0xFFFFFFFF)  # numbers, and midpoints of two
    numbers = bits.view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    rounded = to_narrow(numbers, narrow)
    middles = 0
    for number, got in zip(numbers.tolist(), rounded.tolist(), strict=True):
        below, above, even = neighbours(number, significant, smallest)
        exact = abs(Fraction(number))
        middles += exact - below == above - exact
        up = exact - below > above - exact or (exact - below == above - exact and not even)
        expected = above if up else below
        if expected >= Fraction(2) ** too_large:
            assert abs(got) == np.inf
        else:
            assert abs(Fraction(got)) == expected
        assert np.signbit(got) == np.signbit(number)
    assert middles > 300


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (-0.0, -0.0),
        (np.inf, np.inf),
        (65504.0, 65504.0),
        (65520 - 2.0**-8, 65504.0),
        (65520.0, np.inf),
        (-1e30, -np.inf),
        (2.0**-25, 0.0),
        (-1.5 * 2.0**-24, -(2.0**-23)),
        (2.0**-14 - 2.0**-26, 2.0**-14),
    ],
)
def test_special_numbers_of_float16(number: float, expected: float) -> None:
    (got,) = to_float16(np.array([number], np.float32))
    assert got == expected
    assert np.signbit(got) == np.signbit(expected)
    assert np.isnan(to_float16(np.array([np.nan], np.float32))).all()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0.0, 0.0),
        (-0.0, -0.0),
        (np.inf, np.inf),
        (-np.inf, -np.inf),
        (1 + 2.0**-8, 1.0),
        (1 + 3 * 2.0**-8, 1 + 2.0**-6),
        (1 + 2.0**-8 + 2.0**-23, 1 + 2.0**-7),
        (2.0**127 * (2 - 2.0**-7), 2.0**127 * (2 - 2.0**-7)),
        (2.0**127 * (2 - 2.0**-8), np.inf),
        (-(2.0**127) * (2 - 2.0**-23), -np.inf),
        (SMALLEST / 2, 0.0),
        (SMALLEST * 1.5, 2 * SMALLEST),
        (-SMALLEST * 0.75, -SMALLEST),
    ],
)
def test_special_numbers(number: float, expected: float) -> None:
    (got,) = to_bfloat16(np.array([number], np.float32))
    assert got == expected
    assert np.signbit(got) == np.signbit(expected)


def test_not_a_number_stays_so() -> None:
    bits = np.array([0x7F800001, 0x7FFFFFFF, 0xFF80FFFF, 0xFFFFFFFF, 0x7FC00000], np.uint32)
    for rounded in (to_bfloat16(bits.view(np.float32)), to_tf32(bits.view(np.float32))):
        assert np.isnan(rounded).all()
        np.testing.assert_array_equal(rounded.view(np.uint32) >> 31, bits >> 31)


def test_any_layout_is_read_and_none_is_changed() -> None:
    array = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    kept = array.copy()
    np.testing.assert_array_equal(to_bfloat16(array.T), to_bfloat16(array).T)
    np.testing.assert_array_equal(to_bfloat16(array[:, ::-2]), to_bfloat16(array)[:, ::-2])
    np.testing.assert_array_equal(array, kept)
    assert to_bfloat16(array[:0]).shape == (0, 4, 5)
