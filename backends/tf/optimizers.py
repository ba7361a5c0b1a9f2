"""Gradient clipping, the optimisers and the loss scale of `core.backend.training_rules` in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backends.tf.framework import Tensor, tf
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


def clip_by_global_norm(gradients: Mapping[str, Tensor], clip_norm: float) -> dict[str, Tensor]:
    """Scale all gradients together so that their norm is at most `clip_norm`."""
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients.values()]))
    factor = tf.where(norm <= clip_norm, tf.ones_like(norm), clip_norm / norm)
    return {name: gradient * factor for name, gradient in gradients.items()}


def adam(
    rule: AdamRule,
    step_size: Tensor,
    decay: Tensor | None,
    parameter: Parameter,
    w: Tensor,
    m: Tensor,
    v: Tensor,
    gradient: Tensor,
) -> None:
    """Update the weights and both moments in place."""
    _decay(decay, parameter, w)
    # With both powers 0 the operator's own bias correction is 1: `step_size` includes it already.
    tf.raw_ops.ResourceApplyAdam(
        var=w.handle,
        m=m.handle,
        v=v.handle,
        beta1_power=tf.zeros_like(step_size),
        beta2_power=tf.zeros_like(step_size),
        lr=step_size,
        beta1=tf.constant(rule.beta1, w.dtype),
        beta2=tf.constant(rule.beta2, w.dtype),
        epsilon=tf.constant(rule.epsilon, w.dtype),
        grad=gradient,
    )


def sgd(
    rule: SgdRule,
    step_size: Tensor,
    decay: Tensor | None,
    parameter: Parameter,
    w: Tensor,
    velocity: Tensor,
    gradient: Tensor,
) -> None:
    """Update the weights and the velocity in place."""
    _decay(decay, parameter, w)
    # Not ResourceApplyKerasMomentum, whose velocity includes the learning rate.
    tf.raw_ops.ResourceApplyMomentum(
        var=w.handle,
        accum=velocity.handle,
        lr=step_size,
        grad=gradient,
        momentum=tf.constant(rule.momentum, w.dtype),
        use_nesterov=rule.nesterov,
    )


def update_of(rule: OptimizerRule) -> Callable[..., None]:
    """Return the update function of a rule. It takes the weights, then the slots, then the gradient."""
    updates: dict[type, Callable[..., None]] = {AdamRule: adam, SgdRule: sgd}
    return update_for(rule, updates, "tf")


def all_finite(gradients: Mapping[str, Tensor]) -> Tensor:
    """Return whether no gradient has infinity or NaN."""
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(one)) for one in gradients.values()]))


def adapt_loss_scale(rule: LossScaleRule, arrays: Mapping[str, Tensor], finite: Tensor) -> None:
    """Update the loss scale's arrays in place, after an update or a skipped one."""
    scale, good, skipped = (arrays[name] for name in (LOSS_SCALE, GOOD_STEPS, SKIPPED_STEPS))
    grows = good + 1 >= rule.growth_interval
    grown = tf.where(grows, tf.minimum(scale * rule.factor, MOST_LOSS_SCALE), scale)
    skipped.assign_add(1 - tf.cast(tf.reshape(finite, (1,)), skipped.dtype))
    scale.assign(tf.where(finite, grown, tf.maximum(scale / rule.factor, LEAST_LOSS_SCALE)))
    good.assign(tf.where(finite & ~grows, good + 1, tf.zeros_like(good)))


def _decay(decay: Tensor | None, parameter: Parameter, w: Tensor) -> None:
    if decay is not None and parameter.role == "kernel":
        w.assign_sub(decay * w)
