"""Batches for the hand-written loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEARNING_RATE = 1e-3
LOSS_SCALE = 1024.0
"""In float16, where the framework brings no scale of its own."""


def batches(batch_size: int, size: int, count: int = 4) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return images (n, size, size, 1) of noise and masks of noise, both float32, as the loss needs them."""
    rng = np.random.default_rng(0)
    shape = (batch_size, size, size, 1)
    return [
        (rng.random(shape, dtype=np.float32), (rng.random(shape, dtype=np.float32) < 0.1).astype(np.float32))
        for _ in range(count)
    ]
