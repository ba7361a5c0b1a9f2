"""A plan compiled to PyTorch: run eagerly, its gradients by autograd."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from backends.torch import exports, losses, operations, optimizers
from backends.torch.devices import framework_device, list_devices, multiplies_bfloat16
from backends.torch.framework import torch
from backends.torch.operations import Tensor
from core.backend.contract import Array, DropoutMasks, Precision, State, array_type
from core.backend.kernel_switches import Switch
from core.backend.state import check_state, slot_name, state_shapes
from core.backend.training_rules import StepScalars, TrainingRules
from core.base.randomness import words
from core.network.plan import Plan, require_operations

__all__ = ["TorchModel", "compile", "list_devices", "predict_exported", "switches"]


class TorchModel:
    """See `core.backend.contract.Model` for what each method promises."""

    def __init__(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> None:
        self._plan, self._rules, self._device = plan, rules, framework_device(device)
        self._numbers, self._mixed = array_type(precision), precision == "mixed_bfloat16"
        multiplies = self._mixed and multiplies_bfloat16(device)
        self._products = operations.products(self._mixed, multiplies)
        # A file that `export` wrote predicts the same on a processor that does not multiply bfloat16.
        self._predicting = operations.products(self._mixed, multiplies and device != "cpu")
        self._optimize = optimizers.update_of(rules.optimizer)
        self._arrays = {
            name: self._kept(np.zeros(shape)) for name, shape in state_shapes(plan, rules).items()
        }
        for parameter in plan.parameters:
            self._arrays[parameter.name].requires_grad_()

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> Tensor:
        """One update; gives the loss before it."""
        kept = self._draw(len(images), scalars.step) if keep is None else self._given(keep)
        loss, gradients, statistics = self._differentiate(images, masks, kept)
        with torch.no_grad():
            if self._rules.clip_norm is not None:
                gradients = optimizers.clip_by_global_norm(gradients, self._rules.clip_norm)
            for parameter in self._plan.parameters:
                name = parameter.name
                slots = [self._arrays[slot_name(slot, name)] for slot in self._rules.optimizer.slots]
                self._optimize(
                    self._rules.optimizer, scalars, parameter, self._arrays[name], *slots, gradients[name]
                )
            for op in self._plan.batch_norms:
                for name in (op.moving_mean, op.moving_variance):
                    self._arrays[name].mul_(op.momentum).add_(statistics[name], alpha=1 - op.momentum)
        return loss

    def evaluate(self, images: Array, masks: Array) -> tuple[Tensor, Array]:
        """Loss and probabilities with running statistics."""
        with torch.no_grad():
            logits, _ = self._forward(self._floats(images), None)
            loss = losses.total(self._rules.loss, logits, self._floats(masks))
        return loss, _to_neutral(operations.sigmoid(logits), (0, 2, 3, 1))

    def predict(self, images: Array) -> Array:
        """Probabilities."""
        with torch.no_grad():
            logits, _ = self._forward(self._floats(images), None)
        return _to_neutral(operations.sigmoid(logits), (0, 2, 3, 1))

    def gradients(self, images: Array, masks: Array, keep: DropoutMasks | None = None) -> tuple[float, State]:
        """Training loss and gradients; changes nothing."""
        kept = self._draw(len(images), 0) if keep is None else self._given(keep)
        loss, gradients, _ = self._differentiate(images, masks, kept)
        return float(loss), {name: _to_neutral(gradient) for name, gradient in gradients.items()}

    def state(self) -> State:
        """Copies of all arrays."""
        return {name: _to_neutral(array) for name, array in self._arrays.items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put arrays back."""
        check_state(state, state_shapes(self._plan, self._rules))
        with torch.no_grad():
            for name, array in self._arrays.items():
                array.copy_(self._kept(state[name]))

    def export(self, directory: Path, metadata: Mapping[str, str], form: str | None = None) -> None:
        """Write `images` to probabilities as "torchscript" or "pt2"; see `backends.torch.exports`."""
        arrays = {array.name: self._arrays[array.name].detach().cpu() for array in self._plan.arrays}
        prediction, image = exports.Prediction(self._plan, arrays, self._mixed), self._plan.input
        exports.write(prediction, (image.height, image.width, image.channels), directory, metadata, form)

    def _floats(self, array: Array) -> Tensor:
        """Images or masks."""
        return self._sent(array, (0, 3, 1, 2), self._numbers)

    def _given(self, keep: DropoutMasks) -> dict[str, Tensor]:
        return {op.name: self._sent(keep[op.name], (0, 3, 1, 2), "uint8") for op in self._plan.dropouts}

    def _kept(self, array: Array) -> Tensor:
        """An array of the state."""
        return self._sent(array, (3, 2, 0, 1), self._numbers)

    def _sent(self, array: Array, axes: tuple[int, ...], numbers: str) -> Tensor:
        """A copy on the model's device, four axes in this order; to a GPU still on its way.

        The axes change places before PyTorch sees them: it takes what they were from the strides.
        """
        turned = array.transpose(axes) if array.ndim == 4 else array
        tensor = torch.from_numpy(np.array(turned, numbers, order="C"))
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _forward(self, images: Tensor, keep: Mapping[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
        products = self._predicting if keep is None else self._products
        return operations.forward(self._plan, images, self._arrays, keep, products)

    def _draw(self, count: int, step: int) -> dict[str, Tensor]:
        """Dropout masks from PyTorch's own generator, keyed by seed, name and step."""
        masks, generator = {}, torch.Generator(self._device)
        for op in self._plan.dropouts:
            key = words(self._rules.seed, "dropout", op.name, step, count=1)[0] >> np.uint64(1)
            generator.manual_seed(int(key))
            shape = (count, op.output.channels, op.output.height, op.output.width)
            masks[op.name] = torch.rand(shape, generator=generator, device=self._device) >= op.rate
        return masks

    def _differentiate(
        self, images: Array, masks: Array, keep: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Loss, gradients of the parameters, and the batch's statistics by the running ones' names."""
        logits, statistics = self._forward(self._floats(images), keep)
        loss = losses.total(self._rules.loss, logits, self._floats(masks))
        names = [parameter.name for parameter in self._plan.parameters]
        gradients = torch.autograd.grad(loss, [self._arrays[name] for name in names])
        return loss.detach(), dict(zip(names, gradients, strict=True)), statistics


def compile(plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> TorchModel:  # noqa: A001
    """The plan in PyTorch on one of `list_devices`."""
    require_operations(plan, operations.OPERATIONS, "torch")
    return TorchModel(plan, rules, device, precision)


def switches() -> tuple[Switch, ...]:
    """The numbers at which kernels change."""
    return (operations.SEVERAL, operations.VARYING)


def predict_exported(directory: Path, images: Array) -> Array:
    """What the file that `export` wrote predicts on the CPU."""
    return exports.predict(directory, images)


def _to_neutral(tensor: Tensor, axes: tuple[int, ...] = (2, 3, 1, 0)) -> Array:
    """A copy on the host; four axes in the neutral order, by default a kernel's."""
    host: Array = tensor.detach().cpu().numpy()
    return np.array(host.transpose(axes) if host.ndim == 4 else host, order="C")
