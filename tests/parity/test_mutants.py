"""The conformance suite is itself proven: it must catch each historical error of such toolkits.

Every mutant is the reference with one error put in; those of the order of images are the loader with one.
The end of the test run shows the list with what caught each one (tests/conftest.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from shuffling import COUNT, SAMPLING, badly_sampled, unshuffled, write_store

from backends.reference import losses, operations
from backends.reference.model import ReferenceModel
from core.backend.contract import Array, DropoutMasks, Implementation, Precision, State
from core.backend.training_rules import SgdRule, StepScalars, TrainingRules, step_scalars
from core.base.randomness import permutation, uniform
from core.base.rounding import to_bfloat16
from core.conformance import Check, all_checks, examine
from core.network.plan import BatchNorm, Bias, Conv2D, ConvTranspose2D, Dropout, Operation, Parameter, Plan
from data.batches.loader import Loader
from data.batches.sampling import sampled
from data.hdf5.store import Store


class Mutant:
    """An implementation whose plans or models are changed; it can be called as a backend's process is."""

    def __init__(
        self,
        plan: Callable[[Plan], Plan] = lambda plan: plan,
        rules: Callable[[TrainingRules], TrainingRules] = lambda rules: rules,
        model: type[ReferenceModel] = ReferenceModel,
    ) -> None:
        self._plan, self._rules, self._model = plan, rules, model

    def list_devices(self) -> list[str]:
        return ["cpu"]

    def compile(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> ReferenceModel:
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
    def _forward(self, images: Array, keep: DropoutMasks | None = None) -> Any:
        values = super()._forward(images, keep)
        for op in self._plan.batch_norms if keep is not None else ():
            pixels = values[op.input].size // values[op.input].shape[-1]
            values[op.moving_variance] = values[op.moving_variance] * (pixels / (pixels - 1))
        return values


class EpsilonOutsideTheCorrection(ReferenceModel):
    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        rule, kept = self._rules.optimizer, self._rules
        smaller = rule.epsilon * float(np.sqrt(1 - rule.beta2**scalars.step))
        self._rules = dataclasses.replace(kept, optimizer=dataclasses.replace(rule, epsilon=smaller))
        loss = super().train_step(images, masks, scalars, keep)
        self._rules = kept
        return loss


class DecayOfBiases(ReferenceModel):
    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        for parameter in self._plan.parameters:
            if parameter.role == "bias":
                self._arrays[parameter.name] *= 1 - scalars.decay
        return super().train_step(images, masks, scalars, keep)


class DecayTwice(ReferenceModel):
    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        twice = dataclasses.replace(scalars, decay=2 * scalars.decay)
        return super().train_step(images, masks, twice, keep)


class DividedTwiceByTheBatch(ReferenceModel):
    def _differentiate(self, images: Array, masks: Array, keep: DropoutMasks) -> Any:
        loss, gradients, statistics = super()._differentiate(images, masks, keep)
        return loss, {name: array / len(images) for name, array in gradients.items()}, statistics


class NoSlopeAtZero(ReferenceModel):
    """Gluon's way: max(x, 0) - x*z + log(1 + exp(-|x|)), each part differentiated as 0 at 0."""

    def _differentiate(self, images: Array, masks: Array, keep: DropoutMasks) -> Any:
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
    def _apply(self, op: Operation, values: Any, keep: DropoutMasks | None) -> Any:
        y = super()._apply(op, values, keep)
        return y * (1 - op.rate) if isinstance(op, Dropout) and keep is None else y


class KernelFlipped(ReferenceModel):
    def _apply(self, op: Operation, values: Any, keep: DropoutMasks | None) -> Any:
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
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        late, self._previous = self._previous or scalars, scalars
        return super().train_step(images, masks, late, keep)


class CorrectionOffByOne(ReferenceModel):
    """Adam's bias correction counted from the step after."""

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        rule = self._rules.optimizer
        wrong = (
            step_scalars(rule, scalars.step + 1, 1.0).step_size
            / step_scalars(rule, scalars.step, 1.0).step_size
        )
        return super().train_step(
            images, masks, dataclasses.replace(scalars, step_size=scalars.step_size * wrong), keep
        )


class DecayOfBatchNorm(ReferenceModel):
    """Weight decay on the scales and shifts too."""

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        for parameter in self._plan.parameters:
            if parameter.role in ("gamma", "beta"):
                self._arrays[parameter.name] *= 1 - scalars.decay
        return super().train_step(images, masks, scalars, keep)


class DecayInTheGradient(ReferenceModel):
    """Weight decay coupled, as an L2 penalty: it passes through the moments."""

    _decay = 0.0

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        self._decay = scalars.decay / scalars.step_size
        return super().train_step(images, masks, dataclasses.replace(scalars, decay=0.0), keep)

    def _differentiate(self, images: Array, masks: Array, keep: DropoutMasks) -> Any:
        loss, gradients, statistics = super()._differentiate(images, masks, keep)
        for parameter in self._plan.parameters:
            if parameter.role == "kernel":
                gradients[parameter.name] = (
                    gradients[parameter.name] + self._decay * self._arrays[parameter.name]
                )
        return loss, gradients, statistics


def changed_sgd(**changes: Any) -> Callable[[TrainingRules], TrainingRules]:
    """Rules whose constants of gradient descent are others."""

    def changed(rules: TrainingRules) -> TrainingRules:
        if not isinstance(rules.optimizer, SgdRule):
            return rules
        return dataclasses.replace(rules, optimizer=dataclasses.replace(rules.optimizer, **changes))

    return changed


class NesterovOfTheOldVelocity(ReferenceModel):
    """Nesterov's look ahead with the velocity of the step before."""

    def __init__(self, plan: Plan, rules: TrainingRules, precision: Precision) -> None:
        super().__init__(plan, rules, precision)
        if isinstance(rules.optimizer, SgdRule) and rules.optimizer.nesterov:
            self._optimize = self._behind

    @staticmethod
    def _behind(
        rule: SgdRule, scalars: StepScalars, parameter: Parameter, w: Array, velocity: Array, gradient: Array
    ) -> None:
        del parameter
        before = velocity.copy()
        velocity[...] = rule.momentum * velocity + gradient
        w -= scalars.step_size * (gradient + rule.momentum * before)


class RateInTheVelocity(ReferenceModel):
    """Keras's form, v = momentum * v - rate * g and w += v: another one as soon as the rate changes."""

    def __init__(self, plan: Plan, rules: TrainingRules, precision: Precision) -> None:
        super().__init__(plan, rules, precision)
        self._optimize, self._rate = self._keras, 0.0

    def _keras(
        self,
        rule: SgdRule,
        scalars: StepScalars,
        parameter: Parameter,
        w: Array,
        velocity: Array,
        gradient: Array,
    ) -> None:
        # What is kept is -v / rate, so that at a constant rate nothing differs.
        before = self._rate if scalars.step > 1 else scalars.step_size
        velocity[...] = (rule.momentum * before * velocity + scalars.step_size * gradient) / scalars.step_size
        step = gradient + rule.momentum * velocity if rule.nesterov else velocity
        w -= scalars.step_size * step
        if parameter is self._plan.parameters[-1]:
            self._rate = scalars.step_size


def tversky_exchanged(rules: TrainingRules) -> TrainingRules:
    """False positives weighed as false negatives and the other way round."""
    loss = rules.loss
    turned = dataclasses.replace(loss, tversky_alpha=loss.tversky_beta, tversky_beta=loss.tversky_alpha)
    return dataclasses.replace(rules, loss=turned)


class OtherLovasz(ReferenceModel):
    """Lovasz by a function of its own."""

    lovasz: Callable[[Array, Array], losses.Loss]

    def _differentiate(self, images: Array, masks: Array, keep: DropoutMasks) -> Any:
        original, losses.lovasz = losses.lovasz, type(self).lovasz
        try:
            return super()._differentiate(images, masks, keep)
        finally:
            losses.lovasz = original


class LastOfEqualsFirst(OtherLovasz):
    """The order of equal errors turned round, as a reversed ascending sort leaves them."""

    @staticmethod
    def lovasz(logits: Array, masks: Array) -> losses.Loss:
        value, gradient = LOVASZ(logits[:, ::-1, ::-1], masks[:, ::-1, ::-1])
        return value, gradient[:, ::-1, ::-1]


class OverTheBatch(OtherLovasz):
    """The batch as one image, the paper's other variant."""

    @staticmethod
    def lovasz(logits: Array, masks: Array) -> losses.Loss:
        value, gradient = LOVASZ(logits.reshape(1, -1), masks.reshape(1, -1))
        return value, gradient.reshape(logits.shape)


class EmptyTruthLeftOut(OtherLovasz):
    """Images without truth add nothing, as in the variants for several classes."""

    @staticmethod
    def lovasz(logits: Array, masks: Array) -> losses.Loss:
        present = masks.any(axis=(1, 2, 3))
        value, gradient = LOVASZ(logits[present], masks[present])
        full = np.zeros_like(logits)
        full[present] = gradient
        return value, full


LOVASZ = losses.lovasz


class AddedPixelByPixel(ReferenceModel):
    """Batch norm's sums in float32, one by one, as NumPy adds along the first axes."""

    def _forward(self, images: Array, keep: DropoutMasks | None = None) -> Any:
        original = operations._moments
        operations._moments = lambda x: (x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2)))
        try:
            return super()._forward(images, keep)
        finally:
            operations._moments = original


