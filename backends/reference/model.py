"""A plan compiled to NumPy: it computes the operations forward, and backward by the chain rule.

The reference for float32 is this model in float64. With `moves` (`core.tolerance.budget`) it shows the effect
of rounding: the weights, the images, and every result of an operation and of a gradient are perturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from backends.reference import losses, operations, optimizers
from backends.reference.devices import list_devices
from backends.reference.layers import LAYERS
from backends.reference.operations import Floats
from core.backend.contract import (
    Array,
    Derivatives,
    DropoutMasks,
    Precision,
    State,
    array_type,
    product_type,
)
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.state import LOSS_SCALE, average_name, check_state, slot_name, state_shapes
from core.backend.trained_part import trained_part
from core.backend.training_rules import StepScalars, TrainingRules
from core.base.byte_images import as_numbers
from core.base.rounding import to_narrow
from core.network.plan import (
    BatchNorm,
    Bias,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Existence,
    GroupedConv2D,
    Operation,
    Plan,
    Relu,
    require_operations,
    unknown_operation,
)
from core.tolerance.budget import Perturbation, jump_units

OPERATIONS = (
    *(BatchNorm, Bias, Concat, Conv2D, ConvTranspose2D, Dropout, Existence, GroupedConv2D, Relu),
    *LAYERS,
)
"""The operations that the model computes: all that may stand before the sigmoid."""

__all__ = ["ReferenceModel", "compile", "compile_reference", "list_devices"]

F = TypeVar("F", bound=Callable[..., Any])


def _without_warnings(method: F) -> F:
    """Silence NumPy's warnings in a method: a run that diverges shows it by its loss, as in any framework."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")(method)


