"""A plan compiled to TensorFlow: one `tf.function` for each way the model is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backends.tf import cpu, im2col, losses, operations, optimizers
from backends.tf.devices import computing_on, framework_device, list_devices, multiplies
from backends.tf.framework import Tensor, tf
from core.backend.contract import (
    Array,
    Derivatives,
    DropoutMasks,
    Precision,
    State,
    array_type,
    exported_product_type,
    product_type,
)
from core.backend.kernel_switches import Switch
from core.backend.outputs import Outputs
from core.backend.state import LOSS_SCALE, average_name, check_state, slot_name, state_shapes
from core.backend.trained_part import trained_part
from core.backend.training_rules import StepScalars, TrainingRules
from core.base.byte_images import LEVELS
from core.base.randomness import words
from core.base.rounding import Narrow
from core.base.system import utf8_name
from core.network import plan as plans
from core.network.plan import Plan, require_operations

__all__ = ["TensorFlowModel", "compile", "list_devices", "predict_exported", "switches"]


class Scalars(NamedTuple):
    """The scalars of a step as tensors, or the specifications of these.

    Attributes:
        step_sizes: Of each group (`StepScalars.groups`).
        decays: The same; none where there is no decay, which saves a pass over all weights.
        average_share: Of `StepScalars`.
    """

    step_sizes: tuple[Tensor, ...]
    decays: tuple[Tensor, ...]
    average_share: Tensor


class TensorFlowModel:
    """Model in TensorFlow; `core.backend.contract.Model` specifies the methods."""

    def __init__(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> None:
        self._plan, self._rules, self._device = plan, rules, framework_device(device)
        self._trained = trained_part(plan, rules)
        self._on_cpu, self._dtype = device == "cpu", tf.as_dtype(array_type(precision))
        self._narrow, self._exported = product_type(precision), exported_product_type(precision)
        self._native = self._narrow is not None and multiplies(self._narrow, device)
        self._optimize = optimizers.update_of(rules.optimizer)
        with tf.device(self._device):
            self._levels = tf.constant(LEVELS, self._dtype)
            self._arrays = {
                name: tf.Variable(tf.zeros(shape, self._dtype), name=name, trainable=False)
                for name, shape in state_shapes(plan, rules).items()
            }
        images = tf.TensorSpec(_shape(plan.input), self._dtype)
        masks = tf.TensorSpec(_shape(plan.output.output), tf.uint8)
        scalar, step = tf.TensorSpec((), self._dtype), tf.TensorSpec((), tf.int64)
        keep = {op.name: tf.TensorSpec(_shape(op.output), tf.uint8) for op in plan.dropouts}
        of_groups = (scalar,) * (1 + len(rules.rates))
        # By whether there is a decay. A graph is made when it is first called.
        scalars = {decays: Scalars(of_groups, of_groups * decays, scalar) for decays in (False, True)}
        self._update = {
            decays: tf.function(self._graph_update, [images, masks, spec, keep])
            for decays, spec in scalars.items()
        }
        self._evaluate = tf.function(self._graph_evaluate, [images, masks])
        self._predict = tf.function(self._graph_predict, [images])
        self._differentiate = tf.function(self._graph_differentiate, [images, masks, keep])
        gradients, statistics = (
            {array.name: tf.TensorSpec(array.shape, self._dtype) for array in arrays}
            for arrays in (self._trained.parameters, self._trained.statistics)
        )
        self._apply = {
            decays: tf.function(self._graph_apply_or_skip, [gradients, statistics, spec])
            for decays, spec in scalars.items()
        }
        self._draw = tf.function(self._graph_draw, [tf.TensorSpec((), tf.int32), step])

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> Tensor:
        """Update the model; return the loss before the update."""
        with computing_on(self._device, self._narrow):
            kept = self._drawn_masks(len(images), scalars.step) if keep is None else self._given_masks(keep)
            given = self._floats(images), tf.constant(masks, tf.uint8), self._scalars(scalars), kept
            return self._update[bool(scalars.decay)](*given)

    def evaluate(self, images: Array, masks: Array) -> tuple[Tensor, Array]:
        """Return loss and probabilities with running statistics."""
        with computing_on(self._device, self._narrow):
            loss, probabilities = self._evaluate(self._floats(images), tf.constant(masks, tf.uint8))
        return loss, probabilities.masks.numpy()

    def predict(self, images: Array) -> Array:
        """Return probabilities."""
        with computing_on(self._device, self._narrow):
            probabilities: Array = self._predict(self._floats(images)).masks.numpy()
        return probabilities

    def predict_with_existence(self, images: Array) -> tuple[Array, Array]:
        """Return probabilities, and those of existence."""
        with computing_on(self._device, self._narrow):
            masks, existence = self._predict(self._floats(images))
        return masks.numpy(), existence.numpy().reshape(-1)

    def differentiate(
        self, images: Array, masks: Array, keep: DropoutMasks | None = None, draw: int = 0
    ) -> Derivatives:
        """Return training loss, gradients and the batch's statistics; change nothing."""
        with computing_on(self._device, self._narrow):
            kept = self._drawn_masks(len(images), draw) if keep is None else self._given_masks(keep)
            found = self._differentiate(self._floats(images), tf.constant(masks, tf.uint8), kept)
        loss, gradients, statistics = found
        return Derivatives(float(loss), _on_host(gradients), _on_host(statistics))

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        """Update the model with the gradients and statistics of a batch."""
        with computing_on(self._device, self._narrow):
            sent = [{name: self._floats(x) for name, x in each.items()} for each in (gradients, statistics)]
            self._apply[bool(scalars.decay)](*sent, self._scalars(scalars))

    def state(self) -> State:
        """Return copies of all arrays."""
        return {name: variable.numpy().copy() for name, variable in self._arrays.items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put arrays back."""
        check_state(state, state_shapes(self._plan, self._rules))
        for name, variable in self._arrays.items():
            variable.assign(tf.constant(state[name], self._dtype))

    def export(self, directory: Path, metadata: Mapping[str, str]) -> None:
        """Write a SavedModel: signature `serving_default`, `images` to `probabilities`, both float32.

        With the existence head there is `existence`, (N,), too.
        """
        del metadata  # the format has no place for it
        images = tf.TensorSpec(_shape(self._plan.input), tf.float32, name="images")
        module = tf.Module()
        # SavedModel stores the attributes of the module: here what a prediction needs, without the moments.
        module.arrays = {
            array.name.replace("/", "_"): self._arrays[array.name] for array in self._plan.arrays
        }
        module.predict = tf.function(self._graph_export, [images])
        directory.mkdir(parents=True, exist_ok=True)
        try:
            with utf8_name(directory) as name:
                tf.saved_model.save(module, name, signatures=module.predict)
        except tf.errors.OpError as error:  # how TensorFlow reports a full disk
            raise OSError(error.message.rpartition("; ")[2]) from error

    def _floats(self, images: Array) -> Tensor:
        if images.dtype == np.uint8:
            return tf.gather(self._levels, tf.cast(tf.constant(images, tf.uint8), tf.int32))
        return tf.constant(images, self._dtype)

    def _scalars(self, scalars: StepScalars) -> Scalars:
        groups = scalars.groups
        decays = tuple(tf.constant(one.decay, self._dtype) for one in groups) if scalars.decay else ()
        step_sizes = tuple(tf.constant(one.step_size, self._dtype) for one in groups)
        return Scalars(step_sizes, decays, tf.constant(scalars.average_share, self._dtype))

    def _given_masks(self, keep: DropoutMasks) -> dict[str, Tensor]:
        return {op.name: tf.constant(keep[op.name], tf.uint8) for op in self._plan.dropouts}

    def _drawn_masks(self, count: int, step: int) -> dict[str, Tensor]:
        return self._draw(count, step) if self._plan.dropouts else {}  # saves a call that draws nothing

    def _forward(
        self, images: Tensor, keep: dict[str, Tensor] | None, narrow: Narrow | None
    ) -> tuple[Outputs, dict[str, Tensor]]:
        training = keep is not None
        # Predictions on a CPU do not use bfloat16 products, so that an exported graph runs on any CPU.
        native = self._native and (training or not self._on_cpu)
        context = operations.Context(self._on_cpu, training, native)
        by_batch = self._trained.by_batch if training else frozenset()
        return operations.forward(self._plan, images, self._arrays, keep, by_batch, context, narrow)

    def _graph_draw(self, count: Tensor, step: Tensor) -> dict[str, Tensor]:
        """Draw dropout masks from TensorFlow's own stateless generator, keyed by seed, name and step."""
        masks = {}
        for op in self._plan.dropouts:
            shape = tf.stack([count, op.output.height, op.output.width, op.output.channels])
            key = words(self._rules.seed, "dropout", op.name, count=1).astype(np.int64)
            drawn = tf.random.stateless_uniform(shape, tf.stack([tf.constant(key[0]), step]))
            masks[op.name] = tf.cast(drawn >= op.rate, tf.uint8)
        return masks

    def _graph_differentiate(
        self, images: Tensor, masks: Tensor, keep: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        parameters = {parameter.name: self._arrays[parameter.name] for parameter in self._trained.parameters}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parameters)
            logits, statistics = self._forward(images, keep, self._narrow)
            loss = losses.total(self._rules.loss, logits, tf.cast(masks, self._dtype))
        moving = {array.name: statistics[array.name] for array in self._trained.statistics}
        if self._rules.loss_scale is None:
            return loss, tape.gradient(loss, parameters), moving
        scale = tf.reshape(self._arrays[LOSS_SCALE], ())
        scaled = tape.gradient(loss, parameters, output_gradients=scale)
        return loss, {name: gradient / scale for name, gradient in scaled.items()}, moving

    def _graph_update(
        self, images: Tensor, masks: Tensor, scalars: Scalars, keep: dict[str, Tensor]
    ) -> Tensor:
        loss, gradients, statistics = self._graph_differentiate(images, masks, keep)
        self._graph_apply_or_skip(gradients, statistics, scalars)
        return loss

    def _graph_apply_or_skip(
        self, gradients: dict[str, Tensor], statistics: dict[str, Tensor], scalars: Scalars
    ) -> None:
        """Update the model; with a loss scale, keep the arrays if a gradient is not finite."""
        rule = self._rules.loss_scale
        if rule is None:
            self._graph_apply(gradients, statistics, scalars)
            return
        before = {name: variable.read_value() for name, variable in self._arrays.items()}
        finite = optimizers.all_finite(gradients)
        self._graph_apply(gradients, statistics, scalars)
        for name, variable in self._arrays.items():
            variable.assign(tf.where(finite, variable, before[name]))
        optimizers.adapt_loss_scale(rule, self._arrays, finite)

    def _graph_apply(
        self, gradients: dict[str, Tensor], statistics: dict[str, Tensor], scalars: Scalars
    ) -> None:
        if self._rules.clip_norm is not None:
            gradients = optimizers.clip_by_global_norm(gradients, self._rules.clip_norm)
        for parameter in self._trained.parameters:
            name = parameter.name
            slots = [self._arrays[slot_name(slot, name)] for slot in self._rules.optimizer.slots]
            group = self._trained.groups[name]
            self._optimize(
                self._rules.optimizer,
                scalars.step_sizes[group],
                scalars.decays[group] if scalars.decays else None,
                parameter,
                self._arrays[name],
                *slots,
                gradients[name],
            )
        for op in self._trained.batch_norms:
            momentum = tf.constant(op.momentum, self._dtype)
            for name in (op.moving_mean, op.moving_variance):
                running = self._arrays[name]
                running.assign(momentum * running + (1 - momentum) * statistics[name])
        if self._rules.average_decay is not None:
            self._graph_average(scalars)

    def _graph_average(self, scalars: Scalars) -> None:
        """Move the moving averages towards their arrays."""
        for array in self._plan.arrays:
            average = self._arrays[average_name(array.name)]
            average.assign_add(scalars.average_share * (self._arrays[array.name] - average))

    def _graph_evaluate(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Outputs]:
        logits, _ = self._forward(images, None, self._narrow)
        loss = losses.total(self._rules.loss, logits, tf.cast(masks, self._dtype))
        return loss, operations.probabilities(logits)

    def _graph_predict(self, images: Tensor) -> Outputs:
        logits, _ = self._forward(images, None, self._narrow)
        return operations.probabilities(logits)

    def _graph_export(self, images: Tensor) -> dict[str, Tensor]:
        logits, _ = self._forward(tf.cast(images, self._dtype), None, self._exported)
        masks, existence = operations.probabilities(logits)
        outputs = {"probabilities": tf.cast(masks, tf.float32)}
        if existence is not None:
            outputs["existence"] = tf.reshape(tf.cast(existence, tf.float32), (-1,))
        return outputs


def compile(plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> TensorFlowModel:  # noqa: A001
    """Compile the plan to TensorFlow on one of `list_devices`."""
    require_operations(plan, operations.OPERATIONS, "tf")
    return TensorFlowModel(plan, rules, device, precision)


def switches() -> tuple[Switch, ...]:
    """Return the numbers at which kernels change."""
    return (
        operations.ENOUGH_CHANNELS,
        operations.SEVERAL_CHANNELS,
        cpu.CANCELLATION,
        cpu.FEW_COLUMNS,
        im2col.PART_FLOATS,
    )


def predict_exported(directory: Path, images: Array) -> Array | tuple[Array, Array]:
    """Predict on the CPU with the SavedModel that `export` wrote."""
    with tf.device("/CPU:0"), utf8_name(directory) as name:
        serve = tf.saved_model.load(name).signatures["serving_default"]
        found = serve(images=tf.constant(images, tf.float32))
    probabilities: Array = found["probabilities"].numpy()
    return (probabilities, found["existence"].numpy()) if "existence" in found else probabilities


def _on_host(tensors: Mapping[str, Tensor]) -> State:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _shape(tensor: plans.Tensor) -> tuple[int | None, ...]:
    return None, tensor.height, tensor.width, tensor.channels
