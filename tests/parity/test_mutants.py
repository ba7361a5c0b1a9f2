"""The conformance suite is itself proven: it must catch each historical error of such toolkits.

Every mutant is the reference with one error put in. The list is shown by the names of the tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backends.reference import losses, operations
from backends.reference.model import ReferenceModel
from core.conformance import Check, all_checks, examine
from core.contract import Array, Implementation, KeepMasks, Precision, State
from core.plan import BatchNorm, Conv2D, ConvTranspose2D, Dropout, Operation, Plan
from core.rules import Rules, StepScalars, adam_step


class Mutant:
    """An implementation whose plans or models are changed; it can be called as a backend's process is."""

    def __init__(
        self,
        plan: Callable[[Plan], Plan] = lambda plan: plan,
        rules: Callable[[Rules], Rules] = lambda rules: rules,
        model: type[ReferenceModel] = ReferenceModel,
    ) -> None:
        self._plan, self._rules, self._model = plan, rules, model

    def list_devices(self) -> list[str]:
        return ["cpu"]

    def compile(self, plan: Plan, rules: Rules, device: str, precision: Precision) -> ReferenceModel:
        return self._model(self._plan(plan), self._rules(rules), precision)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        implementation: Implementation = self
        return function(implementation, *args, **kwargs)


def each(kind: type[Operation], change: Callable[[Any], Operation]) -> Callable[[Plan], Plan]:
    """A plan in which every operation of a kind is changed."""

    def changed(plan: Plan) -> Plan:
        found = tuple(change(op) if isinstance(op, kind) else op for op in plan.operations)
        return dataclasses.replace(plan, operations=found)

    return changed


def shifted(pads: tuple[int, int]) -> tuple[int, int]:
    begin, end = pads
    return (begin + 1, end - 1) if end else (begin, end)


def padding_shifted(op: Conv2D) -> Conv2D:
    return dataclasses.replace(op, pads=(shifted(op.pads[0]), shifted(op.pads[1])))


def crop_on_the_other_side(op: ConvTranspose2D) -> ConvTranspose2D:
    (top, bottom), (left, right) = op.crops
    return dataclasses.replace(op, crops=((bottom, top), (right, left))) if min(bottom, right) >= 0 else op


def momentum_inverted(op: BatchNorm) -> BatchNorm:
    return dataclasses.replace(op, momentum=1 - op.momentum)


class BesselCorrected(ReferenceModel):
    def _forward(self, images: Array, keep: KeepMasks | None = None) -> Any:
        values = super()._forward(images, keep)
        for op in self._plan.batch_norms if keep is not None else ():
            pixels = values[op.input].size // values[op.input].shape[-1]
            values[op.moving_variance] = values[op.moving_variance] * (pixels / (pixels - 1))
        return values


class EpsilonOutsideTheCorrection(ReferenceModel):
    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: KeepMasks | None = None
    ) -> float:
        rule, kept = self._rules.optimizer, self._rules
        smaller = rule.epsilon * float(np.sqrt(1 - rule.beta2**scalars.step))
        self._rules = dataclasses.replace(kept, optimizer=dataclasses.replace(rule, epsilon=smaller))
        loss = super().train_step(images, masks, scalars, keep)
        self._rules = kept
        return loss


class DecayOfBiases(ReferenceModel):
    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: KeepMasks | None = None
    ) -> float:
        for parameter in self._plan.parameters:
            if parameter.role == "bias":
                self._arrays[parameter.name] *= 1 - scalars.decay
        return super().train_step(images, masks, scalars, keep)


class DecayTwice(ReferenceModel):
    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: KeepMasks | None = None
    ) -> float:
        twice = dataclasses.replace(scalars, decay=2 * scalars.decay)
        return super().train_step(images, masks, twice, keep)


class DividedTwiceByTheBatch(ReferenceModel):
    def _differentiate(self, images: Array, masks: Array, keep: KeepMasks) -> Any:
        loss, gradients, statistics = super()._differentiate(images, masks, keep)
        return loss, {name: array / len(images) for name, array in gradients.items()}, statistics


