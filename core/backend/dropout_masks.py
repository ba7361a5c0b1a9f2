"""Dropout masks drawn on the host: the same on every backend, whatever its own generator does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.base.randomness import dropout_mask
from core.network.plan import Plan


def draw_dropout_masks(plan: Plan, seed: int, step: int, count: int) -> dict[str, NDArray[np.uint8]]:
    """For each `Dropout` of the plan a mask (count, h, w, c) in {0, 1}, keyed by seed, name and step."""
    return {
        op.name: dropout_mask(
            seed,
            "dropout",
            op.name,
            step,
            shape=(count, op.output.height, op.output.width, op.output.channels),
            rate=op.rate,
        )
        for op in plan.dropouts
    }
