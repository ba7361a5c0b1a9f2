"""Checks of precision "mixed_bfloat16" against the reference, which rounds as the rules say.

A bfloat16 number has 8 significant bits, so its neighbour is at most 2**-7 of it away. Two backends that
follow the rule add float32 numbers in different orders, so the sums that they round differ by about 2**-24.
For about one element in 2**16 (or in 2**12 where sums cancel) the two sums are rounded to different
neighbours: the element flips, by 2**-7 of its value. A missing rounding changes nearly every element, but by
at most 2**-8. The norm of the difference cannot distinguish the two cases, so there are three tolerances:

- The difference of every array may be 2**-5 of its norm. That is the effect if every element flips, times
  four for cancellation (gradients before batch norm).
- In every array of 16 or more elements, the median of the differences may be 2**-11 of the elements' root
  mean square, because most elements do not flip. An error in every element gives 2**-10 to 2**-8.
- Where every sum is exact in float32, nothing can flip, and 1e-5 is allowed, which float32 needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.backend.contract import Array
from core.base.rounding import to_bfloat16
from core.conformance.cases import (
    Case,
    Nonconformity,
    Results,
    and_more,
    case_of,
    make_case,
    reference_results,
    run_case,
)
from core.conformance.layers import every_operation
from core.conformance.suite import BackendCaller, Check
from core.experiment.configuration import load_configuration
from core.tolerance.differences import difference, differences

LARGEST = 2.0**-5
_TYPICAL = 2.0**-11
_MANY = 16
_EXACT = 1e-5
_SUBJECT = "products in bfloat16"
_DOWN_UP: list[dict[str, Any]] = [
    {"name": "down", "kind": "conv", "filters": 4},
    {"name": "mask", "kind": "output"},
]


def mixed_checks() -> list[Check]:
    """Return all checks of mixed precision."""
    return [
        *_geometry(),
        *_sums(),
        *_parts(),
        _network(),
        agreement_in_bfloat16(_SUBJECT, "operations of networks from the literature", every_operation()),
        *_rounded(),
        _gradients_are_bfloat16(),
        *_float32_checks(),
    ]


def agreement_in_bfloat16(subject: str, name: str, case: Case) -> Check:
    """Return the check that all results of a case agree with the reference's; see the module."""

    def run(backend: BackendCaller) -> None:
        received, expected = _both(backend, case)
        far, medians = all_differences(received, expected), _medians(received, expected)
        if wrong := {name: value for name, value in far.items() if not value <= LARGEST}:
            raise Nonconformity(f"relative differences beyond {LARGEST:g}: {listed(wrong)}")
        if wrong := {name: value for name, value in medians.items() if not value <= _TYPICAL}:
            raise Nonconformity(f"median relative differences beyond {_TYPICAL:.1e}: {listed(wrong)}")

    return _check(subject, name, run)


def all_differences(received: Results, expected: Results) -> dict[str, float]:
    """Return the relative difference of each kind of result and of each array."""
    found = {
        "predictions": difference(received.predictions, expected.predictions),
        "probabilities of evaluate": difference(received.probabilities, expected.probabilities),
        "loss": difference(received.loss, expected.loss),
        "training loss": difference(received.training_loss, expected.training_loss),
        "losses of the steps": difference(np.array(received.losses), np.array(expected.losses)),
    }
    found |= {name: difference(received.both[name], array) for name, array in expected.both.items()}
    gradients = differences(received.gradients, expected.gradients, share=1e-3)
    found |= {f"gradient of {name}": value for name, value in gradients.items()}
    arrays = differences(received.state, expected.state)
    return found | {f"{name} after training": value for name, value in arrays.items()}


def listed(wrong: Mapping[str, float]) -> str:
    """Format the six largest differences, largest first, and the number of the others."""
    worst = sorted(wrong.items(), key=lambda item: -item[1])
    return and_more([f"{name} {value:.1e}" for name, value in worst[:6]], len(worst))


def _both(backend: BackendCaller, case: Case) -> tuple[Results, Results]:
    """Return the results of the backend and of the reference."""
    received = backend.call(run_case, case, "mixed_bfloat16")
    return received, reference_results(case, "mixed_bfloat16")


def _check(subject: str, name: str, run: Any) -> Check:
    return Check(subject, name, "mixed_bfloat16", run)


def _medians(received: Results, expected: Results) -> dict[str, float]:
    """Return, for every array that is not tiny, the median difference over the elements' root mean square."""
    found = {"predictions": _median(received.predictions, expected.predictions)}
    for what, got, wanted in (
        ("gradient of {}", received.gradients, expected.gradients),
        ("{} after training", received.state, expected.state),
    ):
        found |= {
            what.format(name): _median(got[name], array)
            for name, array in wanted.items()
            if array.size >= _MANY
        }
    return found


