"""The bytes of a grey image as numbers in [0, 1]: a byte b is b / 255, divided in float32.

Images from a file of bytes can go to a device as bytes, a quarter of the size. There, a table of the 256
numbers gives the same bits as the division on the host; a device's own division need not.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Images: TypeAlias = NDArray[np.float32] | NDArray[np.uint8]
"""Numbers in [0, 1], or the bytes of such."""

WHITE = 255
"""The byte that is 1."""

LEVELS: NDArray[np.float32] = np.arange(WHITE + 1, dtype=np.float32) / np.float32(WHITE)
"""(256,) float32, the number of each byte."""
LEVELS.flags.writeable = False


def as_numbers(images: NDArray[Any]) -> NDArray[Any]:
    """Return images of bytes as numbers in float32, and others as they are.

    Args:
        images: uint8, or floats; any shape.
    """
    return LEVELS[images] if images.dtype == np.uint8 else images
