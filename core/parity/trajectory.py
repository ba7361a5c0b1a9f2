"""Training runs that advance step by step, and the functions that hold them in a backend's process.

The arrays of a run's last step are taken one kind after another, through a file that is mapped into memory.
A run goes to another process through a checkpoint file. All arrays at once, for each of a dozen runs, would
need more memory than the training itself.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from core.backend.contract import (
    Array,
    DropoutMasks,
    Implementation,
    Model,
    Precision,
    ReferenceImplementation,
    State,
    array_type,
    step_and_gradients,
)
from core.backend.state import ArrayKind, by_kind, initial_state
from core.backend.trained_part import trained_part
from core.backend.training_rules import StepScalars, TrainingRules
from core.experiment.checkpoint import Checkpoint, DataFacts, Progress, load_checkpoint, save_checkpoint
from core.experiment.configuration import Configuration
from core.network.plan import Plan

Batch = TypeVar("Batch")


def endless(epoch: Callable[[int], Iterable[Batch]]) -> Iterator[Batch]:
    """Yield the batches of epoch 1, 2 and so on; `epoch` returns those of an epoch."""
    return itertools.chain.from_iterable(map(epoch, itertools.count(1)))


class Run:
    """A model that is trained step by step, with the arrays of its last step.

    Args:
        model: The model, compiled from `plan` and `rules`.
        plan: The network.
        rules: The rules of training.
        state: The arrays to begin with.
    """

    def __init__(self, model: Model, plan: Plan, rules: TrainingRules, state: State) -> None:
        self._parameters = [parameter.name for parameter in plan.parameters]
        self._trained = [parameter.name for parameter in trained_part(plan, rules).parameters]
        self._model = model
        self._model.load_state(state)
        # Not from the model: a perturbed copy of the reference perturbs the weights that it begins with too,
        # and that belongs to the distance of its first update.
        self._before = {name: state[name] for name in self._parameters}
        self._loss: float = np.nan
        self._gradients: State = {}

    def advance(self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks) -> float:
        """Train one step; return the loss before it."""
        if self._gradients:  # this is not the first step
            self._before = self._only_parameters()
        self._loss, self._gradients = step_and_gradients(self._model, images, masks, scalars, keep)
        return self._loss

    def arrays(self, kind: ArrayKind) -> State:
        """Return the arrays of one kind: of the last step, or after it.

        Gradients come in the order in which they are computed, from the output to the input. An update is
        the difference of a parameter after and before the step.
        """
        if kind == "loss":
            return {"loss": np.array(self._loss)}
        if kind == "gradient":
            return {name: self._gradients[name] for name in reversed(self._trained)}
        if kind == "update":
            return {name: after - self._before[name] for name, after in self._only_parameters().items()}
        return by_kind(self._model.state())[kind]

    def state(self) -> State:
        """Return all arrays of the model."""
        return self._model.state()

    def _only_parameters(self) -> State:
        state = self._model.state()
        return {name: state[name] for name in self._parameters}


_runs: dict[str, Run] = {}  # the runs in this process, by name


def begin_run(
    implementation: Implementation,
    run: str,
    plan: Plan,
    rules: TrainingRules,
    precision: Precision,
    start: int | Path,
) -> None:
    """Begin a run called `run`: compile a model, and load its arrays.

    Args:
        implementation: The backend.
        run: Name of the run.
        plan: The network.
        rules: The rules of training.
        precision: Precision of the model.
        start: The seed of the initial weights, or a checkpoint file to continue from.
    """
    model = implementation.compile(plan, rules, "cpu", precision)
    _runs[run] = Run(model, plan, rules, _first_state(plan, rules, precision, start))


def begin_reference_run(
    implementation: Implementation,
    run: str,
    plan: Plan,
    rules: TrainingRules,
    precision: Precision,
    seed: int,
    draw: int | None,
) -> None:
    """Begin a run of the float64 reference; `draw` perturbs it (`core.tolerance.budget`), None does not."""
    model = cast(ReferenceImplementation, implementation).compile_reference(plan, rules, precision, draw)
    _runs[run] = Run(model, plan, rules, _first_state(plan, rules, precision, seed))


def _first_state(plan: Plan, rules: TrainingRules, precision: Precision, start: int | Path) -> State:
    if isinstance(start, Path):
        return load_checkpoint(start).arrays
    # In float64 the initial weights are the same float32 numbers.
    arrays = initial_state(plan, rules, start)
    return {name: array.astype(array_type(precision)) for name, array in arrays.items()}


def advance_run(
    implementation: Implementation,
    run: str,
    images: Array,
    masks: Array,
    scalars: StepScalars,
    keep: DropoutMasks,
) -> float:
    """Train one step of a run that was begun before; return the loss before the step."""
    del implementation
    return _runs[run].advance(images, masks, scalars, keep)


@dataclass(frozen=True)
class StoredArrays:
    """Arrays in a file, one after another, for a process that maps it: a pipe would copy them several times.

    Args:
        path: The file, in NumPy's format.
        shapes: Names and shapes of the arrays, in order.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def write(cls, path: Path, arrays: State) -> StoredArrays:
        """Write arrays of one type to a file."""
        np.save(path, np.concatenate([np.empty(0, np.float32), *(one.ravel() for one in arrays.values())]))
        return cls(path, {name: one.shape for name, one in arrays.items()})

    def take(self) -> State:
        """Return the arrays, mapped into memory, and delete the file: the disk need not see it."""
        flat = np.load(self.path, mmap_mode="r")
        with contextlib.suppress(PermissionError):  # Windows keeps a mapped file
            self.path.unlink()
        ends = itertools.accumulate(map(math.prod, self.shapes.values()))
        return {
            name: flat[end - math.prod(shape) : end].reshape(shape)
            for (name, shape), end in zip(self.shapes.items(), ends, strict=True)
        }


def store_arrays(implementation: Implementation, run: str, kind: ArrayKind, path: Path) -> StoredArrays:
    """Write the arrays of one kind after the last step, as `Run.arrays`, to a file."""
    del implementation
    return StoredArrays.write(path, _runs[run].arrays(kind))


def save_run(
    implementation: Implementation,
    run: str,
    path: Path,
    configuration: Configuration,
    data: DataFacts,
    step: int,
) -> None:
    """Write a run's checkpoint after `step` steps."""
    del implementation
    save_checkpoint(path, Checkpoint(configuration, data, Progress(step=step), _runs[run].state()))


def end_run(implementation: Implementation, run: str) -> None:
    """Forget a run, so that its memory is free."""
    del implementation
    del _runs[run]