def _median(received: Array, expected: Array) -> float:
    size = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return float(np.median(np.abs(received.astype(np.float64) - expected))) / max(size, 1e-300)


def _geometry() -> list[Check]:
    checks = []
    for kind, subject in (("conv", "convolution"), ("transpose", "transposed convolution")):
        height, width = (11, 14) if kind == "conv" else (4, 5)
        for kernel, stride in ((1, 1), (3, 2), (5, 3)):
            blocks: list[dict[str, Any]] = [
                {"name": "there", "kind": kind, "filters": 3, "kernel": kernel, "stride": stride},
                {"name": "mask", "kind": "output", "kernel": 1, "stride": 1},
            ]
            case = make_case(blocks, height, width, batch_norm=False)
            checks.append(
                agreement_in_bfloat16(subject, f"kernel {kernel}, stride {stride}, {height}x{width}", case)
            )
    many: list[dict[str, Any]] = [
        {"name": "many", "kind": "conv", "filters": 20},
        {"name": "mask", "kind": "output"},
    ]
    case = make_case(many, 10, 13, batch_norm=False)
    return [*checks, agreement_in_bfloat16("output block", "of 20 channels", case)]


def _sums() -> list[Check]:
    """Return checks of kernels' gradients over 6,000 pixels; a sum in bfloat16 stops growing at 256 terms.

    The geometries have the pads of an even size, those of an odd size, and none, because a framework may use
    different kernels for them.
    """
    checks = []
    for kind, subject in (("conv", "convolution"), ("transpose", "transposed convolution")):
        for kernel, stride, height, width in ((3, 2, 64, 96), (3, 2, 63, 97), (1, 1, 39, 41)):
            size = (height, width) if kind == "conv" else (height // stride, width // stride)
            there = {"name": "there", "kind": kind, "filters": 3, "kernel": kernel, "stride": stride}
            mask = {"name": "mask", "kind": "output", "kernel": 1, "stride": 1}
            case = make_case([there, mask], *size, batches=(4,), batch_norm=False)
            checks.append(
                agreement_in_bfloat16(subject, f"kernel {kernel}, {size[0]}x{size[1]}: many pixels", case)
            )
    return checks


def _parts() -> list[Check]:
    first = {"name": "first", "kind": "conv", "filters": 3, "stride": 1}
    second = {"name": "second", "kind": "conv", "filters": 4, "stride": 1}
    mask = {"name": "mask", "kind": "output", "stride": 1}
    skipping = [first, {**second, "skip": "first"}, {**mask, "skip": "second"}]
    sgd = {"optimizer": {"name": "sgd", "learning_rate": 0.2, "nesterov": True}}
    short = make_case(_DOWN_UP, 9, 12, batches=(4, 1, 3, 4, 2), dropout=0.25)
    four = (3,) * 4
    return [
        agreement_in_bfloat16("batch norm", "on", make_case([first, second, mask], 9, 12)),
        agreement_in_bfloat16(
            "skip", "with dropout", make_case(skipping, 9, 12, batch_norm=False, dropout=0.4)
        ),
        agreement_in_bfloat16(
            "Adam", "a step size of its own for each step", make_case(_DOWN_UP, 8, 10, batches=four)
        ),
        agreement_in_bfloat16(
            "SGD", "Nesterov's momentum", make_case(_DOWN_UP, 8, 10, batches=four, training=sgd)
        ),
        agreement_in_bfloat16("short last batch", "batches of 4, 1, 3, 4 and 2", short),
    ]


def _network() -> Check:
    """Check a narrow default network with batch norm, where flips in early layers affect the last ones."""
    overrides = ["network.batch_norm=true", "network.dropout=0.25"]
    for index, block in enumerate(load_configuration(Path("fcn")).network.blocks):
        if getattr(block, "filters", None):
            overrides.append(f"network.blocks.{index}.filters={3 + index % 4}")
    case = case_of(load_configuration(Path("fcn"), overrides), 32, 48, batches=(3, 2))

    def run(backend: BackendCaller) -> None:
        received, expected = _both(backend, case)
        # Some gradients are 0 except for rounding, as those of scales before a convolution and batch norm.
        names = [parameter.name for parameter in case.plan.parameters]
        whole, wanted = (
            np.concatenate([results.gradients[name].ravel() for name in names])
            for results in (received, expected)
        )
        found = {
            "all gradients": difference(whole, wanted),
            "predictions": difference(received.predictions, expected.predictions),
            "losses of the steps": difference(np.array(received.losses), np.array(expected.losses)),
        }
        if wrong := {name: value for name, value in found.items() if not value <= 2.0**-7}:
            raise Nonconformity(f"relative differences beyond {2.0**-7:g}: {listed(wrong)}")

    return _check("whole networks", "fcn, two steps", run)


def _rounded() -> list[Check]:
    """Return checks with images and kernels halfway between two bfloat16 numbers; half are rounded up.

    They are odd multiples of 2**-9 between 1/2 and 1, and multiples of 2**-8 after rounding. So all sums are
    multiples of 2**-16 below 2**8, which are exact in float32, in any order.
    """
    checks = []
    for kind, name, stride in (("conv", "convolution", 2), ("transpose", "transposed convolution", 2)):
        there = {"name": "there", "kind": kind, "filters": 3, "kernel": 3, "stride": stride}
        case = make_case(
            [there, {"name": "mask", "kind": "output", "kernel": 1, "stride": 1}], 10, 13, batch_norm=False
        )
        rng = np.random.default_rng(17)
        case.batches[0][0][...] = _middles(rng, case.batches[0][0].shape)
        kernel = case.state["there/kernel"]
        kernel[...] = _middles(rng, kernel.shape) * rng.choice([-1, 1], kernel.shape)
        case.state["there/bias"][...] = _middles(rng, (3,))
        case.state["mask/kernel"][...] = np.reshape([0.5, -0.25, 0.5], (1, 1, 1, 3))
        case.state["mask/bias"][...] = -0.125
        checks.append(_check(_SUBJECT, f"{name}: operands and result, to even", _exactly(case)))
    return checks


def _middles(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return ((2 * rng.integers(128, 256, shape) + 1) / 512).astype(np.float32)


def _exactly(case: Case) -> Any:
    def run(backend: BackendCaller) -> None:
        received, expected = _both(backend, case)
        found = difference(received.predictions, expected.predictions)
        unrounded = difference(reference_results(case).predictions, expected.predictions)
        if not found <= _EXACT < unrounded / 50:
            raise Nonconformity(
                f"predictions: relative difference {found:.1e}, allowed {_EXACT:g}; "
                f"without any rounding it would be {unrounded:.1e}"
            )

    return run


def _gradients_are_bfloat16() -> Check:
    case = make_case(_DOWN_UP, 9, 12)

    def run(backend: BackendCaller) -> None:
        gradients = backend.call(run_case, case, "mixed_bfloat16").gradients
        for parameter in case.plan.parameters:
            gradient = gradients[parameter.name].astype(np.float32)
            rounded = np.array_equal(to_bfloat16(gradient), gradient)
            if rounded != (parameter.role == "kernel"):
                is_or_not = "is" if rounded else "is not"
                raise Nonconformity(f"the gradient is wrong: that of {parameter.name} {is_or_not} bfloat16")

    return _check(_SUBJECT, "gradients of kernels are bfloat16 numbers, no others are", run)


def _float32_checks() -> list[Check]:
    return [
        _check(_SUBJECT, "weights keep steps below bfloat16's", _small_steps),
        _check(_SUBJECT, "bias, batch norm, loss and sigmoid are float32", _without_products),
    ]


def _small_steps(backend: BackendCaller) -> None:
    """Check updates of about 2**-14 of the weights; bfloat16 would lose them, float32 keeps 10 bits."""
    sgd = {"optimizer": {"name": "sgd", "learning_rate": 1e-3, "momentum": 0.0}}
    case = make_case(_DOWN_UP, 9, 12, training=sgd)
    received, expected = _both(backend, case)
    found = {}
    for parameter in case.plan.parameters:
        name = parameter.name
        got, wanted = (results.state[name] - case.state[name] for results in (received, expected))
        found[f"update of {name}"] = difference(got, wanted)
    if wrong := {name: value for name, value in found.items() if not value <= LARGEST}:
        raise Nonconformity(f"relative differences beyond {LARGEST:g}: {listed(wrong)}")


def _without_products(backend: BackendCaller) -> None:
    """Check a network with kernels of 0: all that remains is float32 (bias, batch norm, loss, Adam, ...)."""
    case = make_case(_DOWN_UP, 9, 12, batch_norm_settings={"momentum": 0.6})
    for name, array in case.state.items():
        if name.endswith("/kernel"):
            array[...] = 0.0
    received, expected = _both(backend, case)
    found = all_differences(received, expected).items()
    if wrong := {name: value for name, value in found if "/kernel" not in name and not value <= _EXACT}:
        raise Nonconformity(f"relative differences beyond {_EXACT:g}: {listed(wrong)}")
