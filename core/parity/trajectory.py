"""What runs in a backend's process: models that take one step after another when they are told to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.contract import Array, Implementation, KeepMasks, Model, Precision, State
from core.plan import Plan
from core.randomness import words
from core.rules import Rules, StepScalars

_models: dict[str, Model] = {}  # of this process, by the name of their run


@dataclass(frozen=True)
class Step:
    """What one training step came to: the loss before it, its gradients, and all arrays after it."""

    loss: float
    gradients: State
    state: State


def begin(
    implementation: Implementation, run: str, plan: Plan, rules: Rules, precision: Precision, state: State
) -> None:
    """Compile a model for the run called `run`, with the given arrays."""
    model = implementation.compile(plan, rules, "cpu", precision)
    model.load_state(state)
    _models[run] = model


def advance(
    implementation: Implementation,
    run: str,
    images: Array,
    masks: Array,
    scalars: StepScalars,
    keep: KeepMasks,
) -> Step:
    """One step of a run that was begun."""
    del implementation
    model = _models[run]
    _, gradients = model.gradients(images, masks, keep)
    loss = float(model.train_step(images, masks, scalars, keep))
    return Step(loss, gradients, model.state())


def nudged(state: State, seed: int, number: int) -> State:
    """The arrays with every element moved by one unit in its last place, up or down by lot."""
    moved = {}
    for name, array in state.items():
        lots = words(seed, "nudge", number, name, count=array.size).reshape(array.shape)
        towards = np.where(lots & np.uint64(1), np.inf, -np.inf).astype(array.dtype)
        moved[name] = np.nextafter(array, towards)
    return moved