class WeightsInBfloat16(ReferenceModel):
    """No master weights: what an update leaves is rounded as the products' operands are."""

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        loss = super().train_step(images, masks, scalars, keep)
        for parameter in self._plan.parameters:
            self._arrays[parameter.name][...] = to_bfloat16(self._arrays[parameter.name])
        return loss


class OperandsNotRounded(ReferenceModel):
    """Products of float32 numbers, rounded afterwards."""

    def _operands(self, *arrays: Array) -> Iterator[Array]:
        return iter(arrays)


class OperandsCutOff(ReferenceModel):
    """The lower half of every operand's bits dropped, as a cast by shifting does."""

    def _operands(self, *arrays: Array) -> Iterator[Array]:
        whole = (np.ascontiguousarray(array).view(np.uint32) for array in arrays)
        return ((bits & np.uint32(0xFFFF0000)).view(np.float32) for bits in whole)


class ResultNotRounded(ReferenceModel):
    """Products of bfloat16 numbers left in float32, as `preferred_element_type` does."""

    def _product(self, array: Array) -> Array:
        return array.astype(np.float32)


class BackwardNotRounded(ReferenceModel):
    """Gradients in float32 throughout."""

    def _backward(self, *arguments: Any) -> Any:
        self._mixed = False
        try:
            return super()._backward(*arguments)
        finally:
            self._mixed = True


