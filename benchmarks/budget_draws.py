"""How often the budget of a float32 certificate would condemn an honest run.

    python -m benchmarks.budget_draws FILE [--config fcn] [--steps 12] [--draws 24] [--batch-size 3]

The reference trains in float64 on a data file, beside many copies of it whose numbers are perturbed as
float32 would round them (`core.tolerance.budget`), by 2 units in the last place. Again and again some of the
copies make a budget, and the others are judged by it. Printed is the share of these that leave it at any
step, by the number of copies in the budget and by the factor of jumps. It should be small. It need not be 0,
as rounding moves a number by half a unit: a backend takes the other side of a kink less often than a copy.
All copies are trained one after the other, on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.reference.model import compile_reference
from benchmarks.steps import opened_training
from core.backend.state import initial_state
from core.experiment.configuration import Configuration, load_configuration
from core.parity.measures import KINDS, RunComparer
from core.parity.trajectory import Run
from core.tolerance.budget import DRAWS, LONG_RUN_DRAWS, SMOOTH_DRAWS, budget_floor

FACTORS = (3.0, 4.5, 6.0, 9.0)
REPETITIONS = 300


def distances(
    configuration: Configuration, path: Path, steps: int, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance of each copy from the reference, and the part of a budget that is always allowed.

    Returns:
        (steps, draws, arrays), relative to each array's scale; and (arrays,), the floors.
    """
    with opened_training(configuration, path, steps) as (plan, rules, prepared):
        state = initial_state(plan, rules, configuration.training.seed)
        numbers = [None, *range(SMOOTH_DRAWS, SMOOTH_DRAWS + draws)]
        truth, *copies = (
            Run(compile_reference(plan, rules, "float32", number), plan, rules, state) for number in numbers
        )
        comparer = RunComparer(plan, "float32")
        found: list[Any] = []
        for step, (batch, scalars, keep) in enumerate(prepared, start=1):
            for run in (truth, *copies):
                run.advance(batch.images, batch.masks, scalars, keep)
            of_step: list[list[float]] = [[] for _ in copies]
            floors: list[float] = []
            for kind in KINDS:
                reference = truth.arrays(kind)
                comparer.advance(kind, reference, [])
                for of_copy, run in zip(of_step, copies, strict=True):
                    of_copy += [one.value for one in comparer.measure(kind, run.arrays(kind)).values()]
                floors += [budget_floor(kind, "float32")] * len(reference)
            found.append(of_step)
            print(f"step {step} of {steps}", flush=True)
    return np.array(found), np.array(floors)


def share_that_leaves(
    found: NDArray[np.float64], floors: NDArray[np.float64], copies: int, factor: float
) -> tuple[float, float]:
    """Return how often a copy leaves the budget that `copies` others make, and the largest share of it."""
    random, pairs = np.random.default_rng(0), found.shape[1] // 2
    largest = np.maximum.accumulate(found, axis=0)
    shares: list[float] = []
    for _ in range(REPETITIONS):
        order = random.permutation(pairs)
        inside, outside = (
            [2 * pair + sign for pair in some for sign in (0, 1)]
            for some in (order[: copies // 2], order[copies // 2 :])
        )
        budget = factor * largest[:, inside].max(axis=1) + floors
        shares += [float((found[:, copy] / budget).max()) for copy in outside]
    return float(np.mean(np.array(shares) > 1)), max(shares)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--config", type=Path, default=Path("fcn"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=3)
    options = parser.parse_args()
    overrides = [f"training.batch_size={options.batch_size}", "training.precision=float32"]
    configuration = load_configuration(options.config, overrides)
    found, floors = distances(configuration, options.data, options.steps, options.draws)
    print("copies in the budget   factor   others that leave it   largest share of it")
    for copies in (DRAWS - SMOOTH_DRAWS, LONG_RUN_DRAWS - SMOOTH_DRAWS):
        for factor in FACTORS:
            leave, largest = share_that_leaves(found, floors, copies, factor)
            print(f"{copies:20d}   {factor:6.1f}   {leave:20.3f}   {largest:19.2f}")


if __name__ == "__main__":
    main()
