"""The reference with one deliberate error each: plans, rules and models for `test_mutants`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from backends.reference import layers, losses, operations, optimizers
from backends.reference.model import ReferenceModel
from core.backend.contract import Array, Derivatives, DropoutMasks, Implementation, Precision, State
from core.backend.state import GOOD_STEPS, LOSS_SCALE, average_name
from core.backend.trained_part import trained_part
from core.backend.training_rules import SgdRule, StepScalars, TrainingRules, step_scalars
from core.base.rounding import to_bfloat16, to_tf32
from core.network.plan import (
    Activation,
    Add,
    Affine,
    AveragePool2D,
    BatchNorm,
    Bias,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    GlobalMean,
    GroupedConv2D,
    MaxPool2D,
    Multiply,
    Operation,
    Parameter,
    Plan,
    Upsample,
)


class Mutant:
    """The reference with changed plans, rules or models; it has `call`, as a backend's process has."""

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
    """Return a function that changes every operation of one kind in a plan."""

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
        found = super()._differentiate(images, masks, keep)
        divided = {name: array / len(images) for name, array in found.gradients.items()}
        return found._replace(gradients=divided)


class NoSlopeAtZero(ReferenceModel):
    """As in Gluon: max(x, 0) - x*z + log(1 + exp(-|x|)), with a derivative of 0 at 0 for each part."""

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
    """Height and width of the kernels are exchanged."""

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
    """The step size of the previous update: a learning rate off by one step."""

    _previous: StepScalars | None = None

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        late, self._previous = self._previous or scalars, scalars
        return super().train_step(images, masks, late, keep)


class CorrectionOffByOne(ReferenceModel):
    """Adam's bias correction with the number of the next step."""

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        rule = self._rules
        wrong = (
            step_scalars(rule, scalars.step + 1, 1.0).step_size
            / step_scalars(rule, scalars.step, 1.0).step_size
        )
        return super().train_step(
            images, masks, dataclasses.replace(scalars, step_size=scalars.step_size * wrong), keep
        )


class DecayOfBatchNorm(ReferenceModel):
    """Weight decay also on the scales and shifts of batch norm."""

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        for parameter in self._plan.parameters:
            if parameter.role in ("gamma", "beta"):
                self._arrays[parameter.name] *= 1 - scalars.decay
        return super().train_step(images, masks, scalars, keep)


class DecayInTheGradient(ReferenceModel):
    """Coupled weight decay: an L2 penalty, which passes through the moments."""

    _decay = 0.0

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        self._decay = scalars.decay / scalars.step_size
        return super().train_step(images, masks, dataclasses.replace(scalars, decay=0.0), keep)

    def _differentiate(self, images: Array, masks: Array, keep: DropoutMasks) -> Any:
        found = super()._differentiate(images, masks, keep)
        for parameter in self._plan.parameters:
            if parameter.role == "kernel":
                found.gradients[parameter.name] = (
                    found.gradients[parameter.name] + self._decay * self._arrays[parameter.name]
                )
        return found


class FrozenNormalisesByTheBatch(ReferenceModel):
    """Batch norms of frozen blocks normalise by the batch in training, though their statistics stay."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        whole = frozenset(op.name for op in self._plan.batch_norms)
        vars(self._trained)["by_batch"] = whole  # a cached property


class FrozenStatisticsMove(ReferenceModel):
    """The running statistics of frozen blocks move towards the batch's."""

    def _differentiate(self, images: Array, masks: Array, keep: DropoutMasks) -> Any:
        for op in self._plan.batch_norms:
            if op.name not in self._trained.by_batch:
                x = self._forward(images, keep)[op.input]
                running = self._arrays[op.moving_mean]
                running[...] = op.momentum * running + (1 - op.momentum) * x.mean(axis=(0, 1, 2))
        return super()._differentiate(images, masks, keep)


class DecayOfFrozenKernels(ReferenceModel):
    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        for parameter in self._plan.parameters:
            if parameter.role == "kernel" and parameter.name not in self._trained.groups:
                self._arrays[parameter.name] *= 1 - scalars.decay
        super().update(gradients, statistics, scalars)


