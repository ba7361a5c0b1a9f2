"""Checks of the precisions that round the operands of products. The reference rounds as the rules say.

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

A float16 number has 11 significant bits. So the three tolerances are an eighth (`Rounding`), and for every
element that flips in bfloat16, eight flip in float16. Large networks always have some, whose effect batch
norm spreads to all elements: there the medians of right backends are beyond the tolerance. So the checks in
float16 have small networks. They have the default loss scale.

A TF32 number has 11 significant bits too, and only operands are rounded. The tolerances are those of float16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.backend.contract import Array, Implementation, Precision, State
from core.backend.registry import load_backend
from core.backend.state import GOOD_STEPS, LOSS_SCALE, LOSS_SCALE_ARRAYS
from core.backend.training_rules import MOST_LOSS_SCALE, LossScaleRule
from core.base.rounding import Narrow, to_narrow
from core.conformance.cases import (
    Case,
    Nonconformity,
    Results,
    all_results,
    and_more,
    case_of,
    in_precision,
    make_case,
    reference_results,
    require_agreement,
    run_case,
    with_loss_scale,
)
from core.conformance.layers import every_operation
from core.conformance.suite import BackendCaller, Check
from core.experiment.configuration import load_configuration
from core.tolerance.differences import difference, differences


@dataclass(frozen=True)
class Rounding:
    """A precision that rounds the operands of products, with the tolerances of its checks.

    Args:
        precision: Its name.
        narrow: The type that operands are rounded to.
        bits: The significant bits of the type.
    """

    precision: Precision
    narrow: Narrow
    bits: int

    @property
    def results(self) -> bool:
        """Whether the results of products are rounded too."""
        return self.narrow != "tf32"

    @property
    def subject(self) -> str:
        """The row of the table."""
        return f"products in {self.narrow}"

    @property
    def largest(self) -> float:
        """Tolerance of an array, as a share of its norm."""
        return 2.0 ** (3 - self.bits)

    @property
    def typical(self) -> float:
        """Tolerance of the median, as a share of the root mean square."""
        return 2.0 ** (-3 - self.bits)

    @property
    def exact(self) -> float:
        """Tolerance where every sum is exact in float32."""
        return 1e-5 * 2.0 ** (8 - self.bits)


BFLOAT16 = Rounding("mixed_bfloat16", "bfloat16", 8)
FLOAT16 = Rounding("mixed_float16", "float16", 11)
TF32 = Rounding("tf32", "tf32", 11)

_MANY = 16
_LITERATURE = "operations of networks from the literature"
_DOWN_UP: list[dict[str, Any]] = [
    {"name": "down", "kind": "conv", "filters": 4},
    {"name": "mask", "kind": "output"},
]


def mixed_checks() -> list[Check]:
    """Return all checks of the precisions that round operands."""
    return [
        *_geometry(),
        *_sums(),
        *_parts(),
        _network(),
        *(check for rounding in (BFLOAT16, FLOAT16, TF32) for check in _of_rounding(rounding)),
        _check(BFLOAT16, BFLOAT16.subject, "weights keep steps below bfloat16's", _small_steps),
        agreement_when_rounded(BFLOAT16.subject, _LITERATURE, every_operation()),
        agreement_when_rounded(FLOAT16.subject, "batch norm, groups and a dilation", _groups(), FLOAT16),
        agreement_when_rounded("short last batch", "batches of 4, 1, 3, 4 and 2", _short(), FLOAT16),
        agreement_when_rounded(TF32.subject, "batch norm, groups and a dilation", _groups(), TF32),
        agreement_when_rounded(TF32.subject, "batches of 4, 1, 3, 4 and 2", _short(), TF32),
        *_loss_scale_checks(),
    ]


def _of_rounding(rounding: Rounding) -> list[Check]:
    """Return the checks of each precision."""
    float32 = "bias, batch norm, loss and sigmoid are float32"
    return [
        *_rounded(rounding),
        _gradients_are_rounded(rounding),
        _check(rounding, rounding.subject, float32, lambda backend: _without_products(backend, rounding)),
    ]


def agreement_when_rounded(subject: str, name: str, case: Case, rounding: Rounding = BFLOAT16) -> Check:
    """Return the check that all results of a case agree with the reference's; see the module."""
    case = in_precision(case, rounding.precision)

    def run(backend: BackendCaller) -> None:
        received, expected = _both(backend, case, rounding)
        far, medians = all_differences(received, expected), _medians(received, expected)
        if wrong := {name: value for name, value in far.items() if not value <= rounding.largest}:
            raise Nonconformity(f"relative differences beyond {rounding.largest:g}: {listed(wrong)}")
        if wrong := {name: value for name, value in medians.items() if not value <= rounding.typical}:
            raise Nonconformity(f"median relative differences beyond {rounding.typical:.1e}: {listed(wrong)}")

    return _check(rounding, subject, name, run)


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


