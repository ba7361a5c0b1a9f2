"""Gradient clipping, the optimisers and the loss scale of `core.backend.training_rules` in PyTorch.

No function waits for a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from backends.torch.framework import torch
from backends.torch.operations import Tensor
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


def clip_by_global_norm(gradients: Mapping[str, Tensor], clip_norm: float) -> dict[str, Tensor]:
    """Scale all gradients together so that their norm is at most `clip_norm`."""
    norm = torch.sqrt(sum(torch.sum(torch.square(gradient)) for gradient in gradients.values()))
    factor = torch.where(norm <= clip_norm, torch.ones_like(norm), clip_norm / norm)
    return {name: gradient * factor for name, gradient in gradients.items()}


def adam(
    rule: AdamRule,
    scalars: StepScalars,
    parameter: Parameter,
    w: Tensor,
    m: Tensor,
    v: Tensor,
    gradient: Tensor,
) -> None:
    """Update the weights and both moments in place.

    `torch.optim.Adam` is not used, because it adds epsilon after the bias correction.
    """
    _decay(scalars, parameter, w)
    m.mul_(rule.beta1).add_(gradient, alpha=1 - rule.beta1)
    v.mul_(rule.beta2).addcmul_(gradient, gradient, value=1 - rule.beta2)
    w.addcdiv_(m, torch.sqrt(v).add_(rule.epsilon), value=-scalars.step_size)


def sgd(
    rule: SgdRule,
    scalars: StepScalars,
    parameter: Parameter,
    w: Tensor,
    velocity: Tensor,
    gradient: Tensor,
) -> None:
    """Update the weights and the velocity in place."""
    _decay(scalars, parameter, w)
    velocity.mul_(rule.momentum).add_(gradient)
    direction = gradient.add(velocity, alpha=rule.momentum) if rule.nesterov else velocity
    w.sub_(direction, alpha=scalars.step_size)


def update_of(rule: OptimizerRule) -> Callable[..., None]:
    """Return the update function of a rule. It takes the weights, then the slots, then the gradient."""
    updates: dict[type, Callable[..., None]] = {AdamRule: adam, SgdRule: sgd}
    return update_for(rule, updates, "torch")


def all_finite(gradients: Iterable[Tensor]) -> Tensor:
    """Return whether no gradient has infinity or NaN."""
    return torch.stack([torch.isfinite(gradient).all() for gradient in gradients]).all()


def adapt_loss_scale(rule: LossScaleRule, arrays: Mapping[str, Tensor], finite: Tensor) -> None:
    """Update the loss scale's arrays in place, after an update or a skipped one."""
    scale, good, skipped = (arrays[name] for name in (LOSS_SCALE, GOOD_STEPS, SKIPPED_STEPS))
    grows = good + 1 >= rule.growth_interval
    grown = torch.where(grows, (scale * rule.factor).clamp(max=MOST_LOSS_SCALE), scale)
    skipped.add_(1 - finite.to(skipped.dtype))
    scale.copy_(torch.where(finite, grown, (scale / rule.factor).clamp(min=LEAST_LOSS_SCALE)))
    good.copy_(torch.where(finite & ~grows, good + 1, torch.zeros_like(good)))


def _decay(scalars: StepScalars, parameter: Parameter, w: Tensor) -> None:
    if parameter.role == "kernel" and scalars.decay:
        w.sub_(w, alpha=scalars.decay)
