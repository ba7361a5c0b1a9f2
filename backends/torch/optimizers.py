"""Gradient clipping, the optimisers and the loss scale of `core.backend.training_rules` in PyTorch.

No function waits for a result. `torch._foreach_*`, which PyTorch's own optimisers use too, computes the same
as a loop over the arrays; on a GPU it starts one kernel for many arrays, where a loop starts one for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

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
    update_for,
)


def clip_by_global_norm(gradients: Sequence[Tensor], clip_norm: float) -> list[Tensor]:
    """Scale all gradients together so that their norm is at most `clip_norm`."""
    squares = torch._foreach_mul(gradients, gradients)
    norm = torch.sqrt(torch.stack([torch.sum(square) for square in squares]).sum())
    factor = torch.where(norm <= clip_norm, torch.ones_like(norm), clip_norm / norm)
    return list(torch._foreach_mul(gradients, factor))


def adam(
    rule: AdamRule,
    size: float,
    w: Sequence[Tensor],
    m: Sequence[Tensor],
    v: Sequence[Tensor],
    g: Sequence[Tensor],
) -> None:
    """Update weights and both moments in place.

    `torch.optim.Adam` is not used, because it adds epsilon after the bias correction.
    """
    torch._foreach_mul_(m, rule.beta1)
    torch._foreach_add_(m, g, alpha=1 - rule.beta1)
    torch._foreach_mul_(v, rule.beta2)
    torch._foreach_addcmul_(v, g, g, value=1 - rule.beta2)
    roots = torch._foreach_sqrt(v)
    torch._foreach_add_(roots, rule.epsilon)
    torch._foreach_addcdiv_(w, m, roots, value=-size)


def sgd(
    rule: SgdRule, size: float, w: Sequence[Tensor], velocity: Sequence[Tensor], g: Sequence[Tensor]
) -> None:
    """Update weights and velocities in place."""
    torch._foreach_mul_(velocity, rule.momentum)
    torch._foreach_add_(velocity, g)
    direction = torch._foreach_add(g, velocity, alpha=rule.momentum) if rule.nesterov else velocity
    torch._foreach_sub_(w, direction, alpha=size)


def decay(kernels: Sequence[Tensor], share: float) -> None:
    """Reduce kernels by a share of themselves in place."""
    if kernels and share:
        torch._foreach_sub_(kernels, kernels, alpha=share)


def update_of(rule: OptimizerRule) -> Callable[..., None]:
    """Return the update function of a rule. It takes the weights, then the slots, then the gradients."""
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
