"""The arrays of a model: their names, shapes and initial values.

Every backend keeps exactly these arrays. Loaded arrays are checked here: an error names each array that is
missing, unknown or of a wrong shape.

    <block>/kernel, /bias, /gamma, /beta             parameters
    <block>/moving_mean, /moving_variance            running statistics
    optimizer/<slot>/<parameter>                     the optimiser's moments, one for each slot of its rule
    optimizer/average/<array>                        the moving averages of parameters and statistics, if any

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


def slot_name(slot: str, parameter: str) -> str:
    """Return the name of the optimiser's array `slot` of a parameter."""
    return f"{_SLOTS}{slot}/{parameter}"


def slot_of(name: str) -> str:
    """Return the slot of one of the optimiser's arrays: the inverse of `slot_name`."""
    return name.removeprefix(_SLOTS).split("/")[0]


def average_name(array: str) -> str:
    """Return the name of the moving average of a parameter or a running statistic."""
    return slot_name(_AVERAGE, array)


def averaged_state(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the state with every array replaced by its moving average, where there is one."""
    return {name: state.get(average_name(name), array) for name, array in state.items()}


def state_shapes(plan: Plan, rules: TrainingRules) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array by its name, in a fixed order."""
    shapes = {array.name: array.shape for array in plan.arrays}
    for slot in rules.optimizer.slots:
        shapes |= {slot_name(slot, parameter.name): parameter.shape for parameter in plan.parameters}
    if rules.average_decay is not None:
        shapes |= {average_name(array.name): array.shape for array in plan.arrays}
    return shapes


def by_kind(state: Mapping[str, NDArray[Any]]) -> dict[ArrayKind, dict[str, NDArray[Any]]]:
    """Split a state into running statistics, weights and moments, each in the state's order."""
    found: dict[ArrayKind, dict[str, NDArray[Any]]] = {"statistic": {}, "weight": {}, "moment": {}}
    for name, array in state.items():
        kind: ArrayKind = "weight"
        if name.startswith(_SLOTS):
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
    averages = {average_name(name): array for name, array in state.items()}
    for name, shape in state_shapes(plan, rules).items():
        state.setdefault(name, averages[name].copy() if name in averages else np.zeros(shape, np.float32))
    return state


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
