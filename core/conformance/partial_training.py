"""Checks of frozen blocks, of rates by block, and of the moving average of the arrays.

The numbers are compared with the reference's. What must stay of a frozen block has to stay bit for bit. The
average is also compared with its formula, written out here, of the arrays after each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core.backend.contract import Precision
from core.backend.state import average_name
from core.backend.trained_part import trained_part
from core.conformance.cases import Case, Nonconformity, make_case, require_agreement
from core.conformance.suite import BackendCaller, Check
from core.conformance.training import train
from core.tolerance.budget import ArraysByKind, budget_floor
from core.tolerance.differences import difference

_BLOCKS: list[dict[str, Any]] = [
    {"name": "down_1", "kind": "conv", "filters": 4},
    {"name": "down_2", "kind": "conv", "filters": 5},
    {"name": "up", "kind": "transpose", "filters": 3},
    {"name": "mask", "kind": "output", "skip": "down_1"},
]
_RESIDUAL: list[dict[str, Any]] = [
    {"name": "stem", "kind": "conv", "filters": 6, "stride": 1, "order": "norm_activation"},
    {"name": "first", "kind": "residual", "form": "basic", "filters": 4},
    {"name": "mask", "kind": "output", "stride": 1},
]
_ADAMW: dict[str, Any] = {"name": "adamw", "weight_decay": 0.5}
_SGD: dict[str, Any] = {"name": "sgd", "learning_rate": 0.2, "weight_decay": 0.5, "nesterov": True}


def partial_training_checks() -> list[Check]:
    """Return the checks."""
    first = _case(_BLOCKS, {"freeze": ["down"], "optimizer": _SGD, "clip_norm": 0.05})
    middle = _case(_BLOCKS, {"freeze": ["mask", "down_2"], "optimizer": _ADAMW, "clip_norm": 0.05})
    residual = _case(_RESIDUAL, {"freeze": ["first"]})
    rated = _case(_BLOCKS, {"rates": {"down": 0.1, "mask": 3.0}, "optimizer": _ADAMW})
    averaged = _case(_BLOCKS, {"ema": {"decay": 0.25}, "freeze": ["up"]})
    return [
        _check("frozen blocks", "the first ones", first, "float64", _stays),
        _check("frozen blocks", "the output and one in the middle", middle, "float32", _stays),
        _check("frozen blocks", "the output and one in the middle", middle, "float64", _stays),
        _check("frozen blocks", "a residual block", residual, "float32", _stays),
        _check("rates by block", "of AdamW, with its decay", rated, "float64"),
        _check("moving average", "of trained and of frozen blocks", averaged, "float32", _averages),
    ]


def _case(blocks: list[dict[str, Any]], training: dict[str, Any]) -> Case:
    settings = {"momentum": 0.6, "epsilon": 0.01}
    return make_case(blocks, 12, 16, batches=(3, 3, 3), training=training, batch_norm_settings=settings)


def _check(
    subject: str,
    name: str,
    case: Case,
    precision: Precision,
    also: Callable[[Case, Sequence[ArraysByKind]], None] = lambda *_: None,
) -> Check:
    """Return the check that the arrays of each step are the reference's, and that `also` holds of them."""

    def run(backend: BackendCaller) -> None:
        received = backend.call(train, case, precision)
        require_agreement(train, received, case, precision)
        also(case, received)

    return Check(subject, name, precision, run)


def _stays(case: Case, steps: Sequence[ArraysByKind]) -> None:
    trained = trained_part(case.plan, case.rules)
    moving = [array.name for array in trained.parameters] + [array.name for array in trained.statistics]
    after = {name: array for kind in steps[-1].values() for name, array in kind.items()}
    for name, array in case.state.items():
        if not name.endswith(tuple(moving)) and not np.array_equal(after[name], array):
            raise Nonconformity(f"relative difference: {name} of a frozen block has changed")


def _averages(case: Case, steps: Sequence[ArraysByKind]) -> None:
    """Check e = d * e + (1 - d) * w with d = min(decay, (1 + step) / (10 + step)), in float64."""
    decay, allowed = case.rules.average_decay or 0.0, budget_floor("weight", "float32")
    averages = {array.name: case.state[average_name(array.name)].astype(float) for array in case.plan.arrays}
    for step, kinds in enumerate(steps, start=1):
        state = {**kinds["weight"], **kinds["statistic"], **kinds["moment"]}
        d = min(decay, (1 + step) / (10 + step))
        for name, average in averages.items():
            averages[name] = d * average + (1 - d) * state[name]
            far = difference(state[average_name(name)], averages[name])
            if not far < allowed:
                what = f"the average of {name} at step {step}"
                raise Nonconformity(f"relative difference of {what}: {far:.1e}, allowed {allowed:g}")
