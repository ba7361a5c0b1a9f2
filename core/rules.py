"""The arithmetic of training that every backend follows, as rounded numbers.

Promises: a backend learns everything about loss, optimiser and clipping from `Rules`, and everything
that changes from step to step from `StepScalars`; all of it was computed on the host in float64 and
then rounded to float32 once. The formulas stand here; each backend writes them in its framework.

Loss, with logits x, truth z in {0, 1}, p = sigmoid(x), means and sums over batch, height and width:

    bce     mean of softplus(x) - x*z
    dice    1 - (2 * sum(p*z) + 1) / (sum(p) + sum(z) + 1)          (soft Dice over the batch)
    focal   mean of sigmoid(-x')**gamma * softplus(-x'), x' = x*(2z - 1)  (Lin et al., 2017; no alpha)
    loss = w_bce * bce + w_dice * dice + w_focal * focal

Clipping by global norm (Pascanu et al., 2013), before the optimiser:
    g *= min(1, clip_norm / sqrt(sum of all squared gradients))

Adam (Kingma and Ba, 2015, in the form of section 2's last paragraph), with the decoupled decay of
AdamW (Loshchilov and Hutter, 2019) for kernels alone:
    m = beta1 * m + (1 - beta1) * g;    v = beta2 * v + (1 - beta2) * g**2
    w = w - decay * w - size * m / (sqrt(v) + epsilon)
    size = rate * sqrt(1 - beta2**step) / (1 - beta1**step);    decay = rate * weight_decay
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.rounding import to_float32


@dataclass(frozen=True)
class LossRule:
    """Weights of the sum; a part of weight 0 is left out."""

    bce: float
    dice: float
    focal: float
    focal_gamma: float


@dataclass(frozen=True)
class AdamRule:
    """Numbers that do not change from step to step; `slots` are kept for each parameter."""

    beta1: float
    beta2: float
    epsilon: float
    slots: tuple[str, ...] = ("m", "v")


@dataclass(frozen=True)
class Rules:
    """What `compile` needs to know about training.

    Args:
        loss: Weights of the loss.
        optimizer: The optimiser's constants.
        clip_norm: Largest global norm of the gradients, or None.
        seed: Key of the dropout masks that a backend draws by itself.
    """

    loss: LossRule
    optimizer: AdamRule
    clip_norm: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class StepScalars:
    """What changes from step to step.

    Args:
        step: Number of this update, from 1.
        size: Adam's step size with its bias correction.
        decay: Share of each kernel that weight decay takes away.
    """

    step: int
    size: float
    decay: float = 0.0


def adam_step(rule: AdamRule, step: int, rate: float, weight_decay: float = 0.0) -> StepScalars:
    """The scalars of update number `step` (from 1) at learning rate `rate`."""
    correction = math.sqrt(1.0 - rule.beta2**step) / (1.0 - rule.beta1**step)
    return StepScalars(step, to_float32(rate * correction), to_float32(rate * weight_decay))
