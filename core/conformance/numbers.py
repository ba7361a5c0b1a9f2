"""Checks of the numbers: predictions, losses, gradients and training against the reference's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from core.backend.contract import Precision
from core.conformance.cases import (
    FLOAT64_TOLERANCE,
    Case,
    Nonconformity,
    all_results,
    case_of,
    make_case,
    reference_results,
    require_agreement,
    run_case,
)
from core.conformance.random_networks import random_case
from core.conformance.suite import BackendCaller, Check
from core.experiment.configuration import load_configuration
from core.tolerance.budget import budget_floor
from core.tolerance.differences import difference

PRECISIONS: tuple[Precision, ...] = ("float64", "float32")
DOWN_UP: list[dict[str, Any]] = [
    {"name": "down", "kind": "conv", "filters": 4},
    {"name": "mask", "kind": "output"},
]
RANDOM_NETWORKS = 24
_KERNELS = (1, 2, 3, 4, 5, 7)
_UNUSUAL = ((1, 8), (2, 5), (3, 8), (4, 6), (8, 7), (6, 4), (8, 8), (5, 7), (7, 4))  # kernel and stride


def number_checks() -> list[Check]:
    """Return the checks, those of single parts first."""
    checks = [*_geometry(), *_parts(), _many_pixels(), *_losses(), *_optimizer(), *_extremes()]
    return [*checks, *_short_batches(), *_random_networks(), *_networks()]


def agreement_check(
    subject: str, name: str, case: Case, precision: Precision, *, ties: bool = False
) -> Check:
    """Return the check that all results of a case agree with the reference's."""

    def run(backend: BackendCaller) -> None:
        received = backend.call(all_results, case, precision)
        require_agreement(all_results, received, case, precision, ties=ties)

    return Check(subject, name, precision, run)


def _geometry() -> list[Check]:
    """Return checks of kernels smaller than, equal to and larger than the stride, at various sizes."""
    sizes = {"conv": [(11, 14), (10, 13), (12, 9)], "transpose": [(3, 4), (4, 5), (5, 2)]}
    primes = {"conv": (17, 23), "transpose": (2, 3)}
    usual = [(kernel, stride) for kernel in _KERNELS for stride in (1, 2, 3)]
    checks = []
    for precision in PRECISIONS:
        for kernel, stride in (*usual, *_UNUSUAL):
            for kind, subject in (("conv", "convolution"), ("transpose", "transposed convolution")):
                among = (kernel, stride) in usual
                height, width = sizes[kind][(kernel + stride) % 3] if among else primes[kind]
                blocks: list[dict[str, Any]] = [
                    {"name": "there", "kind": kind, "filters": 3, "kernel": kernel, "stride": stride},
                    {"name": "mask", "kind": "output", "kernel": 1 if among else 2, "stride": 1},
                ]
                case = make_case(blocks, height, width, batch_norm=False)
                name = f"kernel {kernel}, stride {stride}, {height}x{width}"
                checks.append(agreement_check(subject, name, case, precision))
        for kernel in _KERNELS:
            case = make_case([{"name": "mask", "kind": "output", "kernel": kernel}], 5, 6)
            checks.append(agreement_check("output block", f"kernel {kernel}", case, precision))
    return checks


def _parts() -> list[Check]:
    own_settings = {"batch_norm_settings": {"momentum": 0.6, "epsilon": 0.5}}
    one = {"name": "one", "kind": "pointwise"}
    first = {"name": "first", "kind": "conv", "filters": 3, "stride": 1}
    second = {"name": "second", "kind": "conv", "filters": 4, "stride": 1}
    mask = {"name": "mask", "kind": "output", "stride": 1}
    plain: list[dict[str, Any]] = [first, second, mask]
    parts: list[tuple[str, str, list[dict[str, Any]], dict[str, Any]]] = [
        ("batch norm", "on", plain, {"batch_norm": True}),
        ("batch norm", "its own momentum and epsilon", plain, own_settings),
        ("batch norm", "before a block without", [first, {**second, "batch_norm": False}, mask], {}),
        ("dropout, masks given", "rate 0.4", plain, {"batch_norm": False, "dropout": 0.4}),
        ("dropout, masks given", "with batch norm", plain, {"dropout": 0.2}),
        ("skip", "one block back", [first, second, {**mask, "skip": "first"}], {"batch_norm": False}),
        ("skip", "the same block twice", [first, {**second, "skip": "first"}, {**mask, "skip": "first"}], {}),
        ("pointwise", "filters of the block before", [first, one, mask], {}),
        ("pointwise", "its own filters", [first, {**one, "filters": 2}, mask], {}),
    ]  # fmt: skip
    return [
        agreement_check(subject, name, make_case(blocks, 9, 12, **network), precision)
        for precision in PRECISIONS
        for subject, name, blocks, network in parts
    ]