class ActivationsInBfloat16(ReferenceModel):
    """Bias and batch norm in bfloat16 too, as whole models cast to it have them."""

    def _apply(self, op: Operation, values: Any, keep: DropoutMasks | None) -> Any:
        y = super()._apply(op, values, keep)
        return to_bfloat16(y) if isinstance(op, Bias | BatchNorm) else y


MIXED_MUTANTS: dict[str, tuple[str, type[ReferenceModel]]] = {
    "weights kept in bfloat16": ("products in bfloat16", WeightsInBfloat16),
    "operands not rounded": ("products in bfloat16", OperandsNotRounded),
    "operands cut off": ("products in bfloat16", OperandsCutOff),
    "result not rounded": ("products in bfloat16", ResultNotRounded),
    "gradients not rounded": ("products in bfloat16", BackwardNotRounded),
    "activations in bfloat16": ("products in bfloat16", ActivationsInBfloat16),
    "operands not rounded, in a network": ("convolution", OperandsNotRounded),
    "result not rounded, in a network": ("transposed convolution", ResultNotRounded),
    "gradients not rounded, in a network": ("SGD", BackwardNotRounded),
    "weights kept in bfloat16, in training": ("Adam", WeightsInBfloat16),
}


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
    "weight decay on batch norm": ("weight decay", Mutant(model=DecayOfBatchNorm)),
    "weight decay in the gradient": ("weight decay", Mutant(model=DecayInTheGradient)),
    "Nesterov forgotten": ("SGD", Mutant(rules=changed_sgd(nesterov=False))),
    "Nesterov with the old velocity": ("SGD", Mutant(model=NesterovOfTheOldVelocity)),
    "momentum forgotten": ("SGD", Mutant(rules=changed_sgd(momentum=0.0))),
    "learning rate in the velocity": ("SGD", Mutant(model=RateInTheVelocity)),
    "Tversky's alpha and beta exchanged": ("losses", Mutant(rules=tversky_exchanged)),
    "Lovasz with equal errors in reverse": ("losses", Mutant(model=LastOfEqualsFirst)),
    "Lovasz over the batch": ("losses", Mutant(model=OverTheBatch)),
    "Lovasz without empty images": ("losses", Mutant(model=EmptyTruthLeftOut)),
    "gradient at logit 0": ("losses at extreme logits", Mutant(model=NoSlopeAtZero)),
    "dropout scaled at inference": ("dropout, masks given", Mutant(model=DropoutScaledAtInference)),
}


CHECKS = all_checks()


def of_subject(subject: str) -> list[Check]:
    return [check for check in CHECKS if check.subject == subject]


def caught(mutant: Mutant, subject: str, precision: str) -> list[str]:
    """The reasons why checks failed."""
    outcomes = [examine(check, mutant) for check in of_subject(subject) if check.precision == precision]
    return [outcome.detail for outcome in outcomes if outcome.status == "failed"]


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", MUTANTS)
def test_caught(name: str, precision: str, record_property: Callable[[str, object], None]) -> None:
    subject, mutant = MUTANTS[name]
    reasons = caught(mutant, subject, precision)
    # A mutant is wrong, not broken: it is caught by what it computes.
    telling = [reason for reason in reasons if "relative difference" in reason or "gradient is" in reason]
    assert telling, reasons
    record_property("mutant", f"{name} ({precision}): {subject}: {telling[0]}")