class NoSlopeAtZero(ReferenceModel):
    """Gluon's way: max(x, 0) - x*z + log(1 + exp(-|x|)), each part differentiated as 0 at 0."""

    def _differentiate(self, images: Array, masks: Array, keep: KeepMasks) -> Any:
        original = losses.bce

        def bce(logits: Array, truth: Array) -> Any:
            value, slope = original(logits, truth)
            return value, np.where(logits == 0, -truth / logits.size, slope)

        losses.bce = bce
        try:
            return super()._differentiate(images, masks, keep)
        finally:
            losses.bce = original


class DropoutScaledAtInference(ReferenceModel):
    def _apply(self, op: Operation, values: Any, keep: KeepMasks | None) -> Any:
        y = super()._apply(op, values, keep)
        return y * (1 - op.rate) if isinstance(op, Dropout) and keep is None else y


class KernelFlipped(ReferenceModel):
    def _apply(self, op: Operation, values: Any, keep: KeepMasks | None) -> Any:
        if isinstance(op, Conv2D):
            return operations.conv2d(op, values[op.input], self._arrays[op.kernel][::-1, ::-1])
        return super()._apply(op, values, keep)


class KernelTransposed(ReferenceModel):
    """Height and width of the kernels taken for each other."""

    def load_state(self, state: Any) -> None:
        turned = {
            name: np.swapaxes(array, 0, 1) if name.endswith("/kernel") and array.ndim == 4 else array
            for name, array in state.items()
        }
        super().load_state(turned)

    def state(self) -> State:
        return {
            name: np.swapaxes(array, 0, 1) if array.ndim == 4 else array
            for name, array in super().state().items()
        }


class StepBehind(ReferenceModel):
    """The step size of the update before: a learning rate off by one step."""

    _previous: StepScalars | None = None

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: KeepMasks | None = None
    ) -> float:
        late, self._previous = self._previous or scalars, scalars
        return super().train_step(images, masks, late, keep)


class CorrectionOffByOne(ReferenceModel):
    """Adam's bias correction counted from the step after."""

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: KeepMasks | None = None
    ) -> float:
        rule = self._rules.optimizer
        wrong = adam_step(rule, scalars.step + 1, 1.0).size / adam_step(rule, scalars.step, 1.0).size
        return super().train_step(
            images, masks, dataclasses.replace(scalars, size=scalars.size * wrong), keep
        )


MUTANTS: dict[str, tuple[str, Mutant]] = {
    "padding shifted by a pixel": ("convolution", Mutant(each(Conv2D, padding_shifted))),
    "crop on the other side": (
        "transposed convolution",
        Mutant(each(ConvTranspose2D, crop_on_the_other_side)),
    ),
    "kernel flipped": ("convolution", Mutant(model=KernelFlipped)),
    "kernel transposed": ("convolution", Mutant(model=KernelTransposed)),
    "running variance with Bessel's correction": ("batch norm", Mutant(model=BesselCorrected)),
    "batch norm momentum inverted": ("batch norm", Mutant(each(BatchNorm, momentum_inverted))),
    "epsilon outside the bias correction": ("Adam", Mutant(model=EpsilonOutsideTheCorrection)),
    "bias correction off by one": ("Adam", Mutant(model=CorrectionOffByOne)),
    "learning rate off by one step": ("Adam", Mutant(model=StepBehind)),
    "weight decay on biases": ("weight decay", Mutant(model=DecayOfBiases)),
    "weight decay doubled": ("weight decay", Mutant(model=DecayTwice)),
    "loss divided twice by the batch": ("losses", Mutant(model=DividedTwiceByTheBatch)),
    "gradient at logit 0": ("losses at extreme logits", Mutant(model=NoSlopeAtZero)),
    "dropout scaled at inference": ("dropout, masks given", Mutant(model=DropoutScaledAtInference)),
}


def of_subject(subject: str) -> list[Check]:
    return [check for check in all_checks() if check.subject == subject]


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", MUTANTS)
def test_caught(name: str, precision: str) -> None:
    subject, mutant = MUTANTS[name]
    outcomes = [examine(check, mutant) for check in of_subject(subject) if check.precision == precision]
    reasons = [outcome.detail for outcome in outcomes if outcome.status == "failed"]
    # A mutant is wrong, not broken: it is caught by what it computes.
    assert any("relative difference" in reason or "gradient is" in reason for reason in reasons), reasons


def test_without_an_error_nothing_is_caught() -> None:
    for subject in {subject for subject, _ in MUTANTS.values()}:
        for check in of_subject(subject):
            assert examine(check, Mutant()).status == "passed", str(check)
