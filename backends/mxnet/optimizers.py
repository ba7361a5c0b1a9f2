"""Gradient clipping, the optimisers and the loss scale of `core.backend.training_rules` in MXNet.

No function waits for a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backends.mxnet.framework import attribute, mx
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

Array = Any
"""An `mx.nd.NDArray`; MXNet ships no type information."""


def clip_by_global_norm(gradients: Mapping[str, Array], clip_norm: float) -> dict[str, Array]:
    """Scale all gradients together so that their norm is at most `clip_norm`."""
    wide = [gradient.reshape(-1).astype("float64") for gradient in gradients.values()]
    norm = mx.nd.sqrt(mx.nd.add_n(*[mx.nd.dot(gradient, gradient) for gradient in wide]))
    factor = mx.nd.where(norm <= clip_norm, mx.nd.ones_like(norm), clip_norm / norm)
    return {
        name: mx.nd.broadcast_mul(gradient, _with_axes_of(gradient, factor.astype(gradient.dtype)))
        for name, gradient in gradients.items()
    }


def adam(
    rule: AdamRule,
    scalars: StepScalars,
    parameter: Parameter,
    w: Array,
    m: Array,
    v: Array,
    gradient: Array,
) -> None:
    """Update the weights and both moments in place."""
    _decay(scalars, parameter, w)
    mx.nd.adam_update(
        w,
        gradient,
        m,
        v,
        lr=attribute(scalars.step_size),
        beta1=attribute(rule.beta1),
        beta2=attribute(rule.beta2),
        epsilon=attribute(rule.epsilon),
        out=w,
    )


def sgd(
    rule: SgdRule,
    scalars: StepScalars,
    parameter: Parameter,
    w: Array,
    velocity: Array,
    gradient: Array,
) -> None:
    """Update the weights and the velocity in place."""
    _decay(scalars, parameter, w)
    # Not `sgd_mom_update` or `nag_mom_update`, whose velocity includes the learning rate.
    velocity *= rule.momentum
    velocity += gradient
    if rule.nesterov:
        w -= scalars.step_size * (gradient + rule.momentum * velocity)
    else:
        w -= scalars.step_size * velocity


def update_of(rule: OptimizerRule) -> Callable[..., None]:
    """Return the update function of a rule. It takes the weights, then the slots, then the gradient."""
    updates: dict[type, Callable[..., None]] = {AdamRule: adam, SgdRule: sgd}
    return update_for(rule, updates, "mxnet")


def all_finite(gradients: Mapping[str, Array], dtype: str) -> Array:
    """Return (1,): 1 if no gradient has infinity or NaN, else 0."""
    arrays = list(gradients.values())
    return mx.nd.multi_all_finite(*arrays, num_arrays=len(arrays), init_output=True).astype(dtype)


def chosen(first: Array, one: Array, other: Array) -> Array:
    """Return one array where `first`, (1,), is 1, and the other where it is 0."""
    return mx.nd.where(mx.nd.broadcast_like(_with_axes_of(one, first), one), one, other)


def adapt_loss_scale(rule: LossScaleRule, arrays: Mapping[str, Array], finite: Array) -> None:
    """Update the loss scale's arrays in place, after an update or a skipped one."""
    scale, good, skipped = (arrays[name] for name in (LOSS_SCALE, GOOD_STEPS, SKIPPED_STEPS))
    grows = good + 1 >= rule.growth_interval
    grown = chosen(grows, mx.nd.minimum(scale * rule.factor, MOST_LOSS_SCALE), scale)
    skipped += 1 - finite
    scale[:] = chosen(finite, grown, mx.nd.maximum(scale / rule.factor, LEAST_LOSS_SCALE))
    good[:] = (good + 1) * finite * (1 - grows)


def _decay(scalars: StepScalars, parameter: Parameter, w: Array) -> None:
    if parameter.role == "kernel" and scalars.decay:
        w -= scalars.decay * w


def _with_axes_of(like: Array, scalar: Array) -> Array:
    """Give a one-element array as many axes as `like` has."""
    return scalar.reshape((1,) * like.ndim)
