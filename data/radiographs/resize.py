"""Resizing of radiographs and masks.

Along a shrunk axis, every output pixel is the exact average of the area it covers, fractions of input pixels
included, so nothing aliases (plain bilinear at 1024 -> 384 skips pixels). Along an enlarged axis, values are
interpolated linearly between pixel centres. Values stay within [0, 1], masks within {0, 1}. Whole numbers
decide if a mask covers half of a pixel. The result does not depend on the number of threads.

A shrunk axis is summed first: 1024 -> 384 is 128 times 8 -> 3, and an output pixel covers whole thirds of
input pixels. Counted in thirds, sums of whole numbers are whole numbers, so they are exact and fit into 16
bits. One division at the end makes correctly rounded averages of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.transposing import transposed

MASK_THRESHOLD = 0.5
"""A mask pixel is set when at least this part of its area was set."""

_LONGEST_BLOCK = 32  # input pixels; longer blocks have too many sums of few pixels
_ROWS = 64  # output rows computed at a time, so that their input rows stay in the processor's cache


def resize_image(
    pixels: NDArray[np.float32] | NDArray[np.unsignedinteger[Any]],
    height: int,
    width: int,
    full: float = 1,
) -> NDArray[np.float32]:
    """Resize a radiograph.

    Args:
        pixels: (h, w) float32 or unsigned integers in [0, full].
        height: Rows of the result.
        width: Columns of the result.
        full: The value that becomes 1.

    Returns:
        (height, width) float32 in [0, 1], C order; a copy even if the size is the same.
    """
    sums, parts = _sums(pixels, height, width, full)
    resized: NDArray[np.float32] = np.divide(sums, full * parts, dtype=np.float32, casting="same_kind")
    # Sums in float32 can be 1e-7 too large.
    return resized if sums.dtype.kind == "u" else np.clip(resized, 0, 1, out=resized)


def resize_mask(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a mask by area; a pixel is set if at least half of its area was set, counted exactly.

    Args:
        mask: (h, w) uint8 in {0, 1}, of fewer than 2^31 pixels.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width) uint8 in {0, 1}.
    """
    axes = zip(mask.shape, (height, width), strict=True)
    in_blocks = all(before == after or _block(before, after) is not None for before, after in axes)
    sums, parts = _sums(mask, height, width, 1) if in_blocks else _counted(mask, height, width)
    return (sums >= math.ceil(parts * MASK_THRESHOLD)).astype(np.uint8)


