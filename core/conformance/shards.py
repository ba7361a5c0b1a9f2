"""Checks of batches in shards: a backend's updates equal the written-out sums of the reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from core.backend.contract import Array, Implementation, Precision
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.state import by_kind
from core.backend.trained_part import trained_part
from core.conformance.cases import Case, make_case, require_agreement
from core.conformance.suite import BackendCaller, Check
from core.distribution.exchange import ALONE
from core.distribution.host_engine import HostEngine
from core.distribution.shards import Shards
from core.distribution.step import ShardedUpdate
from core.tolerance.budget import ArraysByKind

_SHARDS, _IMAGES, _SEED = 3, 7, 11

_BLOCKS: list[dict[str, Any]] = [
    {"name": "down", "kind": "conv", "filters": 5},
    {"name": "middle", "kind": "pointwise"},
    {"name": "mask", "kind": "output"},
]


def shard_checks() -> list[Check]:
    """Return the checks, one in each precision that they are made in."""
    precisions: tuple[Precision, ...] = ("float32", "float64")
    name = f"{_SHARDS} shards of {_IMAGES} images, of 5 and of 2: the weighted sum of their derivatives"
    return [
        Check("shards", name, precision, partial(_agree, precision=precision)) for precision in precisions
    ]


def _agree(backend: BackendCaller, precision: Precision) -> None:
    training: dict[str, Any] = {
        "clip_norm": 0.5,
        "optimizer": {"name": "adamw"},
        "loss": {"bce": 1.0, "dice": 0.5},
    }
    if precision == "float64":
        training |= {"freeze": ["middle"], "rates": {"mask": 0.5}, "ema": {"decay": 0.9}}
    case = make_case(_BLOCKS, 18, 26, batches=(_IMAGES, 5, 2), dropout=0.3, training=training)
    require_agreement(_written_out, backend.call(_in_shards, case, precision), case, precision)


def _in_shards(implementation: Implementation, case: Case, precision: Precision) -> list[ArraysByKind]:
    """Train as `core.distribution` does; return the loss and all arrays of each step."""
    model = implementation.compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    engine = HostEngine(model, trained_part(case.plan, case.rules), precision, ALONE)
    update = ShardedUpdate(model, case.plan, Shards(_SHARDS, _IMAGES), engine, 0, _SEED)
    steps: list[ArraysByKind] = []
    for step, (images, masks) in enumerate(case.batches, start=1):
        loss = float(update(images, masks, len(images), case.scalars(step)))
        steps.append({**by_kind(model.state()), "loss": {"loss": np.array(loss)}})
    return steps


def _written_out(implementation: Implementation, case: Case, precision: Precision) -> list[ArraysByKind]:
    """Train by the formula alone: image i of a full batch of B belongs to shard i*S // B."""
    model = implementation.compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    trained = trained_part(case.plan, case.rules)
    steps: list[ArraysByKind] = []
    for step, (images, masks) in enumerate(case.batches, start=1):
        keep = draw_dropout_masks(case.plan, _SEED, step, len(images))
        shard_of = np.arange(len(images)) * _SHARDS // _IMAGES
        total: dict[str, Array] = {}
        for shard in np.unique(shard_of):
            rows = shard_of == shard
            found = model.differentiate(
                images[rows], masks[rows], {name: mask[rows] for name, mask in keep.items()}
            )
            parts = {**found.gradients, **found.statistics, "loss": np.array(found.loss)}
            for name, array in parts.items():
                total[name] = total.get(name, np.zeros_like(array)) + rows.mean() * array
        model.update(
            {parameter.name: total[parameter.name] for parameter in trained.parameters},
            {statistic.name: total[statistic.name] for statistic in trained.statistics},
            case.scalars(step),
        )
        steps.append({**by_kind(model.state()), "loss": {"loss": total["loss"]}})
    return steps
