"""Checks of the existence head: its loss, its gradients, its probabilities and its export.

A backend without the head refuses them all. The blocks that may be its source have equally many channels, so
that reading the wrong one is a difference of numbers. Some images have no positive pixel, one has a single
one, and the labels of neighbouring images differ.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np

from core.backend.contract import Array, ExistenceModel, Implementation, Precision
from core.backend.training_rules import LossScaleRule
from core.conformance.cases import (
    Case,
    Nonconformity,
    all_results,
    make_case,
    require_agreement,
    with_loss_scale,
)
from core.conformance.mixed import agreement_when_rounded
from core.conformance.random_networks import random_case
from core.conformance.suite import BackendCaller, Check
from core.tolerance.differences import difference

SUBJECT = "existence head"
RANDOM_NETWORKS = 3
_PRECISIONS: tuple[Precision, ...] = ("float64", "float32")
_EXPORTED = 1e-5
"""Largest difference of an exported file's existence probabilities, which are float32."""

_CHANNELS = 20  # mixed precision looks at the median of arrays of 16 or more elements
_BLOCKS: list[dict[str, Any]] = [
    {"name": "wide", "kind": "conv", "filters": _CHANNELS, "stride": 1},
    {"name": "down", "kind": "conv", "filters": _CHANNELS},
    {"name": "deep", "kind": "pointwise", "filters": _CHANNELS},
    {"name": "mask", "kind": "output"},
]


def existence_checks() -> list[Check]:
    """Return all checks of the head."""
    weighted = existence_case()
    dropped = existence_case(batches=(4, 3), source="deep", dropout=0.4)
    cases = [
        ("its weight, in batches of 4, 1 and 3", with_loss_scale(weighted, LossScaleRule(growth_interval=2))),
        ("the output of a larger block", existence_case(batches=(3,), source="wide")),
        ("dropout and a block that others read", dropped),
        ("blocks that only the head reads, squeezes and pools", _branched()),
        *((f"a logit of {logit:g}", _logits_of(logit)) for logit in (1e4, -1e4)),
    ]
    return [
        *(_agreement(name, case, precision) for precision in _PRECISIONS for name, case in cases),
        agreement_when_rounded(SUBJECT, "its weight, in batches of 4, 1 and 3", weighted),
        agreement_when_rounded(SUBJECT, "dropout and a block that others read", dropped),
        *(
            _agreement(f"random network {seed}", random_case(seed, existence=True), "float64")
            for seed in range(RANDOM_NETWORKS)
        ),
        *(_export(precision) for precision in ("float32", "mixed_bfloat16", "mixed_float16")),
    ]


def existence_case(batches: tuple[int, ...] = (4, 1, 3), **head: Any) -> Case:
    """Return a case of several batches with the head; the keys are those of `network.existence`."""
    training = {"loss": {"bce": 0.5, "dice": 0.25, "existence": 2.5}}
    case = make_case(_BLOCKS, 9, 12, batches=batches, training=training, existence=head)
    _label(case)
    return case


def _label(case: Case) -> None:
    """Empty the masks of every other image, and leave a single pixel in that of the last one."""
    for number, (_, masks) in enumerate(case.batches):
        masks[number % 2 :: 2] = 0
        if number % 2 == 0:
            masks[-1], masks[-1, -1, 2] = 0, 1


def _branched() -> Case:
    """Return a case with a pool, a squeeze, and a branch that ends in the head."""
    blocks: list[dict[str, Any]] = [
        {"name": "first", "kind": "conv", "filters": 6, "stride": 1},
        {"name": "small", "kind": "pool", "kernel": 3, "padding": "symmetric"},
        {"name": "there", "kind": "residual", "form": "bottleneck", "filters": 6, "squeeze": 2},
        {"name": "branch", "kind": "conv", "filters": 5, "source": "small", "activation": "silu"},
        {"name": "joined", "kind": "pointwise", "filters": 3, "source": "there", "skip": "small"},
        {"name": "up", "kind": "upsample", "method": "bilinear"},
        {"name": "mask", "kind": "output", "stride": 1},
    ]
    case = make_case(blocks, 10, 14, existence={"source": "branch"})
    _label(case)
    return case


def _logits_of(logit: float) -> Case:
    """Return a case whose existence logits are all `logit`."""
    case = make_case(_BLOCKS, 5, 6, existence={})
    case.batches[0][1][1] = 0
    case.state["existence/kernel"][...], case.state["existence/bias"][...] = 0.0, logit
    return case


def _agreement(name: str, case: Case, precision: Precision) -> Check:
    def run(backend: BackendCaller) -> None:
        require_agreement(all_results, backend.call(all_results, case, precision), case, precision)

    return Check(SUBJECT, name, precision, run)


def _exported(
    implementation: Implementation, case: Case, precision: Precision, folder: Path
) -> tuple[Array, Array] | None:
    """Return the existence probabilities of the model and of its export; None if it has no loader."""
    model = cast(ExistenceModel, implementation.compile(case.plan, case.rules, "cpu", precision))
    model.load_state(case.state)
    images = case.batches[0][0]
    _, existence = model.predict_with_existence(images)
    model.export(folder, {"purpose": "conformance"})
    predict = getattr(implementation, "predict_exported", None)
    if predict is None:
        return None
    found = predict(folder, images)
    return existence, found[1] if isinstance(found, tuple) else np.zeros(0)


def _export(precision: Precision) -> Check:
    case = existence_case()

    def run(backend: BackendCaller) -> None:
        with tempfile.TemporaryDirectory() as folder:
            both = backend.call(_exported, case, precision, Path(folder) / "export")
        if both is None:
            return
        wanted, received = both
        if received.shape != wanted.shape or not difference(received, wanted) <= _EXPORTED:
            raise Nonconformity(f"the export gives existence probabilities {received}, the model {wanted}")

    return Check(SUBJECT, "the export has its probabilities", precision, run)
