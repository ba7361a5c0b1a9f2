"""Gradient clipping, the optimisers and the loss scale of `core.backend.training_rules` in JAX.

All functions are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backends.jax.framework import jax
from backends.jax.operations import Tensor
from core.backend.state import GOOD_STEPS, LOSS_SCALE, SKIPPED_STEPS
from core.backend.training_rules import (
    LEAST_LOSS_SCALE,
    MOST_LOSS_SCALE,
    AdamRule,
    LossScaleRule,
    OptimizerRule,
    SgdRule,
    update_for,
)
from core.network.plan import Parameter

jnp = jax.numpy


def clip_by_global_norm(gradients: Mapping[str, Tensor], clip_norm: float) -> dict[str, Tensor]:
    """Scale all gradients together so that their norm is at most `clip_norm`."""
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(gradient)) for gradient in gradients.values()))
    factor = jnp.where(norm <= clip_norm, jnp.ones_like(norm), clip_norm / norm)
    return {name: gradient * factor for name, gradient in gradients.items()}


def adam(
    rule: AdamRule,
    step_size: Tensor,
    decay: Tensor,
    parameter: Parameter,
    w: Tensor,
    m: Tensor,
    v: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the updated weights and both moments."""
    w = _decayed(decay, parameter, w)
    m = rule.beta1 * m + (1 - rule.beta1) * gradient
    v = rule.beta2 * v + (1 - rule.beta2) * jnp.square(gradient)
    return w - step_size * m / (jnp.sqrt(v) + rule.epsilon), m, v


def sgd(
    rule: SgdRule,
    step_size: Tensor,
    decay: Tensor,
    parameter: Parameter,
    w: Tensor,
    velocity: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the updated weights and the velocity."""
    w = _decayed(decay, parameter, w)
    velocity = rule.momentum * velocity + gradient
    direction = gradient + rule.momentum * velocity if rule.nesterov else velocity
    return w - step_size * direction, velocity


def update_of(rule: OptimizerRule) -> Callable[..., tuple[Tensor, ...]]:
    """Return the update function of a rule. It takes the weights, then the slots, then the gradient."""
    updates: dict[type, Callable[..., tuple[Tensor, ...]]] = {AdamRule: adam, SgdRule: sgd}
    return update_for(rule, updates, "jax")


def all_finite(gradients: Mapping[str, Tensor]) -> Tensor:
    """Return whether no gradient has infinity or NaN."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(gradient)) for gradient in gradients.values()]))


def adapted_loss_scale(
    rule: LossScaleRule, arrays: Mapping[str, Tensor], finite: Tensor
) -> dict[str, Tensor]:
    """Return the loss scale's arrays after an update or a skipped one."""
    scale, good, skipped = (arrays[name] for name in (LOSS_SCALE, GOOD_STEPS, SKIPPED_STEPS))
    grows = good + 1 >= rule.growth_interval
    grown = jnp.where(grows, jnp.minimum(scale * rule.factor, MOST_LOSS_SCALE), scale)
    return {
        LOSS_SCALE: jnp.where(finite, grown, jnp.maximum(scale / rule.factor, LEAST_LOSS_SCALE)),
        GOOD_STEPS: jnp.where(finite & ~grows, good + 1, jnp.zeros_like(good)),
        SKIPPED_STEPS: skipped + (1 - finite.astype(skipped.dtype)),
    }


def _decayed(decay: Tensor, parameter: Parameter, w: Tensor) -> Tensor:
    return w - decay * w if parameter.role == "kernel" else w
