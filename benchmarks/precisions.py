"""How far each precision leads a training away from the one in float64.

    python -m benchmarks.precisions FILE [-f torch] [--config fcn] [--steps 50] [--batch-size 8] [--json FILE]

A backend trains the same network on the same batches of a data file in every precision that it has. After
some of the steps are printed: the relative differences of the loss and of all weights together from those in
float64, and in the last step that of the probabilities of a batch. A seed that differs is trained too, for
comparison: its weights begin elsewhere.

On a CPU all backends round by the same rule (`core.backend.training_rules`), as `run.py parity --precision P`
shows, so one of them stands for all. A GPU's kernels may round to TF32 in their own way.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.steps import opened_training
from core.backend.contract import Precision
from core.backend.registry import load_backend
from core.backend.state import initial_state
from core.base.precisions import PRECISIONS
from core.experiment.configuration import Configuration, load_configuration
from core.tolerance.differences import difference

OTHER_SEED = "float64, other seed"
SHOWN = (1, 10, 25, 50, 100, 200, 400)


@dataclass(frozen=True)
class Run:
    """What is compared of a training: the loss of each step, all weights after it, the last probabilities."""

    losses: list[float]
    weights: list[NDArray[np.float64]]
    probabilities: NDArray[np.float64]


def train(
    name: str, configuration: Configuration, path: Path, precision: Precision, steps: int, seed: int
) -> Run:
    """Train a backend for some steps from the first weights of a seed."""
    with opened_training(configuration, path, steps) as (plan, rules, prepared):
        model = load_backend(name)[1].compile(plan, rules, "cpu", precision)
        model.load_state(initial_state(plan, rules, seed))
        losses, weights = [], []
        for batch, scalars, keep in prepared:
            losses.append(float(model.train_step(batch.images, batch.masks, scalars, keep)))
            state = model.state()
            weights.append(np.concatenate([state[one.name].ravel() for one in plan.parameters], dtype=float))
        return Run(losses, weights, model.predict(batch.images).astype(np.float64))


def distances(run: Run, base: Run, steps: int) -> dict[str, Any]:
    """Return the relative differences of a run from another one, after the steps of `SHOWN`."""
    shown = [step for step in SHOWN if step <= steps]
    return {
        "steps": shown,
        "loss": [
            abs(run.losses[step - 1] - base.losses[step - 1]) / abs(base.losses[step - 1]) for step in shown
        ],
        "weights": [difference(run.weights[step - 1], base.weights[step - 1]) for step in shown],
        "probabilities": difference(run.probabilities, base.probabilities),
    }


def main() -> None:
    """Train in each precision; print the distances from float64."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="a data file")
    parser.add_argument("-f", "--framework", default="torch", metavar="NAME")
    parser.add_argument("--config", type=Path, default=Path("fcn"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    def run(seed: int, precision: Precision) -> Run:
        of_run = [f"training.precision={precision}", f"training.batch_size={arguments.batch_size}"]
        configuration = load_configuration(arguments.config, of_run)
        return train(arguments.framework, configuration, arguments.file, precision, arguments.steps, seed)

    base = run(0, "float64")
    found: dict[str, Mapping[str, Any]] = {}
    others = [(precision, 0, precision) for precision in PRECISIONS if precision != "float64"]
    for label, seed, precision in [*others, (OTHER_SEED, 1, "float64")]:
        found[label] = one = distances(run(seed, precision), base, arguments.steps)
        print(f"{label}: relative differences from float64")
        for key in ("loss", "weights"):
            pairs = zip(one["steps"], one[key], strict=True)
            print(f"  {key:14}" + ", ".join(f"step {step}: {value:.1e}" for step, value in pairs))
        print(f"  probabilities at the end: {one['probabilities']:.1e}", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