class ClippingCountsFrozen(ReferenceModel):
    """The norm of clipping counts the gradients of frozen blocks too."""

    def __init__(self, plan: Plan, rules: TrainingRules, precision: Precision) -> None:
        super().__init__(plan, rules, precision)
        whole = trained_part(plan, dataclasses.replace(rules, frozen=(), rates=()))
        vars(whole)["by_batch"] = self._trained.by_batch
        self._counted = dataclasses.replace(self._trained, tensors=whole.tensors, groups=whole.groups)
        vars(self._counted)["by_batch"] = self._trained.by_batch

    def _differentiate(self, images: Array, masks: Array, keep: DropoutMasks) -> Any:
        trained, self._trained = self._trained, self._counted
        found = super()._differentiate(images, masks, keep)
        self._trained = trained
        self._extra = {name: g for name, g in found.gradients.items() if name not in trained.groups}
        return found._replace(gradients={name: found.gradients[name] for name in trained.groups})

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        super().update({**gradients, **self._extra}, statistics, scalars)


class NothingThroughFrozen(ReferenceModel):
    """The gradient ends at a frozen block, and does not reach those before it."""

    def _backward(self, op: Operation, *arguments: Any) -> Any:
        found = super()._backward(op, *arguments)
        frozen = op.name.split("/")[0] in self._rules.frozen
        return [0 * dx for dx in found] if frozen else found


class RateWithoutDecay(ReferenceModel):
    """A block's factor multiplies its step and not its decay."""

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        rated = tuple((size, scalars.decay) for size, _ in scalars.rated)
        super().update(gradients, statistics, dataclasses.replace(scalars, rated=rated))


class RatesExchanged(ReferenceModel):
    """The factors of two blocks are exchanged."""

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        exchanged = dataclasses.replace(scalars, rated=scalars.rated[::-1])
        super().update(gradients, statistics, exchanged)


class AverageBeforeTheUpdate(ReferenceModel):
    """The moving average takes in the arrays before the update."""

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        if self._rules.average_decay is not None:
            super()._average(scalars)
        super().update(gradients, statistics, scalars)

    def _average(self, scalars: StepScalars) -> None:
        pass


class AverageOfWeightsAlone(ReferenceModel):
    """The moving average of running statistics is the statistics themselves."""

    def _average(self, scalars: StepScalars) -> None:
        super()._average(scalars)
        for array in self._plan.statistics:
            self._arrays[average_name(array.name)][...] = self._arrays[array.name]


class AverageWithoutWarmUp(ReferenceModel):
    """The moving average has its full decay from the first step on."""

    def _average(self, scalars: StepScalars) -> None:
        share = 1 - (self._rules.average_decay or 0.0)
        super()._average(dataclasses.replace(scalars, average_share=share))


PARTIAL_MUTANTS: dict[str, tuple[str, Mutant]] = {
    "frozen batch norm by the batch": ("frozen blocks", Mutant(model=FrozenNormalisesByTheBatch)),
    "frozen statistics move": ("frozen blocks", Mutant(model=FrozenStatisticsMove)),
    "frozen kernels decay": ("frozen blocks", Mutant(model=DecayOfFrozenKernels)),
    "clipping counts frozen blocks": ("frozen blocks", Mutant(model=ClippingCountsFrozen)),
    "no gradient through frozen blocks": ("frozen blocks", Mutant(model=NothingThroughFrozen)),
    "a block's rate without its decay": ("rates by block", Mutant(model=RateWithoutDecay)),
    "rates of two blocks exchanged": ("rates by block", Mutant(model=RatesExchanged)),
    "average before the update": ("moving average", Mutant(model=AverageBeforeTheUpdate)),
    "average of weights alone": ("moving average", Mutant(model=AverageOfWeightsAlone)),
    "average without its warm-up": ("moving average", Mutant(model=AverageWithoutWarmUp)),
}
"""Errors in frozen blocks, in rates by block, and in the moving average."""


def changed_sgd(**changes: Any) -> Callable[[TrainingRules], TrainingRules]:
    """Return a function that changes constants of gradient descent in the rules."""

    def changed(rules: TrainingRules) -> TrainingRules:
        if not isinstance(rules.optimizer, SgdRule):
            return rules
        return dataclasses.replace(rules, optimizer=dataclasses.replace(rules.optimizer, **changes))

    return changed


