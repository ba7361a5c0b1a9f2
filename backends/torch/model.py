"""A plan compiled to PyTorch: it runs eagerly, and autograd computes its gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from backends.torch import exports, graphs, losses, operations, optimizers
from backends.torch.devices import allow_tf32, framework_device, list_devices, memory_layout, multiplies
from backends.torch.distributed import DeviceEngine
from backends.torch.framework import torch
from backends.torch.operations import Tensor
from backends.torch.transfer import Sender
from core.backend.contract import (
    Array,
    Derivatives,
    DropoutMasks,
    Precision,
    State,
    Workers,
    array_type,
    exported_product_type,
    product_type,
)
from core.backend.kernel_switches import Switch
from core.backend.outputs import Outputs
from core.backend.state import LOSS_SCALE, average_name, check_state, slot_name, state_shapes
from core.backend.trained_part import TrainedPart, trained_part
from core.backend.training_rules import StepScalars, TrainingRules
from core.base.byte_images import LEVELS
from core.base.randomness import words
from core.network.plan import Plan, require_operations

__all__ = ["TorchModel", "compile", "list_devices", "predict_exported", "switches"]


class _Group(NamedTuple):
    """The names of the parameters that have the same scalars, and those of the kernels among them."""

    names: list[str]
    kernels: list[str]

    @classmethod
    def of(cls, trained: TrainedPart, place: int) -> Self:
        """Return the group at a place of `StepScalars.groups`."""
        found = [one for one in trained.parameters if trained.groups[one.name] == place]
        return cls([one.name for one in found], [one.name for one in found if one.role == "kernel"])


class TorchModel:
    """Model in PyTorch; `core.backend.contract.Model` specifies the methods."""

    def __init__(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> None:
        self._plan, self._rules, self._device = plan, rules, framework_device(device)
        self._sender, self._layout = Sender(self._device), memory_layout(device)
        self._levels = self._to_device(LEVELS, (), array_type(precision))
        self._trained = trained_part(plan, rules)
        self._dtype, self._narrow = array_type(precision), product_type(precision)
        self._exported = exported_product_type(precision)
        native = self._narrow is not None and multiplies(self._narrow, device)
        self._products = operations.products(self._narrow, native)
        # Predictions on a CPU do not use bfloat16 products, so that they equal an exported file's on any CPU.
        self._prediction_products = operations.products(self._narrow, native and device != "cpu")
        self._optimize = optimizers.update_of(rules.optimizer)
        # Arrays that an update changes by the same numbers: parameters by scalars, statistics by momentum.
        places = sorted(set(self._trained.groups.values()))
        self._groups = {place: _Group.of(self._trained, place) for place in places}
        self._statistics: dict[float, list[str]] = {}
        for op in self._trained.batch_norms:
            self._statistics.setdefault(op.momentum, []).extend((op.moving_mean, op.moving_variance))
        self._arrays = {
            name: self._to_inner(np.zeros(shape)) for name, shape in state_shapes(plan, rules).items()
        }
        for parameter in self._trained.parameters:
            self._arrays[parameter.name].requires_grad_()
        self._derived = [one.name for one in self._trained.statistics]
        self._derived += [one.name for one in self._trained.parameters]
        self._derive: Callable[..., graphs.Outputs] = self._derivatives
        if graphs.use_graphs(self._device):
            self._derive = graphs.Graphed(self._derivatives, functools.partial(graphs.record, self._device))

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> Tensor:
        """Update the model; return the loss before the update."""
        loss, derivatives = self._differentiate(images, masks, keep, scalars.step)
        self._update_or_skip(derivatives, scalars)
        # It may be read after the next step has begun, and a graph fills the same array again.
        return loss.clone()

    def _update_or_skip(self, derivatives: Mapping[str, Tensor], scalars: StepScalars) -> None:
        """Update the model; with a loss scale, keep the arrays if a gradient is not finite."""
        rule = self._rules.loss_scale
        if rule is None:
            self._update(derivatives, scalars)
            return
        with torch.no_grad():
            before = {name: array.clone() for name, array in self._arrays.items()}
            gradients = [derivatives[parameter.name] for parameter in self._trained.parameters]
            finite = optimizers.all_finite(gradients)
            self._update(derivatives, scalars)
            for name, array in self._arrays.items():
                array.copy_(torch.where(finite, array, before[name]))
            optimizers.adapt_loss_scale(rule, self._arrays, finite)

    def _update(self, derivatives: Mapping[str, Tensor], scalars: StepScalars) -> None:
        with torch.no_grad():
            rule = self._rules.optimizer
            gradients = {name: derivatives[name] for name in self._trained.groups}
            if self._rules.clip_norm is not None:
                clipped = optimizers.clip_by_global_norm([*gradients.values()], self._rules.clip_norm)
                gradients = dict(zip(gradients, clipped, strict=True))
            for place, (names, kernels) in self._groups.items():
                of_group = scalars.groups[place]
                slots = [self._of(slot_name(slot, name) for name in names) for slot in rule.slots]
                optimizers.decay(self._of(kernels), of_group.decay)
                of_names = [gradients[name] for name in names]
                self._optimize(rule, of_group.step_size, self._of(names), *slots, of_names)
            for momentum, names in self._statistics.items():
                moving = self._of(names)
                torch._foreach_mul_(moving, momentum)
                torch._foreach_add_(moving, [derivatives[name] for name in names], alpha=1 - momentum)
            if self._rules.average_decay is not None:
                self._average(scalars)

    def _average(self, scalars: StepScalars) -> None:
        """Move the moving averages towards their arrays."""
        names = [array.name for array in self._plan.arrays]
        torch._foreach_lerp_(self._of(map(average_name, names)), self._of(names), scalars.average_share)

    def _of(self, names: Iterable[str]) -> list[Tensor]:
        """Return some arrays of the state."""
        return [self._arrays[name] for name in names]

    def evaluate(self, images: Array, masks: Array) -> tuple[Tensor, Array]:
        """Return loss and probabilities with running statistics."""
        with torch.no_grad():
            logits, _ = self._forward(self._floats(images), None)
            loss = losses.total(self._rules.loss, logits, self._sent_masks(masks))
        return loss, _to_neutral(operations.sigmoid(logits.masks), (0, 2, 3, 1))

    def predict(self, images: Array) -> Array:
        """Return probabilities."""
        with torch.no_grad():
            logits, _ = self._forward(self._floats(images), None)
        return _to_neutral(operations.sigmoid(logits.masks), (0, 2, 3, 1))

    def predict_with_existence(self, images: Array) -> tuple[Array, Array]:
        """Return probabilities, and those of existence."""
        with torch.no_grad():
            logits, _ = self._forward(self._floats(images), None)
        masks, existence = (_to_neutral(x, (0, 2, 3, 1)) for x in operations.probabilities(logits))
        return masks, existence.reshape(-1)

    def differentiate(
        self, images: Array, masks: Array, keep: DropoutMasks | None = None, draw: int = 0
    ) -> Derivatives:
        """Return training loss, gradients and the batch's statistics; change nothing."""
        loss, derivatives = self._differentiate(images, masks, keep, draw)
        return Derivatives(
            float(loss),
            {array.name: _to_neutral(derivatives[array.name]) for array in self._trained.parameters},
            {array.name: _to_neutral(derivatives[array.name]) for array in self._trained.statistics},
        )

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        """Update the model with the gradients and statistics of a batch."""
        derivatives = {**gradients, **statistics}
        inner = {name: self._to_inner(array) for name, array in derivatives.items()}
        self._update_or_skip(inner, scalars)

    def connect(self, workers: Workers) -> DeviceEngine:
        """Return an engine that keeps the derivatives on the device; see `backends.torch.distributed`."""
        names = [array.name for array in self._trained.parameters]
        names += [array.name for array in self._trained.statistics]
        shapes = {name: self._arrays[name].shape for name in names}
        zero = self._to_inner(np.zeros(1))
        return DeviceEngine(shapes, zero, self._differentiate, self._update_or_skip, workers)

    def state(self) -> State:
        """Return copies of all arrays."""
        return {name: _to_neutral(array) for name, array in self._arrays.items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put arrays back."""
        check_state(state, state_shapes(self._plan, self._rules))
        with torch.no_grad():
            for name, array in self._arrays.items():
                array.copy_(self._to_inner(state[name]))

    def export(self, directory: Path, metadata: Mapping[str, str], form: str | None = None) -> None:
        """Write `images` to probabilities as "torchscript" or "pt2"; see `backends.torch.exports`."""
        arrays = {array.name: self._arrays[array.name].detach().cpu() for array in self._plan.arrays}
        prediction, image = exports.Prediction(self._plan, arrays, self._exported), self._plan.input
        exports.write(prediction, (image.height, image.width, image.channels), directory, metadata, form)

    def _floats(self, images: Array) -> Tensor:
        """Send images to the device; bytes become numbers there."""
        if images.dtype == np.uint8:
            sent = self._to_device(images, (0, 3, 1, 2), "uint8")
            return self._levels[sent.int()]
        return self._to_device(images, (0, 3, 1, 2), self._dtype)

    def _sent_masks(self, masks: Array) -> Tensor:
        """Send masks to the device, a byte for each pixel, which becomes a float there."""
        return self._to_device(masks, (0, 3, 1, 2), "uint8").to(getattr(torch, self._dtype))

    def _given_masks(self, keep: DropoutMasks) -> dict[str, Tensor]:
        return {op.name: self._to_device(keep[op.name], (0, 3, 1, 2), "uint8") for op in self._plan.dropouts}

    def _to_inner(self, array: Array) -> Tensor:
        """Send an array of the state to the device, in the order of axes that `operations` uses."""
        inner = self._to_device(array, (3, 2, 0, 1), self._dtype)
        return inner.contiguous(memory_format=self._layout) if inner.ndim == 4 else inner

    def _to_device(self, array: Array, axes: tuple[int, ...], dtype: str) -> Tensor:
        """Copy an array to the model's device, four axes in this order. A copy to a GPU may not be finished.

        NumPy transposes the axes: PyTorch would keep the former layout in the strides.
        """
        transposed = array.transpose(axes) if array.ndim == 4 else array
        return self._sender.send(torch.from_numpy(np.array(transposed, dtype, order="C")))

    def _forward(
        self, images: Tensor, keep: Mapping[str, Tensor] | None
    ) -> tuple[Outputs, dict[str, Tensor]]:
        allow_tf32(self._narrow == "tf32")
        products, by_batch = self._products, self._trained.by_batch
        if keep is None:
            products, by_batch = self._prediction_products, frozenset()
        return operations.forward(self._plan, images, self._arrays, keep, by_batch, products)

    def _draw(self, count: int, step: int) -> dict[str, Tensor]:
        """Draw dropout masks from PyTorch's own generator, keyed by seed, name and step."""
        masks, generator = {}, torch.Generator(self._device)
        for op in self._plan.dropouts:
            key = words(self._rules.seed, "dropout", op.name, step, count=1)[0] >> np.uint64(1)
            generator.manual_seed(int(key))
            shape = (count, op.output.channels, op.output.height, op.output.width)
            masks[op.name] = torch.rand(shape, generator=generator, device=self._device) >= op.rate
        return masks

    def _differentiate(
        self, images: Array, masks: Array, keep: DropoutMasks | None, draw: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss, and the gradients of the parameters with the batch's statistics, by their names."""
        kept = self._draw(len(images), draw) if keep is None else self._given_masks(keep)
        masks_of_dropouts = [kept[op.name] for op in self._plan.dropouts]
        loss, *found = self._derive(self._floats(images), self._sent_masks(masks), *masks_of_dropouts)
        return loss, dict(zip(self._derived, found, strict=True))

    def _derivatives(self, images: Tensor, masks: Tensor, *kept: Tensor) -> graphs.Outputs:
        """Return loss and derivatives in the order of `_derived`, of arrays on the device."""
        names = [op.name for op in self._plan.dropouts]
        logits, statistics = self._forward(images, dict(zip(names, kept, strict=True)))
        loss = losses.total(self._rules.loss, logits, masks)
        parameters = [self._arrays[parameter.name] for parameter in self._trained.parameters]
        if self._rules.loss_scale is None:
            gradients = torch.autograd.grad(loss, parameters)
        else:
            scale = self._arrays[LOSS_SCALE].reshape(())
            gradients = tuple(g / scale for g in torch.autograd.grad(loss, parameters, scale))
        return loss.detach(), *(statistics[one.name] for one in self._trained.statistics), *gradients


def compile(plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> TorchModel:  # noqa: A001
    """Compile the plan to PyTorch on one of `list_devices`."""
    require_operations(plan, operations.OPERATIONS, "torch")
    return TorchModel(plan, rules, device, precision)


def switches() -> tuple[Switch, ...]:
    """Return the numbers at which kernels change."""
    return (operations.SEVERAL_CHANNELS, operations.SEVERAL_PIXELS)


def predict_exported(directory: Path, images: Array) -> Array | tuple[Array, Array]:
    """Predict on the CPU with the file that `export` wrote."""
    return exports.predict(directory, images)


def _to_neutral(tensor: Tensor, axes: tuple[int, ...] = (2, 3, 1, 0)) -> Array:
    """Copy to the host; four axes get the neutral order, by default that of a kernel."""
    host: Array = tensor.detach().cpu().numpy()
    return np.array(host.transpose(axes) if host.ndim == 4 else host, order="C")
