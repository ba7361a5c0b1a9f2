"""Compile a plan to autograd; this is the complete implementation of a backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from autograd import value_and_grad

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
from core.backend.state import (
    GOOD_STEPS,
    LOSS_SCALE,
    SKIPPED_STEPS,
    average_name,
    check_state,
    slot_name,
    state_shapes,
)
from core.backend.trained_part import trained_part
from core.backend.training_rules import (
    LEAST_LOSS_SCALE,
    MOST_LOSS_SCALE,
    AdamRule,
    LossScaleRule,
    SgdRule,
    StepScalars,
    TrainingRules,
)
from core.base.byte_images import as_numbers
from core.base.errors import UserError
from core.network.plan import Plan, require_operations
from pneumoseg_autograd import losses, operations


def list_devices() -> list[str]:
    """Return "cpu", the only device."""
    return ["cpu"]


class AutogradModel:
    """A model with the methods of `core.backend.contract.Model`."""

    def __init__(self, plan: Plan, rules: TrainingRules, precision: Precision) -> None:
        if not isinstance(rules.optimizer, AdamRule | SgdRule):
            raise UserError(f"autograd has no optimiser {type(rules.optimizer).__name__}")
        self._plan, self._rules, self._dtype = plan, rules, np.dtype(array_type(precision))
        self._narrow = product_type(precision)
        self._trained, shapes = trained_part(plan, rules), state_shapes(plan, rules)
        self._arrays = {name: np.zeros(shape, self._dtype) for name, shape in shapes.items()}

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        """Update the arrays once; return the loss before the update."""
        keep = keep or self._draw(scalars.step, len(images))
        found = self._differentiate(images, masks, keep)
        self.update(found.gradients, found.statistics, scalars)
        return found.loss

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        """Update the arrays once with the gradients and statistics of a batch, or skip the update."""
        rule, before = self._rules.loss_scale, dict(self._arrays)
        finite = all(np.isfinite(gradient).all() for gradient in gradients.values())
        if rule is None or finite:
            self._update_all(gradients, statistics, scalars)
        if rule is not None:
            self._arrays |= _adapted_loss_scale(rule, before, finite)

    def _update_all(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        if self._rules.clip_norm is not None:
            norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradients.values()))
            factor = self._dtype.type(min(1.0, self._rules.clip_norm / norm)) if norm > 0 else 1
            gradients = {name: g * factor for name, g in gradients.items()}
        groups = scalars.groups
        for parameter in self._trained.parameters:
            of_group = groups[self._trained.groups[parameter.name]]
            decay = of_group.decay if parameter.role == "kernel" else 0.0
            self._update(parameter.name, gradients[parameter.name], of_group.step_size, decay)
        for op in self._trained.batch_norms:
            for name in (op.moving_mean, op.moving_variance):
                running = self._arrays[name]
                self._arrays[name] = op.momentum * running + (1 - op.momentum) * statistics[name]
        for array in self._plan.arrays if self._rules.average_decay is not None else ():
            average = self._arrays[average_name(array.name)]
            moved = average + scalars.average_share * (self._arrays[array.name] - average)
            self._arrays[average_name(array.name)] = moved

    def evaluate(self, images: Array, masks: Array) -> tuple[float, Array]:
        """Return loss and probabilities with running statistics."""
        logits = self._logits(images)
        loss = losses.total(self._rules.loss, logits, masks.astype(self._dtype))
        return float(loss), operations.sigmoid(logits)

    def predict(self, images: Array) -> Array:
        """Return probabilities."""
        probabilities: Array = operations.sigmoid(self._logits(images))
        return probabilities

    def differentiate(
        self, images: Array, masks: Array, keep: DropoutMasks | None = None, draw: int = 0
    ) -> Derivatives:
        """Return the training loss, its gradients and the batch's statistics; change nothing."""
        return self._differentiate(images, masks, keep or self._draw(draw, len(images)))

    def state(self) -> State:
        """Return copies of all arrays."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Replace all arrays."""
        check_state(state, state_shapes(self._plan, self._rules))
        self._arrays = {name: np.array(state[name], self._dtype, order="C") for name in self._arrays}

    def export(self, directory: Path, metadata: Mapping[str, str]) -> None:
        """Write the arrays of a prediction in NumPy's format, because autograd has none of its own."""
        del metadata  # the format cannot store it
        directory.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {array.name: self._arrays[array.name] for array in self._plan.arrays}
        np.savez(directory / "weights.npz", **arrays)

    def _logits(self, images: Array) -> Array:
        floats = as_numbers(images).astype(self._dtype)
        logits: Array
        logits, _ = operations.forward(self._plan, floats, self._arrays, None, (), self._narrow)
        return logits

    def _draw(self, step: int, count: int) -> DropoutMasks:
        return draw_dropout_masks(self._plan, self._rules.seed, step, count)

    @np.errstate(over="ignore", invalid="ignore")  # an overflow is skipped, or shows in the loss
    def _differentiate(self, images: Array, masks: Array, keep: DropoutMasks) -> Derivatives:
        statistics: State = {}

        def loss_of(parameters: State) -> operations.Array:
            arrays = {**self._arrays, **{name: parameters[name] for name in names}}
            floats = as_numbers(images).astype(self._dtype)
            by_batch = self._trained.by_batch
            logits, found = operations.forward(self._plan, floats, arrays, keep, by_batch, self._narrow)
            statistics.update(found)
            return losses.total(self._rules.loss, logits, masks.astype(self._dtype)) * scale

        scale = 1 if self._rules.loss_scale is None else self._arrays[LOSS_SCALE][0]
        names = [parameter.name for parameter in self._trained.parameters]
        loss, gradients = value_and_grad(loss_of)({name: self._arrays[name] for name in names})
        cast = {name: g.astype(self._dtype) / self._dtype.type(scale) for name, g in gradients.items()}
        return Derivatives(float(loss / scale), cast, statistics)

    def _update(self, name: str, gradient: Array, size: float, decay: float) -> None:
        rule, weights = self._rules.optimizer, self._arrays[name]
        slots = [self._arrays[slot_name(slot, name)] for slot in rule.slots]
        if isinstance(rule, AdamRule):
            m = rule.beta1 * slots[0] + (1 - rule.beta1) * gradient
            v = rule.beta2 * slots[1] + (1 - rule.beta2) * np.square(gradient)
            slots, direction = [m, v], m / (np.sqrt(v) + rule.epsilon)
        else:
            velocity = rule.momentum * slots[0] + gradient
            slots, direction = [velocity], gradient + rule.momentum * velocity if rule.nesterov else velocity
        self._arrays[name] = weights - decay * weights - size * direction
        self._arrays |= {slot_name(slot, name): kept for slot, kept in zip(rule.slots, slots, strict=True)}


def _adapted_loss_scale(rule: LossScaleRule, arrays: State, finite: bool) -> State:
    """Return the loss scale's arrays after an update or a skipped one."""
    scale, good, skipped = (arrays[name] for name in (LOSS_SCALE, GOOD_STEPS, SKIPPED_STEPS))
    if not finite:
        smaller = np.maximum(scale / rule.factor, LEAST_LOSS_SCALE)
        return {LOSS_SCALE: smaller, GOOD_STEPS: 0 * good, SKIPPED_STEPS: skipped + 1}
    if good + 1 < rule.growth_interval:
        return {GOOD_STEPS: good + 1}
    return {LOSS_SCALE: np.minimum(scale * rule.factor, MOST_LOSS_SCALE), GOOD_STEPS: 0 * good}


def compile(plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> AutogradModel:  # noqa: A001
    """Compile the plan to autograd; `device` can only be "cpu"."""
    del device
    require_operations(plan, operations.OPERATIONS, "autograd")
    return AutogradModel(plan, rules, precision)