class NesterovOfTheOldVelocity(ReferenceModel):
    """Nesterov's momentum with the velocity of the previous step."""

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
    """Keras's form, v = momentum * v - rate * g and w += v, which differs once the rate changes."""

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
        # The stored array is -v / rate, so that nothing differs at a constant rate.
        before = self._rate if scalars.step > 1 else scalars.step_size
        velocity[...] = (rule.momentum * before * velocity + scalars.step_size * gradient) / scalars.step_size
        step = gradient + rule.momentum * velocity if rule.nesterov else velocity
        w -= scalars.step_size * step
        if parameter is self._plan.parameters[-1]:
            self._rate = scalars.step_size


def tversky_exchanged(rules: TrainingRules) -> TrainingRules:
    """Exchange the weights of false positives and false negatives."""
    loss = rules.loss
    turned = dataclasses.replace(loss, tversky_alpha=loss.tversky_beta, tversky_beta=loss.tversky_alpha)
    return dataclasses.replace(rules, loss=turned)


class OtherLovasz(ReferenceModel):
    """Base class: the Lovasz hinge computed by the function `lovasz`."""

    lovasz: Callable[[Array, Array], losses.Loss]

    def _differentiate(self, images: Array, masks: Array, keep: DropoutMasks) -> Any:
        original, losses.lovasz = losses.lovasz, type(self).lovasz
        try:
            return super()._differentiate(images, masks, keep)
        finally:
            losses.lovasz = original


class LastOfEqualsFirst(OtherLovasz):
    """Equal errors in reverse order, as a reversed ascending sort leaves them."""

    @staticmethod
    def lovasz(logits: Array, masks: Array) -> losses.Loss:
        value, gradient = LOVASZ(logits[:, ::-1, ::-1], masks[:, ::-1, ::-1])
        return value, gradient[:, ::-1, ::-1]


class OverTheBatch(OtherLovasz):
    """The batch treated as one image, which is the paper's other variant."""

    @staticmethod
    def lovasz(logits: Array, masks: Array) -> losses.Loss:
        value, gradient = LOVASZ(logits.reshape(1, -1), masks.reshape(1, -1))
        return value, gradient.reshape(logits.shape)


class EmptyTruthLeftOut(OtherLovasz):
    """Images without positive pixels are omitted, as in the variants for several classes."""

    @staticmethod
    def lovasz(logits: Array, masks: Array) -> losses.Loss:
        present = masks.any(axis=(1, 2, 3))
        value, gradient = LOVASZ(logits[present], masks[present])
        full = np.zeros_like(logits)
        full[present] = gradient
        return value, full


LOVASZ = losses.lovasz


def existence_unweighted(rules: TrainingRules) -> TrainingRules:
    """Weigh the existence head's loss by 1, whatever the rules say."""
    return dataclasses.replace(rules, loss=dataclasses.replace(rules.loss, existence=1.0))


def existence_of_the_first_block(plan: Plan) -> Plan:
    """Let the existence head read the first block's output where it has as many channels."""
    tensors = {op.output.name: op.output for op in plan.operations}
    first = tensors[plan.blocks[0][1]]

    def changed(op: Operation) -> Operation:
        is_head = isinstance(op, GlobalMean) and op.name.startswith("existence/")
        fits = is_head and tensors[op.input].channels == first.channels
        return dataclasses.replace(op, inputs=(first.name,)) if fits else op

    return dataclasses.replace(plan, operations=tuple(map(changed, plan.operations)))


class OtherExistence(ReferenceModel):
    """Base class: the existence head is trained on `labels`, (N, 1, 1, 1), of the masks."""

    labels: Callable[[Array], Array]

    def _loss(self, values: Any, masks: Array) -> Any:
        original, labels = losses.existence, type(self).labels
        losses.existence = lambda rule, logits, masks: original(rule, logits, labels(masks))
        try:
            return super()._loss(values, masks)
        finally:
            losses.existence = original


class LabelOfTheNextImage(OtherExistence):
    """Each image's existence is trained on the mask of another one."""

    @staticmethod
    def labels(masks: Array) -> Array:
        return np.roll(masks, 1, axis=0)


class ShareOfPositivePixels(OtherExistence):
    """The mean of a mask, in place of whether any pixel is positive."""

    @staticmethod
    def labels(masks: Array) -> Array:
        return masks.mean(axis=(1, 2, 3), keepdims=True, dtype=masks.dtype)


