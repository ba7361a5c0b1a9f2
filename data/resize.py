"""Changing the size of radiographs and masks.

Promises: every output pixel of a shrunk axis is the exact average of the area it covers, fractions
of input pixels included, so nothing aliases (plain bilinear at 1024 -> 384 skips pixels). An
enlarged axis is interpolated linearly between pixel centres. Values stay within [0, 1], masks
within {0, 1}. The same input gives the same output on any number of threads.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
from numpy.typing import NDArray

MASK_THRESHOLD = 0.5
"""A mask pixel is set when at least this part of its area was set."""

_LONGEST_BLOCK = 32  # input pixels; beyond it, multiplying by mostly zeros is slower than OpenCV


def resize_image(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize a radiograph.

    Args:
        pixels: (h, w) float32 in [0, 1].
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width) float32 in [0, 1], C order; a copy even if the size is the same.
    """
    resized = _resize_rows(pixels, height)
    resized = _resize_columns(resized, width)
    # Weights in float32 can sum to 1 + 1e-7. This also copies.
    return np.clip(resized, 0, 1)


def resize_mask(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a mask: by area, then set where at least half of the area was set.

    Args:
        mask: (h, w) uint8 in {0, 1}.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width) uint8 in {0, 1}.
    """
    area = resize_image(mask.astype(np.float32), height, width)
    # The tolerance is the rounding of float32 sums: exactly half stays set.
    return (area >= MASK_THRESHOLD - 1e-6).astype(np.uint8)


def _resize_rows(pixels: NDArray[np.float32], height: int) -> NDArray[np.float32]:
    rows, columns = pixels.shape
    weights = _block_weights(rows, height)
    if weights is None:
        return _resize(pixels, height, columns)
    blocks = pixels.reshape(-1, weights.shape[1], columns)
    resized: NDArray[np.float32] = np.matmul(weights, blocks).reshape(height, columns)
    return resized


def _resize_columns(pixels: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    rows, columns = pixels.shape
    weights = _block_weights(columns, width)
    if weights is None:
        return _resize(pixels, rows, width)
    # A stack of small products, row by row: none is large enough for BLAS to start threads.
    blocks = pixels.reshape(rows, -1, weights.shape[1])
    resized: NDArray[np.float32] = np.matmul(blocks, weights.T).reshape(rows, width)
    return resized


@functools.lru_cache(maxsize=64)
def _block_weights(before: int, after: int) -> NDArray[np.float32] | None:
    """The averages of an axis, which repeat themselves: 1024 -> 384 is 128 times 8 -> 3.

    Returns:
        (q, p) float32: the share of each of p input pixels in each of q output pixels; each row sums
        to 1. None where that does not pay: an axis that grows or stays, or a long block.
    """
    common = math.gcd(before, after)
    p, q = before // common, after // common
    if p <= q or p > _LONGEST_BLOCK:
        return None
    starts, ends = (np.arange(q)[:, None] * p / q, np.arange(1, q + 1)[:, None] * p / q)
    left = np.arange(p)
    overlap = np.minimum(ends, left + 1) - np.maximum(starts, left)
    weights: NDArray[np.float32] = (np.clip(overlap, 0, None) * q / p).astype(np.float32)
    weights.setflags(write=False)  # it is shared
    return weights


def _resize(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """One axis: cv2.INTER_AREA is bilinear on *both* as soon as one of them grows, and then aliases."""
    if pixels.shape == (height, width):
        return pixels
    grows = height > pixels.shape[0] or width > pixels.shape[1]
    method = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    resized: NDArray[np.float32] = cv2.resize(pixels, (width, height), interpolation=method)
    return resized
