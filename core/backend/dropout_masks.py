"""Draw dropout masks on the host, so that every backend gets the same ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.base.randomness import dropout_mask
from core.network.plan import Plan


def draw_dropout_masks(
    plan: Plan, seed: int, step: int, count: int, first: int = 0
) -> dict[str, NDArray[np.uint8]]:
    """Draw a mask (count, h, w, c) in {0, 1} for each `Dropout` of the plan, keyed by seed, name and step.

    They are the masks of `count` images of the batch, from the place `first` on.
    """
    return {
        op.name: dropout_mask(
            seed,
            "dropout",
            op.name,
            step,
            shape=(count, op.output.height, op.output.width, op.output.channels),
            rate=op.rate,
            start=first,
        )
        for op in plan.dropouts
    }
