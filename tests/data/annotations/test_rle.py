"""Tests of run-length encoding against the definition, pixel by pixel."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from data.annotations import rle

masks = arrays(
    np.uint8,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.integers(0, 1),
)


def encode_by_walking(mask: NDArray[np.uint8]) -> str:
    """Encode by the competition's definition, pixel by pixel down the columns."""
    height, width = mask.shape
    words: list[int] = []
    end_of_last, run = 0, 0
    for x in range(width):
        for y in range(height):
            index = x * height + y
            if mask[y, x]:
                if run == 0:
                    words.append(index - end_of_last)
                run += 1
            elif run:
                words.append(run)
                end_of_last, run = index, 0
    if run:
        words.append(run)
    return " ".join(map(str, words)) if words else "-1"


def test_worked_example() -> None:
    mask = np.zeros((4, 3), np.uint8)
    for x, y in ((0, 1), (0, 2), (2, 0)):
        mask[y, x] = 1
    assert rle.encode(mask) == "1 2 5 1"
    np.testing.assert_array_equal(rle.decode("1 2 5 1", 4, 3), mask)


def test_a_run_crosses_columns() -> None:
    mask = np.zeros((4, 3), np.uint8)
    mask[3, 0] = mask[0, 1] = 1
    assert rle.encode(mask) == "3 2"
    np.testing.assert_array_equal(rle.decode("3 2", 4, 3), mask)


@given(masks)
def test_encoding_is_the_definition(mask: NDArray[np.uint8]) -> None:
    assert rle.encode(mask) == encode_by_walking(mask)


@given(masks)
def test_decoding_inverts_encoding(mask: NDArray[np.uint8]) -> None:
    decoded = rle.decode(rle.encode(mask), *mask.shape)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, mask)


def test_larger_masks_of_odd_shapes() -> None:
    random = np.random.default_rng(3)
    for shape in ((1, 257), (257, 1), (131, 67), (64, 200)):
        mask = (random.random(shape) < 0.3).astype(np.uint8)
        mask[-1, -1] = 1  # the run that the competition's own encoder loses
        assert rle.encode(mask) == encode_by_walking(mask)
        np.testing.assert_array_equal(rle.decode(rle.encode(mask), *shape), mask)


def test_all_ones_and_all_zeros() -> None:
    assert rle.encode(np.ones((5, 3), np.uint8)) == "0 15"
    assert rle.decode("0 15", 5, 3).all()
    assert rle.encode(np.zeros((5, 3), np.uint8)) == "-1"
    assert not rle.decode(" -1 ", 5, 3).any()


def test_any_value_but_zero_is_set() -> None:
    mask = np.array([[0, 255], [True, 0.5]])
    assert rle.encode(mask) == "1 3"
    assert rle.encode(mask != 0) == "1 3"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("1 2 3", "3 numbers"),
        ("1 2 x 4", "x 4"),
        ("1 -2", "-2"),
        ("1.5 2", "1.5 is not a whole number"),
        ("2 1e-1", "1e-1 is not a whole number"),
        ("nan", "nan is not a whole number"),
        ("1 inf", "inf is not a whole number"),
        ("1 -Infinity", "-Infinity is not a whole number"),
        ("<NA>", "<NA> is not a whole number"),
        ("3.0 -2.0", "with -2.0 a run would overlap"),
        ("1.0 1e999999999", "a number of 1000000000 digits"),
        ("1.0 1e-999999999", "1e-999999999 is not a whole number"),
        ("1.0 1e" + "9" * 5000, "an exponent of 5000 digits"),
        ("1.0 " + "9" * 5000, "5000 digits"),
        ("1.0 0x10", "0x10"),
        ("1.0 1_0", "1_0"),
        ("1.0 2 3", "3 numbers"),
        ("1.0 13", "13"),
        ("1 2,5 1", "2,5"),
        ("1 ٢", "whole numbers"),  # int() would take an Arabic digit
        ("0 13", "13"),
        ("10 3", "13"),
        ("99999999999999999999999 1", "99999999999999999999999"),
        ("12 12 12 12", "48"),
        ("1 " + "9" * 5000, "5000 digits"),  # int() refuses these with a ValueError of its own
    ],
)
def test_what_is_no_mask_is_refused(text: str, says: str) -> None:
    with pytest.raises(rle.RleError) as caught:
        rle.decode(text, 4, 3)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text", ["-1", " -1", "-1 ", "-1.", "-1.0", "-1.000", "-1e0", "-1E+00", "-10e-1", "-0.1e1", "-01"]
)
def test_the_empty_mask_in_any_notation(text: str) -> None:
    assert rle.is_empty(text)
    assert rle.runs(text).shape == (0, 2)
    assert not rle.decode(text, 4, 3).any()
    assert rle.count_empty_runs(text) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "+1",
        "-1.5",
        "-1 2",
        "-",
        "--1",
        "-2.0",
        "-10",
        "1e0",
        "-1e999999999",
        "-1x",
        "-1e",
        "\u22121",
    ],
)
def test_what_is_not_the_empty_mask(text: str) -> None:
    assert not rle.is_empty(text)
    with pytest.raises(rle.RleError):
        rle.decode(text, 4, 3)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1.0 2.0 5.0 1.0", "1 2 5 1"),
        ("1. 2 5e0 1", "1 2 5 1"),
        ("1e0 2E+00 50e-1 0.1e1", "1 2 5 1"),
        ("+1 02 5 1.000", "1 2 5 1"),
        ("0.0 12", "0 12"),
        ("-0.0 1.2e1", "0 12"),
        ("0e999999999 .12E2", "0 12"),
        ("1\u00a02", "1 2"),
    ],
)  # fmt: skip
def test_whole_numbers_in_other_notation_are_what_they_are(text: str, plain: str) -> None:
    np.testing.assert_array_equal(rle.decode(text, 4, 3), rle.decode(plain, 4, 3))
    np.testing.assert_array_equal(rle.runs(text), rle.runs(plain))
    assert rle.is_plain(plain)
    assert not rle.is_plain(text)


