"""Changing the size of radiographs and masks.

Promises: every output pixel of a shrunk axis is the exact average of the area it covers, fractions
of input pixels included, so nothing aliases (plain bilinear at 1024 -> 384 skips pixels). An
enlarged axis is interpolated linearly between pixel centres. Values stay within [0, 1], masks
within {0, 1}.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

MASK_THRESHOLD = 0.5
"""A mask pixel is set when at least this part of its area was set."""


def resize_image(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resize a radiograph.

    Args:
        pixels: (h, w) float32 in [0, 1].
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width) float32 in [0, 1], C order; a copy even if the size is the same.
    """
    rows, columns = pixels.shape
    # One axis at a time when their directions differ: cv2.INTER_AREA silently becomes bilinear on
    # *both* axes as soon as one of them grows, and then the shrinking one aliases.
    if (height > rows) != (width > columns):
        first = (rows, width) if width <= columns else (height, columns)
        pixels = _resize(pixels, *first)
    resized = _resize(pixels, height, width)
    return np.clip(resized, 0, 1)  # weights in float32 can sum to 1 + 1e-7


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


def _resize(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Both axes at once, neither going against the other."""
    rows, columns = pixels.shape
    grows = height > rows or width > columns
    method = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    resized: NDArray[np.float32] = cv2.resize(pixels, (width, height), interpolation=method)
    return resized
