"""How far two results are apart, measured in one way everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def difference(
    received: NDArray[Any] | float, expected: NDArray[Any] | float, scale: float = 1e-300
) -> float:
    """Norm of the difference over the norm of what is expected; infinite where shapes differ.

    Args:
        received: An array or a number.
        expected: What it is compared with.
        scale: Least norm to divide by: of something that is 0 but for rounding, only the rounding differs.
    """
    a, b = np.asarray(received, np.float64), np.asarray(expected, np.float64)
    if a.shape != b.shape:
        return float("inf")
    distance = float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), scale)
    return distance if distance == distance else float("inf")


def differences(
    received: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]], share: float = 0.0
) -> dict[str, float]:
    """The difference of each array by its name; an array that one side lacks is infinitely far.

    Args:
        received: Arrays by name.
        expected: What they are compared with.
        share: An array's norm counts as at least this share of the largest one's.
    """
    scale = share * max((float(np.linalg.norm(array)) for array in expected.values()), default=0.0)
    names = [*expected, *(name for name in received if name not in expected)]
    return {
        name: difference(received[name], expected[name], max(scale, 1e-300))
        if name in received and name in expected
        else float("inf")
        for name in names
    }
