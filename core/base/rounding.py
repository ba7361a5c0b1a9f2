"""Rounding of hyperparameters to float32, and of the operands of mixed precision to 16 bits.

Every hyperparameter passes through `to_float32` on the host before a backend gets it. For a float32 number b
in [0.5, 1], the difference 1 - b is exact in float32 and in float64 (Sterbenz, 1974). So float32 kernels and
float64 references compute with the same numbers.

`to_bfloat16` and `to_float16` define the roundings of "mixed_bfloat16" and "mixed_float16"
(`core.backend.training_rules`), bit for bit.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Half: TypeAlias = Literal["bfloat16", "float16"]
"""A type of numbers of 16 bits."""

_QUIET = np.uint32(0x00400000)


def to_float32(value: float) -> float:
    """Return the float32 number nearest to `value`, as a Python float."""
    return float(np.float32(value))


def to_bfloat16(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the bfloat16 numbers nearest to those of an array, as float32 numbers.

    Bfloat16 is the upper half of a float32: sign, 8 bits of exponent and 7 of the 23 bits of fraction. Of two
    equally near numbers the even one is taken (IEEE 754-2019, roundTiesToEven). Numbers from
    2**127 * (2 - 2**-8) become infinite. Subnormal numbers are rounded as others are. NaN stays NaN.
    """
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    # Adding to a NaN could change its sign, and cutting its bits off could make it infinite.
    rounded = np.where(np.isnan(array), bits | _QUIET, bits + half) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def to_float16(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the float16 numbers nearest to those of an array, as float32 numbers.

    Float16 is binary16 of IEEE 754-2019: sign, 5 bits of exponent and 10 of fraction. Of two equally near
    numbers the even one is taken. Numbers from 65,520 become infinite. Below 2**-14 the numbers are the
    multiples of 2**-24 (subnormal numbers). NaN stays NaN.
    """
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(np.float16).astype(np.float32)


def to_half(array: NDArray[np.float32], half: Half) -> NDArray[np.float32]:
    """Return the numbers of 16 bits nearest to those of an array, as float32 numbers."""
    return to_bfloat16(array) if half == "bfloat16" else to_float16(array)