def covered_area(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Return the share of each pixel's area that was set; `resize_mask` compares it with one half.

    It is never computed in blocks, so it checks `resize_mask`.

    Args:
        mask: (h, w) uint8 in {0, 1}, of fewer than 2^31 pixels.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width) in [0, 1]; exactly 0.5 for half of the area.
    """
    sums, parts = _counted(mask, height, width)
    shares: NDArray[np.float64] = sums / parts
    return shares


def _sums(pixels: NDArray[Any], height: int, width: int, full: float) -> tuple[NDArray[Any], int]:
    """Resize both axes; return (height, width) sums, C order, and the number of equal parts in each sum."""
    parts = 1
    for after in (height, width):  # in the second round the columns are the rows
        block = _block(len(pixels), after)
        if block is None:
            pixels = _averaged(pixels, after)
        else:
            parts *= block.length
            pixels = _sum_rows(pixels, block, _holding(pixels.dtype, full * parts))
        pixels = transposed(pixels)
    return pixels, parts


def _holding(kind: np.dtype[Any], greatest: float) -> type[np.number[Any]]:
    """Return a type for sums up to `greatest`; float32 holds whole numbers up to 2^24 exactly."""
    if kind.kind != "u" or greatest > np.iinfo(np.uint16).max:
        return np.float32
    return np.uint8 if greatest <= np.iinfo(np.uint8).max else np.uint16


class _BlockSums(NamedTuple):
    """The repeating block of a shrunk axis: `length` input pixels become `len(sums)` output pixels.

    Each sum is a tuple of terms: a number of parts, and the input pixels that give this number of parts. An
    input pixel has `len(sums)` parts in total, and a sum has `length`.
    """

    length: int
    sums: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]


@functools.lru_cache(maxsize=64)
def _block(before: int, after: int) -> _BlockSums | None:
    """Return the block of an axis; None if the axis does not shrink, or the block is too long."""
    common = math.gcd(before, after)
    p, q = before // common, after // common
    if p <= q or p > _LONGEST_BLOCK:
        return None
    starts, pixels = p * np.arange(q)[:, None], q * np.arange(p)
    parts = np.minimum(starts + p, pixels + q) - np.maximum(starts, pixels)  # where they overlap
    sums = []
    for row in parts.tolist():
        counts = sorted({count for count in row if count > 0}, reverse=True)
        sums.append(tuple((count, tuple(n for n in range(p) if row[n] == count)) for count in counts))
    return _BlockSums(p, tuple(sums))


def _sum_rows(pixels: NDArray[Any], block: _BlockSums, kind: type[np.number[Any]]) -> NDArray[Any]:
    """Sum the rows of each block, in the type `kind`, which must hold the sums."""
    blocks = pixels.reshape(-1, block.length, pixels.shape[1])
    found = np.empty((len(blocks), len(block.sums), pixels.shape[1]), kind)
    further = np.empty_like(found[:, 0])
    for place, terms in enumerate(block.sums):
        into = found[:, place]
        for count, rows in terms:
            _sum([blocks[:, row] for row in rows], count, into)
            if into is further:
                found[:, place] += further
            into = further
    return found.reshape(-1, pixels.shape[1])


def _sum(rows: Sequence[NDArray[Any]], count: int, out: NDArray[Any]) -> None:
    """Write `count` times the sum of `rows` to `out`, computed in its type."""
    total = rows[0]
    for row in rows[1:]:
        total = np.add(total, row, out=out, dtype=out.dtype)
    if count > 1 or total is not out:
        np.multiply(total, count, out=out, dtype=out.dtype)


class _RowWeights(NamedTuple):
    """Weights for resizing an axis of any length: each output row is a weighted sum of successive input rows.

    Attributes:
        first: (after,) index of the first input row; -1 and `before` stand for the row at the border.
        parts: (rows, after) int64, the weight of each of these rows.
        whole: The sum of the weights for each output row.
    """

    first: NDArray[np.int64]
    parts: NDArray[np.int64]
    whole: int


@functools.lru_cache(maxsize=64)
def _row_weights(before: int, after: int) -> _RowWeights:
    common = math.gcd(before, after)
    p, q = before // common, after // common
    rows = np.arange(after)
    if p < q:  # linear; the position of a row's centre between two input centres, in units of 1 / 2q
        first, part = np.divmod(p * (2 * rows + 1) - q, 2 * q)
        return _RowWeights(first, np.stack([2 * q - part, part]), 2 * q)
    # By area: an input row has q parts, and an output row p of them.
    first = p * rows // q
    place = q * (first + np.arange(-(-p // q) + 1)[:, None])
    parts = np.minimum(p * (rows + 1), place + q) - np.maximum(p * rows, place)
    return _RowWeights(first, np.maximum(parts, 0), p)


def _averaged(pixels: NDArray[Any], after: int) -> NDArray[np.float32]:
    """Resize the rows to `after` rows."""
    if len(pixels) == after:
        return pixels.astype(np.float32, copy=False)
    axis = _row_weights(len(pixels), after)
    return _weighted_sums(pixels, axis, (axis.parts / axis.whole).astype(np.float32))


def _counted(mask: NDArray[np.uint8], height: int, width: int) -> tuple[NDArray[np.int32], int]:
    """Return the same as `_sums` for a mask of {0, 1}, counted exactly at any size."""
    counts: NDArray[Any] = mask
    whole = 1
    for after in (height, width):
        axis = _row_weights(len(counts), after)
        counts = transposed(_weighted_sums(counts, axis, axis.parts.astype(np.int32)))
        whole *= axis.whole
    return counts, whole


def _weighted_sums(rows: NDArray[Any], axis: _RowWeights, weights: NDArray[Any]) -> NDArray[Any]:
    """Return the weighted sums of input rows, in the type of the weights."""
    after, last = len(axis.first), len(rows) - 1
    found = np.zeros((after, rows.shape[1]), weights.dtype)
    for start in range(0, after, _ROWS):
        some = slice(start, start + _ROWS)
        for number, weight in enumerate(weights[:, some]):
            taken = rows[np.clip(axis.first[some] + number, 0, last)]
            found[some] += np.multiply(taken, weight[:, None], dtype=weights.dtype)
    return found
