"""Functions that run in a backend's process: they begin runs and advance them step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

from core.backend.contract import (
    Array,
    DropoutMasks,
    Implementation,
    Model,
    Precision,
    ReferenceImplementation,
    State,
    step_and_gradients,
)
from core.backend.training_rules import StepScalars, TrainingRules
from core.network.plan import Plan

Batch = TypeVar("Batch")

_models: dict[str, Model] = {}  # the models in this process, by the name of their run


def endless(epoch: Callable[[int], Iterable[Batch]]) -> Iterator[Batch]:
    """Yield the batches of epoch 1, 2 and so on; `epoch` returns those of an epoch."""
    return itertools.chain.from_iterable(map(epoch, itertools.count(1)))


@dataclass(frozen=True)
class StepResult:
    """The results of one training step: the loss before it, its gradients, and all arrays after it."""

    loss: float
    gradients: State
    state: State


def begin_run(
    implementation: Implementation,
    run: str,
    plan: Plan,
    rules: TrainingRules,
    precision: Precision,
    state: State,
) -> None:
    """Compile a model for the run called `run` and load the given arrays."""
    model = implementation.compile(plan, rules, "cpu", precision)
    model.load_state(state)
    _models[run] = model


def begin_reference_run(
    implementation: Implementation,
    run: str,
    plan: Plan,
    rules: TrainingRules,
    precision: Precision,
    state: State,
    draw: int | None,
) -> None:
    """Begin a run of the float64 reference; `draw` perturbs it (`core.tolerance.budget`), None does not."""
    model = cast(ReferenceImplementation, implementation).compile_reference(plan, rules, precision, draw)
    model.load_state(state)
    _models[run] = model


def advance_run(
    implementation: Implementation,
    run: str,
    images: Array,
    masks: Array,
    scalars: StepScalars,
    keep: DropoutMasks,
) -> StepResult:
    """Train one step of a run that was begun before."""
    del implementation
    model = _models[run]
    loss, gradients = step_and_gradients(model, images, masks, scalars, keep)
    return StepResult(loss, gradients, model.state())


def state_of_run(implementation: Implementation, run: str) -> State:
    """Return all arrays of a run that was begun before."""
    del implementation
    return _models[run].state()