def _both(backend: BackendCaller, case: Case, rounding: Rounding) -> tuple[Results, Results]:
    """Return the results of the backend and of the reference."""
    received = backend.call(run_case, case, rounding.precision)
    return received, reference_results(case, rounding.precision)


def _check(rounding: Rounding, subject: str, name: str, run: Callable[[BackendCaller], None]) -> Check:
    return Check(subject, name, rounding.precision, run)


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
                agreement_when_rounded(subject, f"kernel {kernel}, stride {stride}, {height}x{width}", case)
            )
    many: list[dict[str, Any]] = [
        {"name": "many", "kind": "conv", "filters": 20},
        {"name": "mask", "kind": "output"},
    ]
    case = make_case(many, 10, 13, batch_norm=False)
    return [*checks, agreement_when_rounded("output block", "of 20 channels", case)]


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
                agreement_when_rounded(subject, f"kernel {kernel}, {size[0]}x{size[1]}: many pixels", case)
            )
    return checks


def _parts() -> list[Check]:
    first = {"name": "first", "kind": "conv", "filters": 3, "stride": 1}
    second = {"name": "second", "kind": "conv", "filters": 4, "stride": 1}
    mask = {"name": "mask", "kind": "output", "stride": 1}
    skipping = [first, {**second, "skip": "first"}, {**mask, "skip": "second"}]
    sgd = {"optimizer": {"name": "sgd", "learning_rate": 0.2, "nesterov": True}}
    four = (3,) * 4
    return [
        agreement_when_rounded("batch norm", "on", make_case([first, second, mask], 9, 12)),
        agreement_when_rounded(
            "skip", "with dropout", make_case(skipping, 9, 12, batch_norm=False, dropout=0.4)
        ),
        agreement_when_rounded(
            "Adam", "a step size of its own for each step", make_case(_DOWN_UP, 8, 10, batches=four)
        ),
        agreement_when_rounded(
            "SGD", "Nesterov's momentum", make_case(_DOWN_UP, 8, 10, batches=four, training=sgd)
        ),
        agreement_when_rounded("short last batch", "batches of 4, 1, 3, 4 and 2", _short()),
    ]


def _groups() -> Case:
    blocks: list[dict[str, Any]] = [
        {"name": "wide", "kind": "conv", "filters": 4, "stride": 1, "batch_norm": True},
        {"name": "groups", "kind": "conv", "filters": 6, "groups": 2},
        {"name": "apart", "kind": "conv", "filters": 3, "stride": 1, "dilation": 2},
        {"name": "mask", "kind": "output"},
    ]
    return make_case(blocks, 9, 12, batch_norm=False)


def _short() -> Case:
    return make_case(_DOWN_UP, 9, 12, batches=(4, 1, 3, 4, 2), dropout=0.25)


def _network() -> Check:
    """Check a narrow default network with batch norm, where flips in early layers affect the last ones."""
    overrides = ["network.batch_norm=true", "network.dropout=0.25"]
    for index, block in enumerate(load_configuration(Path("fcn")).network.blocks):
        if getattr(block, "filters", None):
            overrides.append(f"network.blocks.{index}.filters={3 + index % 4}")
    case = case_of(load_configuration(Path("fcn"), overrides), 32, 48, batches=(3, 2))

    def run(backend: BackendCaller) -> None:
        received, expected = _both(backend, case, BFLOAT16)
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

    return _check(BFLOAT16, "whole networks", "fcn, two steps", run)