class ReferenceModel:
    """Model in NumPy; `core.backend.contract.Model` specifies the methods."""

    def __init__(
        self,
        plan: Plan,
        rules: TrainingRules,
        precision: Precision,
        dtype: Literal["float32", "float64"] | None = None,
        moves: Perturbation | None = None,
    ) -> None:
        self._plan, self._rules, self._trained = plan, rules, trained_part(plan, rules)
        self._dtype = np.dtype(dtype or array_type(precision))
        self._optimize = optimizers.update_of(rules.optimizer)
        self._narrow, self._moves = product_type(precision), moves
        self._arrays: dict[str, Floats] = {
            name: np.zeros(shape, self._dtype) for name, shape in state_shapes(plan, rules).items()
        }

    @_without_warnings
    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        """Update the model; return the loss before the update."""
        loss, _ = self._step(images, masks, scalars, keep)
        return loss

    @_without_warnings
    def _step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> tuple[float, State]:
        """Update the model; return the loss and the gradients before the update."""
        if keep is None:
            keep = draw_dropout_masks(self._plan, self._rules.seed, scalars.step, len(images))
        found = self._differentiate(images, masks, keep)
        self.update(found.gradients, found.statistics, scalars)
        return found.loss, found.gradients

    @_without_warnings
    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        """Update the model with the gradients and statistics of a batch, or skip the update."""
        if self._rules.loss_scale is None:
            self._update(gradients, statistics, scalars)
            return
        before, finite = self.state(), optimizers.all_finite(gradients)
        self._update(gradients, statistics, scalars)
        if not finite:
            self._arrays.update(before)
        optimizers.adapt_loss_scale(self._rules.loss_scale, self._arrays, finite)

    def _update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        if self._rules.clip_norm is not None:
            gradients = optimizers.clip_by_global_norm(gradients, self._rules.clip_norm)
        groups = scalars.groups
        for parameter in self._trained.parameters:
            name = parameter.name
            slots = [self._arrays[slot_name(slot, name)] for slot in self._rules.optimizer.slots]
            of_group = groups[self._trained.groups[name]]
            self._optimize(
                self._rules.optimizer, of_group, parameter, self._arrays[name], *slots, gradients[name]
            )
        for operation in self._trained.batch_norms:
            momentum = self._dtype.type(operation.momentum)
            for name in (operation.moving_mean, operation.moving_variance):
                running = self._arrays[name]
                running[...] = momentum * running + (1 - momentum) * statistics[name]
        if self._rules.average_decay is not None:
            self._average(scalars)

    def _average(self, scalars: StepScalars) -> None:
        """Move the moving averages towards their arrays."""
        for array in self._plan.arrays:
            average = self._arrays[average_name(array.name)]
            average += self._dtype.type(scalars.average_share) * (self._arrays[array.name] - average)

    @_without_warnings
    def evaluate(self, images: Array, masks: Array) -> tuple[float, NDArray[Any]]:
        """Return loss and probabilities with running statistics."""
        values = self._forward(images)
        loss, _ = self._loss(values, masks)
        return float(loss), operations.sigmoid(values[self._plan.logits])

    @_without_warnings
    def predict(self, images: Array) -> NDArray[Any]:
        """Return probabilities."""
        return operations.sigmoid(self._forward(images)[self._plan.logits])

    @_without_warnings
    def predict_with_existence(self, images: Array) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return probabilities, and those of existence."""
        values = self._forward(images)
        existence = operations.sigmoid(values[self._plan.existence_logit or ""])
        return operations.sigmoid(values[self._plan.logits]), existence.reshape(-1)

    @_without_warnings
    def differentiate(
        self, images: Array, masks: Array, keep: DropoutMasks | None = None, draw: int = 0
    ) -> Derivatives:
        """Return training loss, gradients and the batch's statistics; change nothing."""
        if keep is None:
            keep = draw_dropout_masks(self._plan, self._rules.seed, draw, len(images))
        return self._differentiate(images, masks, keep)

    def state(self) -> State:
        """Return copies of all arrays."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put arrays back."""
        check_state(state, state_shapes(self._plan, self._rules))
        for name, array in self._arrays.items():
            array[...] = state[name]
        for parameter in self._plan.parameters:
            self._arrays[parameter.name][...] = self._moved(self._arrays[parameter.name])

    def export(self, directory: Path, metadata: Mapping[str, str]) -> None:
        """Write weights and statistics as `weights.npz`."""
        del metadata  # the format has no place for it
        directory.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {array.name: self._arrays[array.name] for array in self._plan.arrays}
        np.savez(directory / "weights.npz", **arrays)

    def _forward(self, images: Array, keep: DropoutMasks | None = None) -> dict[str, Floats]:
        """Return every tensor by name; in training (with `keep`), also the batch's statistics."""
        values: dict[str, Floats] = {
            self._plan.input.name: self._moved(as_numbers(images).astype(self._dtype))
        }
        for op in self._plan.forward:
            values[op.output.name] = self._apply(op, values, keep)
        return values

    def _apply(self, op: Operation, values: dict[str, Floats], keep: DropoutMasks | None) -> Floats:
        x, arrays = values[op.input], self._arrays
        match op:
            case Conv2D():
                return self._product(operations.conv2d(op, *self._operands(x, arrays[op.kernel])))
            case ConvTranspose2D():
                return self._product(operations.conv_transpose2d(op, *self._operands(x, arrays[op.kernel])))
            case Bias():
                return self._moved(operations.bias(op, x, arrays[op.bias]))
            case Relu():
                return operations.relu(op, x)
            case BatchNorm():
                y, values[op.moving_mean], values[op.moving_variance] = operations.batch_norm(
                    op,
                    x,
                    arrays[op.gamma],
                    arrays[op.beta],
                    arrays[op.moving_mean],
                    arrays[op.moving_variance],
                    training=keep is not None and op.name in self._trained.by_batch,
                    rounded=self._moved,
                )
                return y
            case Dropout():
                return x if keep is None else operations.dropout(op, x, keep[op.name])
            case Concat():
                return operations.concat(op, [values[name] for name in op.inputs])
            case _ if layer := LAYERS.get(type(op)):
                y = layer.forward(op, *(values[name] for name in op.inputs))
                return self._moved(y) if layer.rounds else y
        raise unknown_operation(op, "reference")

    def _differentiate(self, images: Array, masks: Array, keep: DropoutMasks) -> Derivatives:
        values = self._forward(images, keep)
        loss, d_logits = self._loss(values, masks)
        scale = self._dtype.type(1) if self._rules.loss_scale is None else self._arrays[LOSS_SCALE][0]
        flowing = {name: self._moved(slope) * scale for name, slope in d_logits.items()}
        gradients: dict[str, Floats] = {}
        for op in reversed(self._plan.forward):
            dy = flowing.pop(op.output.name, None)
            if dy is None or op.output.name not in self._trained.tensors:
                continue
            for name, dx in zip(op.inputs, self._backward(op, values, dy, keep, gradients), strict=True):
                flowing[name] = flowing[name] + dx if name in flowing else dx
        trained = {name: g / scale for name, g in gradients.items() if name in self._trained.groups}
        statistics = {array.name: values[array.name] for array in self._trained.statistics}
        return Derivatives(float(loss), trained, statistics)

    def _loss(self, values: Mapping[str, Floats], masks: Array) -> tuple[np.floating[Any], dict[str, Floats]]:
        """Return the loss, and its gradient for each of the logits by the name of their tensor."""
        rule, truth = self._rules.loss, masks.astype(self._dtype)
        loss, slope = losses.total(rule, values[self._plan.logits], truth)
        slopes = {self._plan.logits: slope}
        if (name := self._plan.existence_logit) is not None:
            part, slopes[name] = losses.existence(rule, values[name], truth)
            loss = loss + part
        return loss, slopes

    def _backward(
        self,
        op: Operation,
        values: dict[str, Floats],
        dy: Floats,
        keep: DropoutMasks,
        gradients: dict[str, Floats],
    ) -> list[Floats]:
        """Return the gradients of the operation's inputs; write those of its parameters to `gradients`."""
        x, arrays = values[op.input], self._arrays
        match op:
            case Conv2D():
                products = operations.conv2d_backward(op, *self._operands(x, arrays[op.kernel], dy))
                dx, gradients[op.kernel] = map(self._product, products)
            case ConvTranspose2D():
                products = operations.conv_transpose2d_backward(op, *self._operands(x, arrays[op.kernel], dy))
                dx, gradients[op.kernel] = map(self._product, products)
            case Bias():
                dx, d_bias = operations.bias_backward(dy)
                gradients[op.bias] = self._moved(d_bias)
            case Relu():
                dx = operations.relu_backward(x, dy)
            case BatchNorm():
                if op.name in self._trained.by_batch:
                    dx, gradients[op.gamma], gradients[op.beta] = operations.batch_norm_backward(
                        op, x, arrays[op.gamma], dy, self._moved
                    )
                else:
                    variance = arrays[op.moving_variance]
                    dx = operations.frozen_batch_norm_backward(
                        op, arrays[op.gamma], variance, dy, self._moved
                    )
            case Dropout():
                dx = operations.dropout(op, dy, keep[op.name])
            case Concat():
                return operations.concat_backward([values[name] for name in op.inputs], dy)
            case _ if layer := LAYERS.get(type(op)):
                found = layer.backward(op, *(values[name] for name in op.inputs), dy)
                return [self._moved(one) for one in found] if layer.rounds_backward else found
            case _:
                raise unknown_operation(op, "reference")
        return [dx]

    def _moved(self, array: Floats) -> Floats:
        return array if self._moves is None else self._moves(array)

    def _operands(self, *arrays: Floats) -> Iterator[Floats]:
        """Yield the operands of a product: where they are rounded, as float64 to have exact sums."""
        narrow = self._narrow
        return (array if narrow is None else to_narrow(array, narrow).astype(np.float64) for array in arrays)

    def _product(self, array: Floats) -> Floats:
        """Return the result of a product; in mixed precision the float32 sum, rounded to 16 bits."""
        array = self._moved(array)
        if self._narrow is None or self._narrow == "tf32":
            return array.astype(self._dtype, copy=False)
        return to_narrow(array.astype(np.float32), self._narrow).astype(self._dtype)


class Float64Reference(ReferenceModel):
    """The reference in float64, with which models of any precision are compared."""

    def __init__(
        self, plan: Plan, rules: TrainingRules, precision: Precision, moves: Perturbation | None
    ) -> None:
        super().__init__(plan, rules, precision, "float64", moves)

    def step_and_gradients(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> tuple[float, State]:
        """Update the model; return what `gradients` would have returned before, computed once."""
        return self._step(images, masks, scalars, keep)


def compile(plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> ReferenceModel:  # noqa: A001
    """Compile the plan to NumPy; `device` can only be the CPU."""
    del device
    require_operations(plan, OPERATIONS, "reference")
    return ReferenceModel(plan, rules, precision)


def compile_reference(
    plan: Plan, rules: TrainingRules, precision: Precision, draw: int | None = None
) -> Float64Reference:
    """Return the reference for a model of this precision. `draw` perturbs it (`core.tolerance.budget`)."""
    moves = None if draw is None else Perturbation(draw, jump_units(precision))
    return Float64Reference(plan, rules, precision, moves)