def _many_pixels() -> Check:
    """Check batch norm over 150,000 bright pixels; a float32 sum one by one loses 3 of its 7 digits."""
    one = {"name": "one", "kind": "conv", "filters": 3, "kernel": 1, "stride": 1}
    mask = {"name": "mask", "kind": "output", "kernel": 1, "stride": 1}
    case = make_case([one, mask], 180, 210, batches=(4,), batch_norm_settings={"momentum": 0.5})
    for images, _ in case.batches:
        images[...] = 0.8 + 0.2 * images
    case.state["one/kernel"][...] = np.reshape([0.7, 1.3, 1.1], (1, 1, 1, 3))

    return agreement_check("batch norm", "sums over many pixels", case, "float32")


def _losses() -> list[Check]:
    constants = {"tversky_alpha": 0.9, "tversky_beta": 0.2}
    losses: list[tuple[str, dict[str, float]]] = [
        ("bce", {"bce": 1, "dice": 0}),
        ("dice", {"bce": 0, "dice": 1}),
        ("focal", {"bce": 0, "dice": 0, "focal": 1}),
        ("focal, gamma 0.5", {"bce": 0, "dice": 0, "focal": 1, "focal_gamma": 0.5}),
        ("tversky", {"bce": 0, "dice": 0, "tversky": 1}),
        ("tversky, its own constants", {"bce": 0, "dice": 0, "tversky": 1, **constants}),
        ("lovasz", {"bce": 0, "dice": 0, "lovasz": 1}),
        ("a weighted sum", {"bce": 0.3, "dice": 1.7, "focal": 2.5, "tversky": 0.6, "lovasz": 1.2}),
    ]
    checks = [
        agreement_check("losses", name, make_case(DOWN_UP, 8, 10, training={"loss": loss}), precision)
        for precision in PRECISIONS
        for name, loss in losses
    ]
    return [*checks, *(check for precision in PRECISIONS for check in _orders(precision))]


def _orders(precision: Precision) -> list[Check]:
    """Return checks of the Lovasz hinge with equal errors of positive and negative pixels.

    The order of these pixels decides the gradient. A single weight of 1 and a bias of -1/2 turn grey values
    of 0, 1/8, ..., 1 into logits of which many are equal, and each error of a positive pixel is also that of
    some negative ones. Two images have no positive pixel, and one has only positive pixels.
    """
    mask = {"name": "mask", "kind": "output", "kernel": 1, "stride": 1}
    loss = {"bce": 0, "dice": 0, "lovasz": 1}

    def equal(height: int, width: int) -> Case:
        case = make_case([mask], height, width, batches=(6,), training={"loss": loss})
        images, masks = case.batches[0]
        images[...] = np.round(8 * images) / 8
        masks[1:3], masks[3] = 0, 1
        case.state["mask/kernel"][...], case.state["mask/bias"][...] = 1.0, -0.5
        return case

    bordered = make_case(DOWN_UP, 30, 38, batches=(4, 3), training={"loss": loss})
    for images, masks in bordered.batches:
        images[:, :13], images[:, :, -9:] = 0.0, 1.0
        masks[0] = 0
    return [
        agreement_check(
            "losses", "lovasz, equal errors with and without truth", equal(29, 37), precision, ties=True
        ),
        agreement_check(
            "losses", "lovasz, equal errors of a million pixels", equal(397, 421), precision, ties=True
        ),
        agreement_check("losses", "lovasz, black and white borders", bordered, precision, ties=True),
    ]


def _optimizer() -> list[Check]:
    sgd: dict[str, Any] = {"name": "sgd", "learning_rate": 0.2}
    hard = {"bce": 0, "dice": 0, "tversky": 1, "lovasz": 1}
    settings: list[tuple[str, str, dict[str, Any]]] = [
        ("Adam", "a step size of its own for each step", {}),
        ("Adam", "a large epsilon", {"optimizer": {"epsilon": 0.1}}),
        ("Adam", "short memories", {"optimizer": {"beta1": 0.5, "beta2": 0.6}}),
        ("SGD", "momentum 0.9", {"optimizer": sgd}),
        ("SGD", "without momentum", {"optimizer": sgd | {"momentum": 0.0}}),
        ("SGD", "Nesterov's momentum of 0.6", {"optimizer": sgd | {"momentum": 0.6, "nesterov": True}}),
        ("weight decay", "kernels alone", {"optimizer": {"weight_decay": 0.5}}),
        ("weight decay", "AdamW's own", {"optimizer": {"name": "adamw"}}),
        ("weight decay", "of SGD", {"optimizer": sgd | {"weight_decay": 0.5}}),
        ("gradient clipping", "a norm that is reached", {"clip_norm": 1e-3}),
        ("gradient clipping", "a norm that is not", {"clip_norm": 1e3}),
        ("gradient clipping", "before SGD", {"clip_norm": 0.05, "optimizer": sgd}),
        ("gradient clipping", "of Tversky and Lovasz", {"clip_norm": 0.05, "optimizer": sgd, "loss": hard}),
    ]
    return [
        agreement_check(
            subject, name, make_case(DOWN_UP, 8, 10, batches=(3,) * 4, training=training), precision
        )
        for precision in PRECISIONS
        for subject, name, training in settings
    ]