def _rounded(rounding: Rounding) -> list[Check]:
    """Return checks with images and kernels halfway between two numbers of 16 bits; half are rounded up.

    In bfloat16 they are odd multiples of 2**-9 between 1/2 and 1, and multiples of 2**-8 after rounding. So
    all sums are multiples of 2**-16 below 2**8, which are exact in float32, in any order. In float16 they are
    multiples of 2**-22, of at most four products, and so at most 4.
    """
    checks = []
    kinds = [("conv", "convolution", 2, 1.0), ("transpose", "transposed convolution", 3, 1.0)]
    if rounding is FLOAT16:
        kinds.append(("conv", "convolution of subnormal numbers", 2, 2.0**14))
    for kind, name, kernel, factor in kinds:
        there = {"name": "there", "kind": kind, "filters": 3, "kernel": kernel, "stride": 2}
        case = make_case(
            [there, {"name": "mask", "kind": "output", "kernel": 1, "stride": 1}], 10, 13, batch_norm=False
        )
        rng = np.random.default_rng(17)
        case.batches[0][0][...] = _middles(rng, case.batches[0][0].shape, rounding.bits) / factor
        array = case.state["there/kernel"]
        array[...] = _middles(rng, array.shape, rounding.bits) * rng.choice([-1, 1], array.shape) * factor
        case.state["there/bias"][...] = _middles(rng, (3,), rounding.bits)
        case.state["mask/kernel"][...] = np.reshape([0.5, -0.25, 0.5], (1, 1, 1, 3))
        case.state["mask/bias"][...] = -0.125
        what = f"{name}: operands{' and result' if rounding.results else ''}, to even"
        checks.append(_check(rounding, rounding.subject, what, _exactly(case, rounding)))
    return checks


