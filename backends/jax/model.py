"""A plan compiled to JAX: one jitted function for each way the model is used.

XLA compiles a function once for each number of images in a batch. So the shorter last batch costs one more
compilation in the first epoch, and none afterwards.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backends.jax import losses, operations, optimizers
from backends.jax.devices import framework_device, list_devices
from backends.jax.framework import jax
from backends.jax.operations import Tensor
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
from core.backend.outputs import Outputs
from core.backend.state import LOSS_SCALE, average_name, check_state, slot_name, state_shapes
from core.backend.trained_part import trained_part
from core.backend.training_rules import StepScalars, TrainingRules
from core.base.byte_images import LEVELS
from core.base.randomness import words
from core.base.rounding import Narrow
from core.base.system import return_freed_memory
from core.network.plan import Plan, require_operations

__all__ = ["JaxModel", "compile", "list_devices", "predict_exported"]

EXPORT_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

Arrays = dict[str, Tensor]
"""Arrays by their names."""


class Scalars(NamedTuple):
    """The scalars of a step.

    Attributes:
        step_sizes: Of each group (`StepScalars.groups`).
        decays: The same.
        average_share: Of `StepScalars`.
    """

    step_sizes: tuple[Any, ...]
    decays: tuple[Any, ...]
    average_share: Any


class JaxModel:
    """Model in JAX; `core.backend.contract.Model` specifies the methods."""

    def __init__(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> None:
        self._plan, self._rules, self._device = plan, rules, framework_device(device)
        self._trained = trained_part(plan, rules)
        self._on_cpu, self._narrow = device == "cpu", product_type(precision)
        self._exported = exported_product_type(precision)
        self._dtype = np.dtype(array_type(precision))
        self._optimize = optimizers.update_of(rules.optimizer)
        self._arrays: Arrays = {
            name: self._put(np.zeros(shape), self._dtype) for name, shape in state_shapes(plan, rules).items()
        }
        self._levels = self._put(LEVELS, self._dtype)
        self._donated: Arrays = {}
        self._steps: dict[int, Callable[..., Any]] = {}  # by the number of images
        # Without it a GPU adds in any order, and chooses the convolution that was fastest when measured.
        jit = functools.partial(
            _Jitted,
            allow_tf32=self._narrow == "tf32",
            compiler_options=None if self._on_cpu else {"xla_gpu_deterministic_ops": True},
        )
        # The first argument's arrays are donated: the new arrays use their memory.
        self._update = jit(self._pure_update, donate_argnums=0)
        self._apply = jit(self._pure_apply_or_skip, donate_argnums=0)
        self._differentiate = jit(self._pure_differentiate)
        self._infer = jit(self._pure_infer)
        self._loss = jit(self._pure_loss)
        self._draw = jit(self._pure_draw, static_argnums=0)

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> Tensor:
        """Update the model; return the loss before the update."""
        kept = self._drawn_masks(len(images), scalars.step) if keep is None else self._given_masks(keep)
        arrays = self._arrays
        given = (self._floats(images), self._bytes(masks), self._scalars(scalars), kept)
        if len(images) not in self._steps:
            # XLA needs much memory to compile. The first step needs other memory, which is larger.
            self._steps[len(images)] = self._update.compiled(arrays, *given)
            return_freed_memory()
        loss, self._arrays = self._steps[len(images)](arrays, *given)
        # To free donated arrays waits for their step. So they are kept until the next step has begun.
        self._donated = arrays
        return loss

    def evaluate(self, images: Array, masks: Array) -> tuple[Tensor, Array]:
        """Return loss and probabilities with running statistics."""
        logits, probabilities = self._infer(self._arrays, self._floats(images))
        return self._loss(logits, self._bytes(masks)), np.array(probabilities.masks)

    def predict(self, images: Array) -> Array:
        """Return probabilities."""
        _, probabilities = self._infer(self._arrays, self._floats(images))
        return np.array(probabilities.masks)

    def predict_with_existence(self, images: Array) -> tuple[Array, Array]:
        """Return probabilities, and those of existence."""
        _, (masks, existence) = self._infer(self._arrays, self._floats(images))
        return np.array(masks), np.array(existence).reshape(-1)

    def differentiate(
        self, images: Array, masks: Array, keep: DropoutMasks | None = None, draw: int = 0
    ) -> Derivatives:
        """Return training loss, gradients and the batch's statistics; change nothing."""
        kept = self._drawn_masks(len(images), draw) if keep is None else self._given_masks(keep)
        loss, gradients, statistics = self._differentiate(
            self._arrays, self._floats(images), self._bytes(masks), kept
        )
        return Derivatives(
            float(loss),
            {array.name: np.array(gradients[array.name]) for array in self._trained.parameters},
            {array.name: np.array(statistics[array.name]) for array in self._trained.statistics},
        )

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        """Update the model with the gradients and statistics of a batch."""
        given = (
            {name: self._floats(array) for name, array in gradients.items()},
            {name: self._floats(array) for name, array in statistics.items()},
        )
        arrays = self._arrays
        self._arrays = self._apply(arrays, *given, self._scalars(scalars))
        self._donated = arrays

    def state(self) -> State:
        """Return copies of all arrays."""
        # np.asarray would share memory that the next update overwrites.
        return {name: np.array(self._arrays[name]) for name in state_shapes(self._plan, self._rules)}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put arrays back."""
        check_state(state, state_shapes(self._plan, self._rules))
        self._donated = {}
        for name in self._arrays:  # one after the other, so that the memory of each is freed for the next
            self._arrays[name] = self._put(state[name], self._dtype)

    def export(self, directory: Path, metadata: Mapping[str, str]) -> None:
        """Write `model.stablehlo`, for `jax.export.deserialize`: `images` to `probabilities`, both float32.

        With the existence head there is `existence`, (N,), too. It is called with `images=`, any number of
        them. It includes the weights and runs on all of `EXPORT_PLATFORMS`.
        """
        del metadata  # the format has no place for it
        importlib.import_module(
            "flatbuffers"
        )  # JAX needs it but does not install it, and fails only at the end
        arrays = {array.name: np.array(self._arrays[array.name]) for array in self._plan.arrays}

        def predict(images: Tensor) -> dict[str, Tensor]:
            logits, _ = self._forward(arrays, images.astype(self._dtype), None, self._exported)
            masks, existence = operations.probabilities(logits)
            outputs = {"probabilities": masks.astype(np.float32)}
            if existence is not None:
                outputs["existence"] = existence.astype(np.float32).reshape(-1)
            return outputs

        (count,) = jax.export.symbolic_shape("n")
        shape = (count, self._plan.input.height, self._plan.input.width, self._plan.input.channels)
        exported = jax.export.export(jax.jit(predict), platforms=EXPORT_PLATFORMS)
        directory.mkdir(parents=True, exist_ok=True)
        content = exported(images=jax.ShapeDtypeStruct(shape, np.float32)).serialize()
        (directory / "model.stablehlo").write_bytes(content)

    def _put(self, array: Array, dtype: Any) -> Tensor:
        """Copy an array to the device: without a copy JAX may read the array later, or keep its memory."""
        return jax.device_put(np.array(array, dtype, order="C"), self._device)

    def _floats(self, images: Array) -> Tensor:
        if images.dtype == np.uint8:
            return self._levels[self._bytes(images)]
        return self._put(images, self._dtype)

    def _bytes(self, masks: Array) -> Tensor:
        return self._put(masks, np.uint8)

    def _given_masks(self, keep: DropoutMasks) -> Arrays:
        return {op.name: self._bytes(keep[op.name]) for op in self._plan.dropouts}

    def _drawn_masks(self, count: int, step: int) -> Arrays:
        return self._draw(count, self._put(np.array(step), np.uint32)) if self._plan.dropouts else {}

    def _scalars(self, scalars: StepScalars) -> Scalars:
        number, groups = self._dtype.type, scalars.groups
        step_sizes, decays = (
            tuple(map(number, column))
            for column in zip(*((one.step_size, one.decay) for one in groups), strict=True)
        )
        return Scalars(step_sizes, decays, number(scalars.average_share))

    def _forward(
        self, arrays: Arrays, images: Tensor, keep: Arrays | None, narrow: Narrow | None
    ) -> tuple[Outputs, Arrays]:
        by_batch = frozenset() if keep is None else self._trained.by_batch
        return operations.forward(self._plan, images, arrays, keep, by_batch, self._on_cpu, narrow)

    def _pure_draw(self, count: int, step: Tensor) -> Arrays:
        """Draw dropout masks from JAX's own generator, keyed by seed, name and step."""
        masks = {}
        for op in self._plan.dropouts:
            shape = (count, op.output.height, op.output.width, op.output.channels)
            seed = words(self._rules.seed, "dropout", op.name, count=1).astype("<u8").view("<u4")
            key = jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), step)
            masks[op.name] = (jax.random.uniform(key, shape, np.float32) >= op.rate).astype(np.uint8)
        return masks

    def _pure_update(
        self, arrays: Arrays, images: Tensor, masks: Tensor, scalars: Scalars, keep: Arrays
    ) -> tuple[Tensor, Arrays]:
        """Return the loss and the new arrays."""
        loss, gradients, statistics = self._pure_differentiate(arrays, images, masks, keep)
        return loss, self._pure_apply_or_skip(arrays, gradients, statistics, scalars)

    def _pure_differentiate(
        self, arrays: Arrays, images: Tensor, masks: Tensor, keep: Arrays
    ) -> tuple[Tensor, Arrays, Arrays]:
        """Return the loss, the gradients and the batch's statistics."""
        scale = arrays[LOSS_SCALE][0] if self._rules.loss_scale is not None else None

        def loss_of(parameters: Arrays) -> tuple[Tensor, tuple[Tensor, Arrays]]:
            logits, statistics = self._forward(arrays | parameters, images, keep, self._narrow)
            loss = self._pure_loss(logits, masks)
            return loss if scale is None else loss * scale, (loss, statistics)

        parameters = {parameter.name: arrays[parameter.name] for parameter in self._trained.parameters}
        gradients, (loss, statistics) = jax.grad(loss_of, has_aux=True)(parameters)
        if scale is not None:
            gradients = {name: gradient / scale for name, gradient in gradients.items()}
        return loss, gradients, {array.name: statistics[array.name] for array in self._trained.statistics}

    def _pure_apply_or_skip(
        self, arrays: Arrays, gradients: Arrays, statistics: Arrays, scalars: Scalars
    ) -> Arrays:
        """Return the new arrays; with a loss scale, the old ones if a gradient is not finite."""
        new, rule = self._pure_apply(arrays, gradients, statistics, scalars), self._rules.loss_scale
        if rule is None:
            return new
        finite = optimizers.all_finite(gradients)
        kept = {name: jax.numpy.where(finite, array, arrays[name]) for name, array in new.items()}
        return kept | optimizers.adapted_loss_scale(rule, arrays, finite)

    def _pure_apply(self, arrays: Arrays, gradients: Arrays, statistics: Arrays, scalars: Scalars) -> Arrays:
        """Return the new arrays."""
        clipped, new = gradients, dict(arrays)
        if self._rules.clip_norm is not None:
            clipped = optimizers.clip_by_global_norm(gradients, self._rules.clip_norm)
        for parameter in self._trained.parameters:
            group = self._trained.groups[parameter.name]
            names = [
                parameter.name,
                *(slot_name(slot, parameter.name) for slot in self._rules.optimizer.slots),
            ]
            updated = self._optimize(
                self._rules.optimizer,
                scalars.step_sizes[group],
                scalars.decays[group],
                parameter,
                *(arrays[name] for name in names),
                clipped[parameter.name],
            )
            new |= zip(names, updated, strict=True)
        for op in self._trained.batch_norms:
            for name in (op.moving_mean, op.moving_variance):
                new[name] = op.momentum * arrays[name] + (1 - op.momentum) * statistics[name]
        return new if self._rules.average_decay is None else new | self._pure_average(new, scalars)

    def _pure_average(self, arrays: Arrays, scalars: Scalars) -> Arrays:
        """Return the moving averages after a step towards their arrays."""
        averages = {}
        for array in self._plan.arrays:
            average = arrays[average_name(array.name)]
            moved = average + scalars.average_share * (arrays[array.name] - average)
            averages[average_name(array.name)] = moved
        return averages

    def _pure_infer(self, arrays: Arrays, images: Tensor) -> tuple[Outputs, Outputs]:
        """Return logits and probabilities."""
        logits, _ = self._forward(arrays, images, None, self._narrow)
        return logits, operations.probabilities(logits)

    def _pure_loss(self, logits: Outputs, masks: Tensor) -> Tensor:
        return losses.total(self._rules.loss, logits, masks.astype(logits.masks.dtype))


