"""The relative distance of two results, which all checks use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def difference(
    received: NDArray[Any] | float, expected: NDArray[Any] | float, scale: float = 1e-300
) -> float:
    """Return the norm of the difference over the norm of `expected`; infinite if shapes differ or for NaN.

    Args:
        received: An array or a number.
        expected: The array or number to compare with.
        scale: The least norm to divide by, for arrays that are 0 except for rounding.
    """
    a, b = np.asarray(received, np.float64), np.asarray(expected, np.float64)
    if a.shape != b.shape:
        return float("inf")
    distance = float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), scale)
    return distance if distance == distance else float("inf")


def differences(
    received: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]], share: float = 0.0
) -> dict[str, float]:
    """Return the difference of each array by its name; it is infinite if one side lacks the array.

    Args:
        received: Arrays by name.
        expected: The arrays to compare with.
        share: The least norm to divide by, as a share of the largest array's norm.
    """
    scale = share * max((float(np.linalg.norm(array)) for array in expected.values()), default=0.0)
    names = [*expected, *(name for name in received if name not in expected)]
    return {
        name: difference(received[name], expected[name], max(scale, 1e-300))
        if name in received and name in expected
        else float("inf")
        for name in names
    }
