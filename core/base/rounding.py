"""Numbers are rounded in two places: scalars once, on the host, and the operands of mixed precision.

Every hyperparameter passes through `to_float32` before a backend sees it. For b in [0.5, 1] the difference
1 - b of a float32 number is exact in float32 and in float64 (Sterbenz, 1974), so float32 kernels and
float64 references compute with the very same numbers.

`to_bfloat16` is what "mixed_bfloat16" (`core.backend.training_rules`) means by rounding, bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_QUIET = np.uint32(0x00400000)


def to_float32(value: float) -> float:
    """The float32 number nearest to `value`, as a Python float."""
    return float(np.float32(value))


def to_bfloat16(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bfloat16 numbers nearest to those of an array, as float32 numbers again.

    Bfloat16 is the upper half of a float32: sign, 8 bits of exponent and 7 of the 23 bits of fraction.
    Of two that are equally near the even one is taken (IEEE 754-2019, roundTiesToEven). From
    2**127 * (2 - 2**-8) on numbers become infinite; subnormal ones are rounded as others are; NaN stays NaN.
    """
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    # What is added to a NaN could carry over into its sign, and cut off it could become infinite.
    rounded = np.where(np.isnan(array), bits | _QUIET, bits + half) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)