class _Jitted:
    """A jitted function; products of float32 may be rounded to TF32 by a GPU if allowed."""

    def __init__(self, function: Callable[..., Any], allow_tf32: bool, **options: Any) -> None:
        self._jitted = jax.jit(function, **options)
        self._products = "tensorfloat32" if allow_tf32 else jax.config.jax_default_matmul_precision

    def __call__(self, *given: Any) -> Any:
        with jax.default_matmul_precision(self._products):
            return self._jitted(*given)

    def compiled(self, *given: Any) -> Callable[..., Any]:
        """Return the function for arrays of these shapes."""
        with jax.default_matmul_precision(self._products):
            found: Callable[..., Any] = self._jitted.lower(*given).compile()
        return found


def compile(plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> JaxModel:  # noqa: A001
    """Compile the plan to JAX on one of `list_devices`."""
    require_operations(plan, operations.OPERATIONS, "jax")
    return JaxModel(plan, rules, device, precision)


def predict_exported(directory: Path, images: Array) -> Array | tuple[Array, Array]:
    """Predict on the CPU with the file that `export` wrote."""
    predict = jax.export.deserialize(bytearray((directory / "model.stablehlo").read_bytes()))
    with jax.default_device(jax.devices("cpu")[0]):
        found = predict.call(images=np.asarray(images, np.float32))
    probabilities = np.array(found["probabilities"])
    return (probabilities, np.array(found["existence"])) if "existence" in found else probabilities
