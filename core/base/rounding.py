"""Rounding of hyperparameters to float32, and of the operands of products to fewer digits.

Every hyperparameter passes through `to_float32` on the host before a backend gets it. For a float32 number b
in [0.5, 1], the difference 1 - b is exact in float32 and in float64 (Sterbenz, 1974). So float32 kernels and
float64 references compute with the same numbers.

`to_bfloat16`, `to_float16` and `to_tf32` define the roundings of the precisions "mixed_bfloat16",
"mixed_float16" and "tf32" (`core.backend.training_rules`), bit for bit.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Half: TypeAlias = Literal["bfloat16", "float16"]
"""A type of numbers of 16 bits."""

Narrow: TypeAlias = Literal["bfloat16", "float16", "tf32"]
"""A type with fewer digits than float32."""

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
    return _without_last_bits(array, 16)


def to_tf32(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the TF32 numbers nearest to those of an array, as float32 numbers.

    TF32 has float32's sign and 8 bits of exponent, and 10 of its 23 bits of fraction (NVIDIA, 2020, "NVIDIA
    A100 Tensor Core GPU Architecture"). It is rounded as bfloat16 is: ties to even, NaN stays NaN.
    """
    return _without_last_bits(array, 13)


def to_float16(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the float16 numbers nearest to those of an array, as float32 numbers.

    Float16 is binary16 of IEEE 754-2019: sign, 5 bits of exponent and 10 of fraction. Of two equally near
    numbers the even one is taken. Numbers from 65,520 become infinite. Below 2**-14 the numbers are the
    multiples of 2**-24 (subnormal numbers). NaN stays NaN.
    """
    with np.errstate(over="ignore", under="ignore"):
        return array.astype(np.float16).astype(np.float32)


def to_narrow(array: NDArray[np.float32], narrow: Narrow) -> NDArray[np.float32]:
    """Return the numbers of a type nearest to those of an array, as float32 numbers."""
    match narrow:
        case "bfloat16":
            return to_bfloat16(array)
        case "float16":
            return to_float16(array)
        case "tf32":
            return to_tf32(array)


def _without_last_bits(array: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Round the last bits of the fraction away, to nearest, ties to even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    half = np.uint32(2 ** (count - 1) - 1) + ((bits >> np.uint32(count)) & np.uint32(1))
    # Adding to a NaN could change its sign, and cutting its bits off could make it infinite.
    rounded = np.where(np.isnan(array), bits | _QUIET, bits + half) & np.uint32(2**32 - 2**count)
    return rounded.view(np.float32)
