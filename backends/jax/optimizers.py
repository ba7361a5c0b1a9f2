"""Gradient clipping and the optimisers of `core.backend.training_rules` in JAX, as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backends.jax.framework import jax
from backends.jax.operations import Tensor
from core.backend.training_rules import AdamRule, OptimizerRule, SgdRule, update_for
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


def _decayed(decay: Tensor, parameter: Parameter, w: Tensor) -> Tensor:
    return w - decay * w if parameter.role == "kernel" else w
