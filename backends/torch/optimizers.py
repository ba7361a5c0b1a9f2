"""Gradient clipping and the optimisers of `core.backend.training_rules` in PyTorch.

No function waits for a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backends.torch.framework import torch
from backends.torch.operations import Tensor
from core.backend.training_rules import AdamRule, OptimizerRule, SgdRule, StepScalars, update_for
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


def _decay(scalars: StepScalars, parameter: Parameter, w: Tensor) -> None:
    if parameter.role == "kernel" and scalars.decay:
        w.sub_(w, alpha=scalars.decay)