def _middles(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> Array:
    odd = 2 * rng.integers(2 ** (bits - 1), 2**bits, shape) + 1
    return (odd / 2.0 ** (bits + 1)).astype(np.float32)


def _exactly(case: Case, rounding: Rounding) -> Callable[[BackendCaller], None]:
    def run(backend: BackendCaller) -> None:
        received, expected = _both(backend, case, rounding)
        found = difference(received.predictions, expected.predictions)
        unrounded = difference(reference_results(case).predictions, expected.predictions)
        if not found <= rounding.exact < unrounded / 50:
            raise Nonconformity(
                f"predictions: relative difference {found:.1e}, allowed {rounding.exact:g}; "
                f"without any rounding it would be {unrounded:.1e}"
            )

    return run


def _gradients_are_rounded(rounding: Rounding) -> Check:
    case = in_precision(make_case(_DOWN_UP, 9, 12), rounding.precision)
    scale = float(case.state[LOSS_SCALE][0]) if LOSS_SCALE in case.state else 1.0

    def run(backend: BackendCaller) -> None:
        gradients = backend.call(run_case, case, rounding.precision).gradients
        for parameter in case.plan.parameters:
            scaled = gradients[parameter.name].astype(np.float32) * np.float32(scale)
            rounded = np.array_equal(to_narrow(scaled, rounding.narrow), scaled)
            if rounded != (rounding.results and parameter.role == "kernel"):
                what = f"that of {parameter.name} {'is' if rounded else 'is not'} {rounding.narrow}"
                raise Nonconformity(f"the gradient is wrong: {what}")

    name = f"gradients of kernels are {rounding.narrow} numbers, no others are"
    if not rounding.results:
        name = f"gradients are not {rounding.narrow} numbers"
    return _check(rounding, rounding.subject, name, run)


def _small_steps(backend: BackendCaller) -> None:
    """Check updates of about 2**-14 of the weights; bfloat16 would lose them, float32 keeps 10 bits."""
    sgd = {"optimizer": {"name": "sgd", "learning_rate": 1e-3, "momentum": 0.0}}
    case = make_case(_DOWN_UP, 9, 12, training=sgd)
    received, expected = _both(backend, case, BFLOAT16)
    found = {}
    for parameter in case.plan.parameters:
        name = parameter.name
        got, wanted = (results.state[name] - case.state[name] for results in (received, expected))
        found[f"update of {name}"] = difference(got, wanted)
    if wrong := {name: value for name, value in found.items() if not value <= BFLOAT16.largest}:
        raise Nonconformity(f"relative differences beyond {BFLOAT16.largest:g}: {listed(wrong)}")


def _without_products(backend: BackendCaller, rounding: Rounding) -> None:
    """Check a network with kernels of 0: all that remains is float32 (bias, batch norm, loss, Adam, ...)."""
    case = make_case(_DOWN_UP, 9, 12, batch_norm_settings={"momentum": 0.6})
    for name, array in case.state.items():
        if name.endswith("/kernel"):
            array[...] = 0.0
    received, expected = _both(backend, case, rounding)
    found = all_differences(received, expected).items()
    if wrong := {
        name: value for name, value in found if "/kernel" not in name and not value <= BFLOAT16.exact
    }:
        raise Nonconformity(f"relative differences beyond {BFLOAT16.exact:g}: {listed(wrong)}")


def _loss_scale_checks() -> list[Check]:
    """Return the checks of the loss scale: its arithmetic in float64, and overflows in float16."""
    sgd = {"optimizer": {"name": "sgd", "weight_decay": 0.1}, "clip_norm": 0.05}
    plain = make_case(_DOWN_UP, 9, 12, batches=(3, 2, 4, 3), training=sgd)
    scaled = with_loss_scale(plain, LossScaleRule(2.0**10, 4.0, 3))

    def in_float64(backend: BackendCaller) -> None:
        require_agreement(all_results, backend.call(all_results, scaled, "float64"), scaled, "float64")

    return [
        Check("loss scale", "divided out before clipping; grows", "float64", in_float64),
        _check(FLOAT16, "loss scale", "updates whose gradients overflow are skipped", _overflows),
    ]


def _states(implementation: Implementation, case: Case) -> list[State]:
    """Train on all batches; return the state after each step."""
    model = implementation.compile(case.plan, case.rules, "cpu", "mixed_float16")
    model.load_state(case.state)
    found = []
    for step, (images, masks) in enumerate(case.batches, start=1):
        float(model.train_step(images, masks, case.scalars(step), case.keep(step, len(images))))
        found.append(model.state())
    return found


def _overflows(backend: BackendCaller) -> None:
    """Check steps from the largest scale on: three skipped, two good, then growth, a good and a skipped one.

    No scaled gradient is near the largest number, so all backends must skip the same steps.
    """
    training = {"optimizer": {"name": "adam", "weight_decay": 0.1}, "clip_norm": 0.5}
    case = make_case(_DOWN_UP, 9, 12, batches=(3,) * 7, seed=6, training=training)
    case = with_loss_scale(case, LossScaleRule(MOST_LOSS_SCALE, 4.0, 2))
    wanted = _states(load_backend("reference")[1], case)
    before = case.state
    for step, (got, expected) in enumerate(zip(backend.call(_states, case), wanted, strict=True), start=1):
        numbers = [[float(state[name][0]) for name in LOSS_SCALE_ARRAYS] for state in (got, expected)]
        if numbers[0] != numbers[1]:
            raise Nonconformity(
                f"step {step}: relative difference of scale, good steps and skipped steps: they are "
                f"{numbers[0]}, expected {numbers[1]}"
            )
        skipped = got[GOOD_STEPS][0] == 0 and got[LOSS_SCALE][0] < before[LOSS_SCALE][0]
        allowed = 0.0 if skipped else FLOAT16.largest
        found = differences(got, before if skipped else expected)
        if wrong := {
            name: far for name, far in found.items() if name not in LOSS_SCALE_ARRAYS and not far <= allowed
        }:
            how = "skipped, so nothing may change" if skipped else f"allowed {allowed:g}"
            raise Nonconformity(f"relative differences at step {step} ({how}): {listed(wrong)}")
        before = got