@pytest.mark.parametrize("name", MIXED_MUTANTS)
def test_caught_in_mixed_precision(name: str, record_property: Callable[[str, object], None]) -> None:
    subject, model = MIXED_MUTANTS[name]
    reasons = caught(Mutant(model=model), subject, "mixed_bfloat16")
    telling = [reason for reason in reasons if "relative difference" in reason or "gradient is" in reason]
    assert telling, reasons
    record_property("mutant", f"{name} (mixed_bfloat16): {subject}: {telling[0]}")


def test_sums_that_lose_digits_are_caught(record_property: Callable[[str, object], None]) -> None:
    # In float64 nothing is lost, and other checks have too few pixels for it to show.
    reasons = caught(Mutant(model=AddedPixelByPixel), "batch norm", "float32")
    assert len(reasons) == 1
    assert "relative difference" in reasons[0]
    record_property("mutant", f"sums added pixel by pixel (float32): batch norm: {reasons[0]}")


class FirstBatchAlone(Loader):
    """The first batch is shuffled, the others come as they lie in the file."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        order, first = self._indices.copy(), self.batch_size
        order[:first] = order[permutation(self.seed or 0, "order", epoch, count=first)]
        return order


class WithinBatches(Loader):
    """Every batch is shuffled in itself: always the same images together."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        parts = np.split(self._indices, range(self.batch_size, self.images, self.batch_size))
        return np.concatenate([part[permutation(epoch, count=len(part))] for part in parts])


class OnceForAll(Loader):
    """The first epoch's order for all of them."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        return super().order(0)


class Rotated(Loader):
    """Every epoch begins elsewhere and goes on in the file's order."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        return np.roll(self._indices, -int(permutation(epoch, count=self.images)[0]))


@pytest.mark.parametrize("kind", [FirstBatchAlone, WithinBatches, OnceForAll, Rotated])
def test_an_order_that_is_not_random_is_caught(
    kind: type[Loader], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    write_store(tmp_path / "a.h5")
    with Store.open(tmp_path / "a.h5") as store:
        reason = unshuffled(kind(store, np.arange(COUNT), 3, seed=1))
        assert unshuffled(Loader(store, np.arange(COUNT), 3, seed=1)) is None
    assert reason is not None
    assert kind.__doc__ is not None
    name = kind.__doc__.splitlines()[0].rstrip(".")
    record_property("mutant", f"shuffling: {name}: {reason}")


class Unmixed(Loader):
    """The positives of a batch always come first."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        order = super().order(epoch)
        batch = np.arange(self.images) // self.batch_size
        return order[np.lexsort((~self.store.positive[order], batch))]


class Independent(Loader):
    """Every place's image is drawn anew, with replacement."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        order = super().order(epoch)
        lots = uniform(epoch, shape=(self.images,))
        for label in (True, False):
            members = self._indices[self.store.positive == label]
            places = np.flatnonzero(self.store.positive[order] == label)
            order[places] = members[(lots[places] * len(members)).astype(int)]
        return order


class DealtAnew(Loader):
    """Every epoch begins with packs of its own."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        return self._indices[sampled(self._positive, self.batch_size, SAMPLING, epoch, 1)]


class SamePacks(Loader):
    """The packs are shuffled once for all."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        order = super().order(epoch)
        for label in (True, False):
            members = np.flatnonzero(self.store.positive == label)
            places = np.flatnonzero(self.store.positive[order] == label)
            order[places] = members[(4 * (epoch - 1) + np.arange(len(places))) % len(members)]
        return order


class RoundedBatchByBatch(Loader):
    """Each batch rounds its share by itself."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        sizes = [3, 3, 2]
        parts = [
            sampled(self._positive, 3, SAMPLING, epoch, number)[:size] for number, size in enumerate(sizes)
        ]
        return np.concatenate(parts)


@pytest.mark.parametrize("kind", [Unmixed, Independent, DealtAnew, SamePacks, RoundedBatchByBatch])
def test_sampling_that_is_not_as_promised_is_caught(
    kind: type[Loader], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    write_store(tmp_path / "a.h5")
    with Store.open(tmp_path / "a.h5") as store:
        assert badly_sampled(Loader(store, np.arange(COUNT), 3, 1, SAMPLING)) is None
        reason = badly_sampled(kind(store, np.arange(COUNT), 3, 1, SAMPLING))
    assert reason is not None
    name = (kind.__doc__ or "").splitlines()[0].rstrip(".")
    record_property("mutant", f"sampling: {name}: {reason}")


def test_without_an_error_nothing_is_caught() -> None:
    subjects = {subject for subject, _ in [*MUTANTS.values(), *MIXED_MUTANTS.values()]}
    for subject in subjects:
        for check in of_subject(subject):
            assert examine(check, Mutant()).status == "passed", str(check)