class ExistenceDetached(ReferenceModel):
    """The existence head's gradient ends at the head, and does not reach the block that it reads."""

    def _backward(self, op: Operation, *arguments: Any) -> Any:
        found = super()._backward(op, *arguments)
        return [0 * dx for dx in found] if op.name == "existence/mean" else found


class AddedPixelByPixel(ReferenceModel):
    """Batch norm's sums in float32 one by one, as NumPy adds along the first axes."""

    def _forward(self, images: Array, keep: DropoutMasks | None = None) -> Any:
        original = operations._moments
        operations._moments = lambda x: (x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2)))
        try:
            return super()._forward(images, keep)
        finally:
            operations._moments = original


class WeightsInBfloat16(ReferenceModel):
    """No master weights: weights are rounded to bfloat16 after each update."""

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        loss = super().train_step(images, masks, scalars, keep)
        for parameter in self._plan.parameters:
            self._arrays[parameter.name][...] = to_bfloat16(self._arrays[parameter.name])
        return loss


class OperandsNotRounded(ReferenceModel):
    """Products of float32 operands; only the result is rounded."""

    def _operands(self, *arrays: Array) -> Iterator[Array]:
        return iter(arrays)


class OperandsCutOff(ReferenceModel):
    """Operands truncated to their upper 16 bits instead of rounded, as a cast by shifting does."""

    kept = np.uint32(0xFFFF0000)

    def _operands(self, *arrays: Array) -> Iterator[Array]:
        whole = (np.ascontiguousarray(array).view(np.uint32) for array in arrays)
        return ((bits & self.kept).view(np.float32) for bits in whole)


class OperandsCutOffToTf32(OperandsCutOff):
    """Operands truncated to the 10 upper bits of their fraction instead of rounded."""

    kept = np.uint32(0xFFFFE000)


class ResultRoundedToTf32(ReferenceModel):
    """Products whose result is rounded as the operands are."""

    def _product(self, array: Array) -> Array:
        return to_tf32(array.astype(np.float32))


class ResultNotRounded(ReferenceModel):
    """Products of bfloat16 operands whose result stays float32, as with `preferred_element_type`."""

    def _product(self, array: Array) -> Array:
        return array.astype(np.float32)


class BackwardNotRounded(ReferenceModel):
    """Gradients computed entirely in float32."""

    def _backward(self, *arguments: Any) -> Any:
        narrow, self._narrow = self._narrow, None
        try:
            return super()._backward(*arguments)
        finally:
            self._narrow = narrow


class ActivationsInBfloat16(ReferenceModel):
    """Bias and batch norm in bfloat16 too, as in models that are cast entirely."""

    def _apply(self, op: Operation, values: Any, keep: DropoutMasks | None) -> Any:
        y = super()._apply(op, values, keep)
        return to_bfloat16(y) if isinstance(op, Bias | BatchNorm) else y


class SubnormalsFlushed(ReferenceModel):
    """Numbers below 2**-14 taken for 0, as XLA's `reduce_precision` to float16 does."""

    def _operands(self, *arrays: Array) -> Iterator[Array]:
        return (np.where(np.abs(array) < 2.0**-14, 0, array) for array in super()._operands(*arrays))


class NotUnscaled(ReferenceModel):
    """Gradients of the scaled loss, which are not divided by the scale again."""

    def _differentiate(self, *arguments: Any) -> Derivatives:
        found, scale = super()._differentiate(*arguments), self._arrays[LOSS_SCALE][0]
        return found._replace(gradients={name: g * scale for name, g in found.gradients.items()})


class ClippedWhileScaled(ReferenceModel):
    """Clipping sees gradients of the scaled loss."""

    def _update(self, gradients: State, *others: Any) -> None:
        scale, norm = self._arrays[LOSS_SCALE][0], self._rules.clip_norm
        self._rules = dataclasses.replace(self._rules, clip_norm=norm and norm / float(scale))
        super()._update(gradients, *others)
        self._rules = dataclasses.replace(self._rules, clip_norm=norm)


class OverflowNotSkipped(ReferenceModel):
    """Updates with gradients that are not finite, which the scale alone takes notice of."""

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        super().update(gradients, statistics, scalars)
        if not optimizers.all_finite(gradients):
            self._update(gradients, statistics, scalars)