def test_large_numbers_are_exact() -> None:
    """Floats cannot hold all whole numbers above 2^24 or 2^53; single precision would give 4294836224."""
    assert rle.runs("4294836221.0 2.000").tolist() == [[4294836221, 4294836223]]
    assert rle.runs("42948.36221e5 2").tolist() == [[4294836221, 4294836223]]
    with pytest.raises(rle.RleError, match="it contains 9007199254740993, but"):
        rle.runs("9007199254740993.0 1")


def test_runs_without_length_are_counted() -> None:
    assert rle.count_empty_runs("0 0 0 1 2 0.0") == 2
    assert rle.count_empty_runs("0 1") == 0


@given(masks)
def test_runs_are_those_of_the_mask(mask: NDArray[np.uint8]) -> None:
    flat = np.zeros(mask.size, np.uint8)
    for start, end in (found := rle.runs(rle.encode(mask))):
        flat[start:end] += 1
    np.testing.assert_array_equal(flat, mask.ravel(order="F"))
    assert (np.diff(found.ravel()) > 0).all()  # ascending, none of them empty, none that touch


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("1", "1 numbers"),
        ("4 5 -3 2", "-3 a run would overlap"),
        ("1 4294836226", "4294836226"),
    ],
)
def test_runs_of_no_mask_at_all(text: str, says: str) -> None:
    with pytest.raises(rle.RleError) as caught:
        rle.runs(text)
    assert says in str(caught.value)


def test_runs_may_be_as_large_as_any_image_and_no_larger() -> None:
    assert rle.runs(" 3 0 4294836219 3 ").tolist() == [[4294836222, 4294836225]]
    with pytest.raises(rle.RleError, match="4294836226"):
        rle.runs("3 1 4294836219 3")


def test_a_mask_has_two_dimensions() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2, 1\)"):
        rle.encode(np.zeros((2, 2, 1)))


def test_runs_are_drawn_and_joined_like_their_masks() -> None:
    random = np.random.default_rng(8)
    for _ in range(300):
        height, width = random.integers(1, 9, 2)
        masks = [(random.random((height, width)) < share).astype(np.uint8) for share in random.random(3)]
        runs = [rle.runs(rle.encode(mask)) for mask in masks]
        for mask, one in zip(masks, runs, strict=True):
            np.testing.assert_array_equal(rle.draw(one, height, width), mask)
        joined = rle.union(*runs)
        np.testing.assert_array_equal(joined, rle.runs(rle.encode(masks[0] | masks[1] | masks[2])))
    assert rle.union().shape == (0, 2)
    np.testing.assert_array_equal(rle.union(np.array([[4, 6], [6, 7], [0, 2]])), [[0, 2], [4, 7]])


@pytest.mark.parametrize("runs", [[[3, 1]], [[0, 13]], [[0, 3], [2, 5]], [[5, 6], [0, 1]], [[-1, 2]]])
def test_runs_that_are_no_mask_are_not_drawn(runs: list[list[int]]) -> None:
    with pytest.raises(rle.RleError, match="not ascending within 4x3 pixels"):
        rle.draw(np.array(runs), 3, 4)


@given(masks, st.randoms())
def test_areas_and_overlaps_are_those_of_the_pixels(mask: NDArray[np.uint8], random: Random) -> None:
    other = mask.copy().ravel()
    random.shuffle(other)
    other &= np.arange(other.size) % 5 != random.randrange(6)
    one, two = rle.runs(rle.encode(mask)), rle.runs(rle.encode(other.reshape(mask.shape)))
    assert rle.area(one) == mask.sum()
    assert rle.overlap(one, two) == rle.overlap(two, one) == (mask.ravel() & other).sum()
    assert rle.overlap(one, one) == rle.area(one)
    assert rle.overlap(one, one + mask.size) == 0
