"""Scalars are rounded to float32 once, on the host.

Every hyperparameter passes through here before a backend sees it. For b in [0.5, 1] the difference
1 - b of a float32 number is exact in float32 and in float64 (Sterbenz, 1974), so float32 kernels and
float64 references compute with the very same numbers.
"""

from __future__ import annotations

import numpy as np


def to_float32(value: float) -> float:
    """The float32 number nearest to `value`, as a Python float."""
    return float(np.float32(value))