class StatisticsOfSkippedUpdates(ReferenceModel):
    """Running statistics that move with every batch, as in frameworks where the forward pass moves them."""

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        super().update(gradients, statistics, scalars)
        if not optimizers.all_finite(gradients):
            for operation in self._plan.batch_norms:
                for name in (operation.moving_mean, operation.moving_variance):
                    momentum = np.float32(operation.momentum)
                    self._arrays[name] = momentum * self._arrays[name] + (1 - momentum) * statistics[name]


class ScaleNeverFalls(ReferenceModel):
    """A scale that is not divided after an overflow."""

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        before = self._arrays[LOSS_SCALE].copy()
        super().update(gradients, statistics, scalars)
        self._arrays[LOSS_SCALE] = np.maximum(before, self._arrays[LOSS_SCALE])


class GoodStepsNotInARow(ReferenceModel):
    """Good steps that an overflow does not count anew."""

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        before = self._arrays[GOOD_STEPS].copy()
        super().update(gradients, statistics, scalars)
        if not optimizers.all_finite(gradients):
            self._arrays[GOOD_STEPS] = before


def with_layer(
    kind: type[Operation],
    forward: Callable[..., Array] | None = None,
    backward: Callable[..., list[Array]] | None = None,
) -> type[ReferenceModel]:
    """Return the reference with another function, or another gradient, of one kind of operation.

    Both get the operation and its inputs; the gradient gets that of the result, too.
    """

    class Changed(ReferenceModel):
        def _apply(self, op: Operation, values: Any, keep: DropoutMasks | None) -> Any:
            if forward is not None and isinstance(op, kind):
                return forward(op, *(values[name] for name in op.inputs))
            return super()._apply(op, values, keep)

        def _backward(self, op: Operation, values: Any, dy: Array, keep: Any, gradients: Any) -> Any:
            if backward is not None and isinstance(op, kind):
                return backward(op, *(values[name] for name in op.inputs), dy)
            return super()._backward(op, values, dy, keep, gradients)

    return Changed


def last_of_equal_maxima(op: MaxPool2D, x: Array, dy: Array) -> list[Array]:
    """The gradient at the last of equal numbers in row order: that of the turned image."""
    turned = dataclasses.replace(op, pads=tuple((end, begin) for begin, end in op.pads))
    found = layers.max_pool2d_backward(turned, x[:, ::-1, ::-1], dy[:, ::-1, ::-1])
    whole = all(
        (size + sum(pads) - op.kernel_size[0]) % op.stride == 0
        for size, pads in zip(x.shape[1:], op.pads, strict=False)
    )
    return [found[0][:, ::-1, ::-1]] if whole else layers.max_pool2d_backward(op, x, dy)


def shared_by_equal_maxima(op: MaxPool2D, x: Array, dy: Array) -> list[Array]:
    """The gradient at every largest number of a window, as a comparison with the maximum gives it."""
    padded, y = operations.pad(x, op.pads, -np.inf), layers.max_pool2d(op, x)
    found = np.zeros_like(padded)
    for _, _, tap in operations.taps(op):
        found[tap] += np.where(padded[tap] == y, dy, 0)
    return [operations.crop(found, op.pads, x.shape)]


def padded_with_zeros(op: MaxPool2D, x: Array) -> Array:
    """Pads of 0 take part in the maximum."""
    return np.max(np.stack([operations.pad(x, op.pads)[tap] for _, _, tap in operations.taps(op)]), axis=0)


def pads_counted(op: AveragePool2D, x: Array) -> Array:
    """The sum is divided by the window's size (`count_include_pad`)."""
    windows = [operations.pad(x, op.pads)[tap] for _, _, tap in operations.taps(op)]
    return np.asarray(np.mean(np.stack(windows), axis=0), x.dtype)


def slope_at_the_kinks(op: Activation, x: Array, dy: Array) -> list[Array]:
    """ReLU6 passes the gradient on at 0 and at 6."""
    if op.function != "relu6":
        return layers.activation_backward(op, x, dy)
    return [np.where((x >= 0) & (x <= 6), dy, 0)]


