"""What runs in a backend's process: models that take one step after another when they are told to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

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

_models: dict[str, Model] = {}  # of this process, by the name of their run


@dataclass(frozen=True)
class StepResult:
    """What one training step came to: the loss before it, its gradients, and all arrays after it."""

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
    """Compile a model for the run called `run`, with the given arrays."""
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
    """The same for one of the judge's runs, moved as by `draw` (`core.tolerance.budget`)."""
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
    """One step of a run that was begun."""
    del implementation
    model = _models[run]
    loss, gradients = step_and_gradients(model, images, masks, scalars, keep)
    return StepResult(loss, gradients, model.state())
