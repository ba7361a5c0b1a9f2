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
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Precision
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.registry import load_backend
from core.backend.state import initial_state
from core.backend.training_rules import step_scalars
from core.experiment.configuration import Configuration, load_configuration
from core.network.lowering import lower
from core.parity.trajectory import endless
from core.tasks.training_batches import training_batches
from core.tasks.validation_split import split_of
from core.tolerance.differences import difference
from core.training.schedules import learning_rate
from data.hdf5.store import Store

OTHER_SEED = "float64, other seed"
SHOWN = (1, 10, 25, 50, 100, 200, 400)


@dataclass(frozen=True)
class Run:
    """What is compared of a training: the loss of each step, all weights after it, the last probabilities."""

    losses: list[float]
    weights: list[NDArray[np.float64]]
    probabilities: NDArray[np.float64]


def train(name: str, configuration: Configuration, path: Path, precision: Precision, steps: int) -> Run:
    """Train a backend for some steps."""
    settings = configuration.training
    rules = settings.rules()
    with Store.open(path) as store:
        plan = lower(configuration.network, store.height, store.width)
        # The batches of one seed, whatever that of the weights.
        of_batches = settings.model_copy(update={"seed": 0})
        loader = training_batches(store, split_of(store, of_batches).training, of_batches)
        model = load_backend(name)[1].compile(plan, rules, "cpu", precision)
        model.load_state(initial_state(plan, rules, settings.seed))
        losses, weights = [], []
        for step, batch in enumerate(itertools.islice(endless(loader.epoch), steps), start=1):
            rate = learning_rate(settings, step, loader.batches)
            scalars = step_scalars(rules, step, rate, settings.optimizer.weight_decay)
            keep = draw_dropout_masks(plan, 0, step, len(batch.images))
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

    def configured(seed: int, precision: Precision) -> Configuration:
        of_run = (f"seed={seed}", f"precision={precision}", f"batch_size={arguments.batch_size}")
        return load_configuration(arguments.config, [f"training.{one}" for one in of_run])

    def run(seed: int, precision: Precision) -> Run:
        one = configured(seed, precision)
        return train(arguments.framework, one, arguments.file, precision, arguments.steps)

    base = run(0, "float64")
    found: dict[str, Mapping[str, Any]] = {}
    others = [(precision, 0, precision) for precision in get_args(Precision) if precision != "float64"]
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