def _short_batches() -> list[Check]:
    case = make_case(DOWN_UP, 9, 12, batches=(4, 1, 3, 4, 2), dropout=0.25)
    name = "batches of 4, 1, 3, 4 and 2"
    return [agreement_check("short last batch", name, case, precision) for precision in PRECISIONS]


def _random_networks() -> list[Check]:
    return [
        agreement_check("random networks", f"number {seed}", random_case(seed), "float64")
        for seed in range(RANDOM_NETWORKS)
    ]


def _networks() -> list[Check]:
    """Return checks of the toolkit's own networks with all features on, over ten steps."""
    checks = []
    optimizers = (
        "{name: adam, weight_decay: 0.01}",
        "{name: adamw}",
        "{name: sgd, nesterov: true, weight_decay: 0.01}",
    )
    for name, optimizer in zip(("fcn", "fcn_skip", "unet"), optimizers, strict=True):
        overrides = [
            "network.batch_norm=true",
            "network.dropout=0.25",
            "training.loss={bce: 1, dice: 1, focal: 0.5, tversky: 0.7, lovasz: 0.3}",
            "training.clip_norm=0.8",
            f"training.optimizer={optimizer}",
        ]
        path = Path(name)
        for index, block in enumerate(load_configuration(path).network.blocks):
            if getattr(block, "filters", None):
                overrides.append(f"network.blocks.{index}.filters={3 + index % 4}")
        case = case_of(load_configuration(path, overrides), 32, 48, batches=(3, 3, 2, 3, 1, 3, 3, 2, 3, 3))
        checks.append(
            agreement_check("whole networks", f"{name}, ten steps with everything on", case, "float64")
        )
    return [*checks, _first_step()]


def _first_step() -> Check:
    case = case_of(load_configuration(Path("fcn")), 64, 96)
    return agreement_check("whole networks", "fcn, the first step", case, "float32")


def _extremes() -> list[Check]:
    checks = []
    for precision in PRECISIONS:
        checks += [_logits_of(logit, precision) for logit in (0.0, 1e4, -1e4, 40.0, -40.0)]
        checks += [_half(precision), _not_a_number(precision)]
    return checks


def _logits_of(logit: float, precision: Precision) -> Check:
    """Check a network whose logits are all `logit`: its kernels are 0, and the output's bias is set."""
    blocks = [
        {"name": "first", "kind": "conv", "filters": 2, "stride": 1},
        {"name": "mask", "kind": "output", "stride": 1},
    ]
    loss = {"bce": 1, "dice": 1, "focal": 1, "tversky": 1, "lovasz": 1}
    case = make_case(blocks, 5, 6, batch_norm=False, training={"loss": loss})
    for name, array in case.state.items():
        array[...] = logit if name == "mask/bias" else 0.0

    def run(backend: BackendCaller) -> None:
        received, expected = backend.call(run_case, case, precision), reference_results(case)
        got, wanted = received.gradients["mask/bias"], expected.gradients["mask/bias"]
        found = difference(received.training_loss, expected.training_loss)
        allowed = FLOAT64_TOLERANCE if precision == "float64" else budget_floor("gradient", precision)
        _require(found < allowed, f"the loss differs by {found:.1e}, allowed {allowed:g}")
        _require(bool(np.isfinite(got).all()), f"the gradient is {got}")
        distance = float(abs(got - wanted).max())
        _require(
            distance < allowed * max(1.0, float(abs(wanted).max())),
            f"the gradient is {got}, the reference's {wanted}",
        )

    return Check("losses at extreme logits", f"all logits {logit:g}", precision, run)


def _half(precision: Precision) -> Check:
    case = make_case(
        [{"name": "mask", "kind": "output", "stride": 1}], 5, 6, training={"loss": {"bce": 1, "dice": 0}}
    )
    for array in case.state.values():
        array[...] = 0.0
    wanted = 0.5 - float(case.batches[0][1].mean())

    def run(backend: BackendCaller) -> None:
        got = float(backend.call(run_case, case, precision).gradients["mask/bias"][0])
        _require(
            abs(got - wanted) < 1e-6, f"the gradient is {got}, the mean of sigmoid(0) - truth is {wanted}"
        )

    return Check("losses at extreme logits", "the slope at 0 is 1/2 - truth", precision, run)


def _not_a_number(precision: Precision) -> Check:
    """Check that NaN among the logits makes the loss NaN (a sort could lose it), so that divergence shows."""
    blocks = [{"name": "mask", "kind": "output", "kernel": 1, "stride": 1}]
    case = make_case(blocks, 25, 31, training={"loss": {"bce": 0, "dice": 0, "lovasz": 1}})
    case.batches[0][0][:, 3:17] = np.nan

    def run(backend: BackendCaller) -> None:
        loss = backend.call(run_case, case, precision).training_loss
        _require(not np.isfinite(loss), f"logits that are not numbers gave a loss of {loss}")

    return Check("losses at extreme logits", "NaN makes the loss NaN", precision, run)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Nonconformity(message)
