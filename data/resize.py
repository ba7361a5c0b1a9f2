"""Changing the size of radiographs and masks.

Promises: every output pixel of a shrunk axis is the exact average of the area it covers, fractions
of input pixels included, so nothing aliases (plain bilinear at 1024 -> 384 skips pixels). An
enlarged axis is interpolated linearly between pixel centres. Values stay within [0, 1], masks
within {0, 1}. The same input gives the same output on any number of threads.

A shrunk axis is summed, not averaged: 1024 -> 384 is 128 times 8 -> 3, and an output pixel covers
whole thirds of input pixels. Counted in thirds, the sums of whole numbers are whole numbers, so they
are exact and fit into 16 bits; one division at the end makes averages of them, correctly rounded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

MASK_THRESHOLD = 0.5
"""A mask pixel is set when at least this part of its area was set."""

_LONGEST_BLOCK = 32  # input pixels; beyond it, so many sums of few pixels are slower than OpenCV


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
        full: What becomes 1.

    Returns:
        (height, width) float32 in [0, 1], C order; a copy even if the size is the same.
    """
    sums, parts = _sums(pixels, height, width, full)
    resized: NDArray[np.float32] = np.divide(sums, np.float32(full * parts), dtype=np.float32)
    # Sums in float32 can be 1e-7 too large.
    return resized if sums.dtype.kind == "u" else np.clip(resized, 0, 1, out=resized)


def resize_mask(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a mask: by area, then set where at least half of the area was set.

    Args:
        mask: (h, w) uint8 in {0, 1}.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width) uint8 in {0, 1}.
    """
    sums, parts = _sums(mask, height, width, 1)
    least = parts * (MASK_THRESHOLD - 1e-6)  # the rounding of sums in float32: exactly half stays set
    return (sums >= (least if sums.dtype.kind == "f" else math.ceil(least))).astype(np.uint8)


def _sums(pixels: NDArray[Any], height: int, width: int, full: float) -> tuple[NDArray[Any], int]:
    """Both axes resized: (height, width), C order, as sums of so many parts each, all of one weight."""
    parts = 1
    for after in (height, width):  # in the second round the columns are the rows
        block = _block(len(pixels), after)
        if block is None:
            pixels = _resize_rows(pixels.astype(np.float32, copy=False), after)
        else:
            parts *= block.length
            pixels = _sum_rows(pixels, block, _holding(pixels.dtype, full * parts))
        pixels = cv2.transpose(pixels)
    return pixels, parts


def _holding(kind: np.dtype[Any], greatest: float) -> type[np.number[Any]]:
    """A type for sums up to `greatest`; float32 holds whole numbers up to 2^24 exactly."""
    if kind.kind != "u" or greatest > np.iinfo(np.uint16).max:
        return np.float32
    return np.uint8 if greatest <= np.iinfo(np.uint8).max else np.uint16


class _Block(NamedTuple):
    """How a shrunk axis repeats itself: `length` pixels become as many as there are `sums`.

    Each sum adds up terms: a number of parts, and the pixels that give so many. A pixel has as many
    parts as there are sums, and a sum as many as there are pixels.
    """

    length: int
    sums: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]


@functools.lru_cache(maxsize=64)
def _block(before: int, after: int) -> _Block | None:
    """None where it does not pay: an axis that grows or stays, or a long block."""
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
    return _Block(p, tuple(sums))


def _sum_rows(pixels: NDArray[Any], block: _Block, kind: type[np.number[Any]]) -> NDArray[Any]:
    """The sums of the rows of each block, in a type that holds them."""
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
    """So many times the sum of some rows, all of it in the type of `out`."""
    total = rows[0]
    for row in rows[1:]:
        total = np.add(total, row, out=out, dtype=out.dtype)
    if count > 1 or total is not out:
        np.multiply(total, count, out=out, dtype=out.dtype)


def _resize_rows(pixels: NDArray[np.float32], height: int) -> NDArray[np.float32]:
    """One axis: cv2.INTER_AREA is bilinear on *both* as soon as one of them grows, and then aliases."""
    rows, columns = pixels.shape
    if rows == height:
        return pixels
    method = cv2.INTER_LINEAR if height > rows else cv2.INTER_AREA
    resized: NDArray[np.float32] = cv2.resize(pixels, (columns, height), interpolation=method)
    return resized
