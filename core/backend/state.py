"""The arrays of a model: their names, shapes and initial values.

Every backend keeps exactly these arrays. Loaded arrays are checked here: an error names each array that is
missing, unknown or of a wrong shape.

    <block>/kernel, /bias, /gamma, /beta             parameters
    <block>/moving_mean, /moving_variance            running statistics
    optimizer/<slot>/<parameter>                     the optimiser's moments, one for each slot of its rule
    optimizer/average/<array>                        the moving averages of parameters and statistics, if any
    loss_scale/scale, /good_steps, /skipped_steps    (1,) each, if the rules scale the loss

Kernels are (kh, kw, in, out) for convolutions and (kh, kw, out, in) for transposed ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from core.backend.training_rules import TrainingRules
from core.base.errors import UserError
from core.base.randomness import uniform
from core.network.plan import Constant, Parameter, Plan, Statistic

ArrayKind: TypeAlias = Literal["statistic", "loss", "gradient", "update", "weight", "moment", "prediction"]
"""The role of an array in a training step or a prediction."""

_SLOTS, _AVERAGE = "optimizer/", "average"

LOSS_SCALE, GOOD_STEPS, SKIPPED_STEPS = (
    "loss_scale/scale",
    "loss_scale/good_steps",
    "loss_scale/skipped_steps",
)
"""The scale, the updates without an overflow since it changed, and the skipped updates of the run."""

LOSS_SCALE_ARRAYS = (LOSS_SCALE, GOOD_STEPS, SKIPPED_STEPS)


def slot_name(slot: str, parameter: str) -> str:
    """Return the name of the optimiser's array `slot` of a parameter."""
    return f"{_SLOTS}{slot}/{parameter}"


def slot_of(name: str) -> str:
    """Return the slot of one of the optimiser's arrays; each array of the loss scale is its own."""
    return name.removeprefix(_SLOTS).split("/")[0] if name.startswith(_SLOTS) else name


def average_name(array: str) -> str:
    """Return the name of the moving average of a parameter or a running statistic."""
    return slot_name(_AVERAGE, array)


def averaged_state(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the state with every array replaced by its moving average, where there is one."""
    return {name: state.get(average_name(name), array) for name, array in state.items()}


def prediction_state(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return `averaged_state` without the optimiser's arrays: the state under `prediction_rules`."""
    moments = by_kind(state)["moment"]
    return {name: array for name, array in averaged_state(state).items() if name not in moments}


def state_shapes(plan: Plan, rules: TrainingRules) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array by its name, in a fixed order."""
    shapes = {array.name: array.shape for array in plan.arrays}
    for slot in rules.optimizer.slots:
        shapes |= {slot_name(slot, parameter.name): parameter.shape for parameter in plan.parameters}
    if rules.average_decay is not None:
        shapes |= {average_name(array.name): array.shape for array in plan.arrays}
    if rules.loss_scale is not None:
        shapes |= dict.fromkeys(LOSS_SCALE_ARRAYS, (1,))
    return shapes


def by_kind(state: Mapping[str, NDArray[Any]]) -> dict[ArrayKind, dict[str, NDArray[Any]]]:
    """Split a state into running statistics, weights and moments, each in the state's order.

    The loss scale's arrays belong to the optimiser, so they count as moments.
    """
    found: dict[ArrayKind, dict[str, NDArray[Any]]] = {"statistic": {}, "weight": {}, "moment": {}}
    for name, array in state.items():
        kind: ArrayKind = "weight"
        if name.startswith(_SLOTS) or name in LOSS_SCALE_ARRAYS:
            kind = "moment"
        elif name.endswith(("/moving_mean", "/moving_variance")):
            kind = "statistic"
        found[kind][name] = array
    return found


def initial_state(
    plan: Plan, rules: TrainingRules, seed: int, given: Mapping[str, NDArray[np.float32]] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Return the state before the first step, in float32.

    Each kernel has a random stream keyed by the seed and its own name, so an additional block does not change
    the weights of other blocks. Moments are 0, and a moving average is its array.

    Args:
        plan: The network.
        rules: The rules of training.
        seed: The seed of the random weights.
        given: Weights and statistics to begin with in place of these; None for none.
    """
    state = {array.name: _initial(array, seed) for array in plan.arrays} | dict(given or {})
    state |= {average_name(name): array.copy() for name, array in state.items()}
    if rules.loss_scale is not None:
        state[LOSS_SCALE] = np.full(1, rules.loss_scale.initial, np.float32)
    shapes = state_shapes(plan, rules)
    return {
        name: state[name] if name in state else np.zeros(shape, np.float32) for name, shape in shapes.items()
    }


def check_state(
    received: Mapping[str, NDArray[np.generic]],
    expected: Mapping[str, tuple[int, ...]],
    source: str = "state",
) -> None:
    """Raise if arrays are missing, unknown, of another shape or not floats.

    Raises:
        UserError: The message names `source` and the arrays.
    """
    if missing := expected.keys() - received.keys():
        raise UserError(f"{source}: missing {_some(missing)}")
    if extra := received.keys() - expected.keys():
        raise UserError(f"{source}: unknown {_some(extra)}; the network has no such array")
    for name, shape in expected.items():
        if tuple(received[name].shape) != shape:
            raise UserError(f"{source}: {name} has shape {tuple(received[name].shape)}, expected {shape}")
        if received[name].dtype.kind != "f":
            raise UserError(f"{source}: {name} has type {received[name].dtype}, expected a float")


def _initial(array: Parameter | Statistic, seed: int) -> NDArray[np.float32]:
    if isinstance(array.initial, Constant):
        return np.full(array.shape, array.initial.value, np.float32)
    drawn = uniform(seed, "weights", array.name, shape=array.shape)
    return ((2.0 * drawn - 1.0) * array.initial.bound).astype(np.float32)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more
