"""What distances are divided by: arrays that are 0 but for rounding are not compared by it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.backend.state import ArrayKind
from core.tolerance.budget import ArraysByKind, Budget


def floor(kind: ArrayKind) -> float:
    del kind
    return 1e-9


def test_arrays_that_are_zero_but_for_rounding_are_not_compared_by_it() -> None:
    rng = np.random.default_rng(4)
    large, noise, other = (
        rng.standard_normal(8),
        1e-17 * rng.standard_normal(8),
        1e-17 * rng.standard_normal(8),
    )
    budget = Budget(floor)

    def arrays(zero: NDArray[Any]) -> ArraysByKind:
        return {
            "statistic": {"a/moving_mean": zero, "a/moving_variance": np.full(8, 0.25)},
            "moment": {"optimizer/m/a": large, "optimizer/m/b": zero, "optimizer/v/b": 1e-9 * zero,
                       "optimizer/v/a": large**2},
        }  # fmt: skip

    budget.advance(arrays(noise))
    for found in budget.distances(arrays(other)).values():
        assert all(distance.share < 1e-2 for distance in found.values())
    # The same arrays are compared where they are not 0: a mean of a hundredth of the standard deviation.
    budget.advance(arrays(0.005 * large))
    moved = budget.distances(arrays(0.005 * large * (1 + 1e-8)))
    assert moved["statistic"]["a/moving_mean"].share > 5
    assert moved["moment"]["optimizer/m/b"].share > 5


def test_a_zero_mean_s_scale_is_that_of_its_own_layer() -> None:
    zeros = {"moving_mean": np.zeros(4), "moving_variance": np.full(4, 1e-8)}
    layers = {f"a/{name}": array for name, array in zeros.items()} | {"b/moving_variance": np.ones(4)}
    budget = Budget(floor)
    budget.advance({"statistic": layers})
    moved = budget.distances({"statistic": {**layers, "a/moving_mean": np.full(4, 1e-15)}})
    assert moved["statistic"]["a/moving_mean"].share > 5