def corners_aligned(op: Upsample, x: Array) -> Array:
    """Bilinear interpolation between the centres of the corners' pixels (`align_corners=True`)."""
    if op.method != "bilinear":
        return layers.upsample(op, x)
    for axis in (1, 2):
        length = x.shape[axis]
        places = np.linspace(0, length - 1, length * op.factor)
        low = np.minimum(places.astype(int), max(length - 2, 0))
        share = (places - low).reshape([-1 if n == axis else 1 for n in range(4)])
        high = np.minimum(low + 1, length - 1)
        x = np.asarray(x.take(low, axis) * (1 - share) + x.take(high, axis) * share, x.dtype)
    return x


def groups_interleaved(op: GroupedConv2D, x: Array) -> Array:
    """Channels dealt out to the groups in turn."""
    channels = x.shape[3]
    return x[..., np.arange(channels).reshape(channels // op.groups, op.groups).T.reshape(-1)]


class GroupsInterleaved(ReferenceModel):
    """Channel c is in group c mod groups, not in consecutive parts."""

    def _apply(self, op: Operation, values: Any, keep: DropoutMasks | None) -> Any:
        if isinstance(op, GroupedConv2D):
            return operations.conv2d(op, groups_interleaved(op, values[op.input]), self._arrays[op.kernel])
        return super()._apply(op, values, keep)


class GroupsNotRounded(ReferenceModel):
    """Convolutions with groups or a dilation in float32, all others in 16 bits."""

    def _apply(self, op: Operation, values: Any, keep: DropoutMasks | None) -> Any:
        narrow, self._narrow = self._narrow, None if isinstance(op, GroupedConv2D) else self._narrow
        try:
            return super()._apply(op, values, keep)
        finally:
            self._narrow = narrow


def sum_for_mean(op: GlobalMean, x: Array) -> Array:
    """Squeeze-and-excitation sees sums."""
    del op
    return np.asarray(x.sum(axis=(1, 2), keepdims=True), x.dtype)


def nothing_to_the_second(op: Operation, x: Array, other: Array, dy: Array) -> list[Array]:
    """The gradient of the second input, a shortcut or a channel's scale, is forgotten."""
    del x
    return [dy * other if isinstance(op, Multiply) else dy, np.zeros_like(other)]


def shifted_first(op: Affine) -> Affine:
    """The input is shifted before it is scaled."""
    return dataclasses.replace(op, shift=tuple(m * s for m, s in zip(op.shift, op.scale, strict=True)))


def changed(kind: type[Operation], **fields: Any) -> Mutant:
    """Return the reference that reads other fields in every operation of one kind."""
    return Mutant(each(kind, lambda op: dataclasses.replace(op, **fields)))


def layer(
    kind: type[Operation],
    forward: Callable[..., Array] | None = None,
    backward: Callable[..., list[Array]] | None = None,
) -> Mutant:
    """Return `with_layer` as a mutant."""
    return Mutant(model=with_layer(kind, forward, backward))


LAYER_MUTANTS: dict[str, tuple[str, Mutant]] = {
    "gradient to the last of equal maxima": ("max pool", layer(MaxPool2D, None, last_of_equal_maxima)),
    "gradient to all equal maxima": ("max pool", layer(MaxPool2D, None, shared_by_equal_maxima)),
    "max pool padded with zeros": ("max pool", layer(MaxPool2D, padded_with_zeros)),
    "average pool counts its pads": ("average pool", layer(AveragePool2D, pads_counted)),
    "slope of ReLU6 at its kinks": ("activations", layer(Activation, None, slope_at_the_kinks)),
    "slope of leaky ReLU": ("activations", changed(Activation, slope=0.2)),
    "bilinear with aligned corners": ("upsampling", layer(Upsample, corners_aligned)),
    "nearest for bilinear": ("upsampling", changed(Upsample, method="nearest")),
    "groups interleaved": ("groups", Mutant(model=GroupsInterleaved)),
    "pads of a grouped convolution shifted": ("groups", Mutant(each(GroupedConv2D, padding_shifted))),
    "dilation forgotten": ("dilation", changed(GroupedConv2D, dilation=1)),
    "no gradient to the shortcut": ("residual blocks", layer(Add, None, nothing_to_the_second)),
    "no gradient to the squeeze": ("residual blocks", layer(Multiply, None, nothing_to_the_second)),
    "squeeze sums": ("residual blocks", layer(GlobalMean, sum_for_mean)),
    "input shifted before it is scaled": ("input", Mutant(each(Affine, shifted_first))),
}
"""Errors in the operations of networks from the literature."""
