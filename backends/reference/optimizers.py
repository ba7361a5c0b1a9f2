"""Gradient clipping, the optimisers and the loss scale of `core.backend.training_rules` in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from backends.reference.operations import Floats
from core.backend.state import GOOD_STEPS, LOSS_SCALE, SKIPPED_STEPS
from core.backend.training_rules import (
    LEAST_LOSS_SCALE,
    MOST_LOSS_SCALE,
    AdamRule,
    LossScaleRule,
    OptimizerRule,
    SgdRule,
    StepScalars,
    update_for,
)
from core.network.plan import Parameter


def clip_by_global_norm(gradients: Mapping[str, Floats], clip_norm: float) -> dict[str, Floats]:
    """Scale all gradients together so that their norm is at most `clip_norm`."""
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients.values()))
    factor = 1.0 if norm <= clip_norm else clip_norm / norm
    return {name: gradient * gradient.dtype.type(factor) for name, gradient in gradients.items()}


def adam(
    rule: AdamRule,
    scalars: StepScalars,
    parameter: Parameter,
    w: Floats,
    m: Floats,
    v: Floats,
    gradient: Floats,
) -> None:
    """Update the weights and both moments in place."""
    number = w.dtype.type
    beta1, beta2 = number(rule.beta1), number(rule.beta2)
    m[...] = beta1 * m + (1 - beta1) * gradient
    v[...] = beta2 * v + (1 - beta2) * gradient**2
    _step(scalars, parameter, w, m / (np.sqrt(v) + number(rule.epsilon)))


def sgd(
    rule: SgdRule,
    scalars: StepScalars,
    parameter: Parameter,
    w: Floats,
    velocity: Floats,
    gradient: Floats,
) -> None:
    """Update the weights and the velocity in place."""
    momentum = w.dtype.type(rule.momentum)
    velocity[...] = momentum * velocity + gradient
    _step(scalars, parameter, w, gradient + momentum * velocity if rule.nesterov else velocity)


def update_of(rule: OptimizerRule) -> Callable[..., None]:
    """Return the update function of a rule. It takes the weights, then the slots, then the gradient."""
    updates: dict[type, Callable[..., None]] = {AdamRule: adam, SgdRule: sgd}
    return update_for(rule, updates, "the reference")


def all_finite(gradients: Mapping[str, Floats]) -> bool:
    """Return whether no gradient has infinity or NaN."""
    return all(bool(np.isfinite(gradient).all()) for gradient in gradients.values())


def adapt_loss_scale(rule: LossScaleRule, arrays: Mapping[str, Floats], finite: bool) -> None:
    """Update the loss scale's arrays in place, after an update or a skipped one."""
    scale, good, skipped = (arrays[name] for name in (LOSS_SCALE, GOOD_STEPS, SKIPPED_STEPS))
    if not finite:
        scale[...], good[...] = np.maximum(scale / rule.factor, LEAST_LOSS_SCALE), 0
        skipped += 1
    elif good + 1 < rule.growth_interval:
        good += 1
    else:
        scale[...], good[...] = np.minimum(scale * rule.factor, MOST_LOSS_SCALE), 0


def _step(scalars: StepScalars, parameter: Parameter, w: Floats, direction: Floats) -> None:
    """Step along the direction, with weight decay if the parameter is a kernel."""
    number = w.dtype.type
    step = number(scalars.step_size) * direction
    if parameter.role == "kernel" and scalars.decay:
        step += number(scalars.decay) * w
    w -= step
