"""The image that a network gets of a radiograph.

Preprocessing, `predict` and the Python interface all make it here, so that a network meets in prediction what
it was trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.radiographs.clahe import Clahe, equalize
from data.radiographs.resize import resize_image


def network_image(
    pixels: NDArray[np.float32] | NDArray[np.unsignedinteger[Any]],
    height: int,
    width: int,
    full: float,
    clahe: Clahe | None,
) -> NDArray[np.float32]:
    """Resize a radiograph, then equalise it if its network was trained on equalised images.

    Args:
        pixels: (h, w) float32 or unsigned integers in [0, full].
        height: Rows of the result.
        width: Columns of the result.
        full: The value that becomes 1.
        clahe: The equalisation; None for none.

    Returns:
        (height, width) float32 in [0, 1], C order.
    """
    resized = resize_image(pixels, height, width, full)
    return resized if clahe is None else equalize(resized, clahe)
