"""The specification of training: loss, clipping and optimiser, as formulas and rounded numbers.

A backend gets everything about loss, optimiser and clipping from `TrainingRules`, and everything that changes
from step to step from `StepScalars`. The numbers are computed on the host in float64 and rounded to float32
once. The formulas are below; each backend implements them in its framework.

In the precisions "mixed_bfloat16" and "mixed_float16" everything is float32 (weights, moments, running
statistics, bias, ReLU, batch norm, dropout, concatenation, losses, the optimiser and the arrays at the
boundary) except the two products, convolution and transposed convolution. With r(.) for rounding to bfloat16
or float16 (`core.base.rounding.to_narrow`):
    y = r(conv(r(x), r(kernel)));    the sums inside are float32 or wider
    dx = r(conv_dx(r(dy), r(kernel)));    dkernel = r(conv_dkernel(r(x), r(dy)))
A framework derives the same from `conv(x.to(half), kernel.to(half)).to(float32)`. The product of two numbers
of 16 bits is exact in float32, so a float32 product of rounded operands follows the rule too.

In "tf32" the operands alone are rounded, r(.) being that of `core.base.rounding.to_tf32`:
    y = conv(r(x), r(kernel));    dx = conv_dx(r(dy), r(kernel));    dkernel = conv_dkernel(r(x), r(dy))
So the gradient of r is that of the identity. Cards with TF32 do this for float32 numbers (how they round is
their own); elsewhere a backend rounds and multiplies float32. Their products are exact in float32 as well.

Bfloat16 has the range of float32 (Kalamkar et al., 2019), so its loss is not scaled. Float16 has no number
between 0 and 2**-24, and none above 65,504. Small gradients would vanish, so the loss is scaled (Micikevicius
et al., 2018, section 3.2), by a `LossScaleRule` and three arrays of the model's state, each of one number:
`scale` s, `good_steps` n and `skipped_steps` k (`core.backend.state`).
    g = (gradient of s * loss) / s
    if all g are finite:   update as below;  n = n + 1;  if n = growth_interval: s = s * factor, n = 0
    else:                  update nothing;   n = 0;  s = s / factor;  k = k + 1
- s is kept within `LEAST_LOSS_SCALE` and `MOST_LOSS_SCALE`. With factor 1 it is fixed.
- s and the factor are powers of two. So scaling changes no digit, and shards, workers and clipping see the
  gradients of the loss itself. Infinity and NaN survive division and the sum of the shards, so all workers
  skip the same updates.
- "Nothing" includes the running statistics. An overflow may have begun in the forward pass, where it makes
  them infinite for ever; and so a batch counts either wholly or not at all, on every framework.
- Skipped steps are steps to the host, in Adam's `step` and in schedules: it must not wait for the device.

Loss, with logits x, ground truth z in {0, 1}, p = sigmoid(x), means and sums over batch, height and width:

    bce      mean of softplus(x) - x*z
    dice     1 - (2 * sum(p*z) + 1) / (sum(p) + sum(z) + 1)          (soft Dice over the batch)
    focal    mean of sigmoid(-x')**gamma * softplus(-x'), x' = x*(2z - 1)  (Lin et al., 2017; no alpha)
    tversky  1 - (2*TP + 1) / (2*TP + 2*alpha*FP + 2*beta*FN + 1)    (Salehi et al., 2017, over the batch;
             TP = sum(p*z), FP = sum(p*(1 - z)), FN = sum((1 - p)*z); with alpha = beta = 1/2 it is dice)
    lovasz   mean over the images of sum_k max(e_k, 0) * w_k         (Berman et al., 2018, the hinge)
    loss = the sum of the parts, each times its weight

Where the plan has the existence head (`core.network.plan.Existence`), with its logit x for each image and
z = 1 where the image's mask has a positive pixel, else 0:

    existence    mean over the images of softplus(x) - x*z
    loss = the loss of the masks + the weight `existence` * existence

Lovasz: e_k is the k-th largest of the image's errors 1 - x'. Pixels of equal error keep the order of their
index (row by row). w_k is the increase of the Jaccard loss when the k-th pixel is wrong besides the first
k - 1. With P positive pixels, t of them among the first k - 1 and n = k - 1 - t:
    w_k = 1 / (P + n)                               where z_k = 1
    w_k = (P - t) / ((P + n) * (P + n + 1))         where z_k = 0
    w_k = 1 for k = 1, else 0                       where P = 0
The weights count as constants in the gradient; the slope of max(e, 0) at 0 is 0. The usual form of w_k, a
difference of two Jaccard losses close to 1, would lose its digits in float32.

Clipping by global norm (Pascanu et al., 2013), before the optimiser:
    g *= min(1, clip_norm / sqrt(sum of all squared gradients))

Every optimiser uses decoupled weight decay (Loshchilov and Hutter, 2019), for kernels only:
    w = w - decay * w - size * direction;    decay = rate * weight_decay

Adam (Kingma and Ba, 2015, in the form of the last paragraph of section 2); with decay it is AdamW:
    m = beta1 * m + (1 - beta1) * g;    v = beta2 * v + (1 - beta2) * g**2
    direction = m / (sqrt(v) + epsilon);    size = rate * sqrt(1 - beta2**step) / (1 - beta1**step)

Stochastic gradient descent with momentum, plain or Nesterov's (Sutskever et al., 2013). The rate is not part
of the velocity, as in PyTorch, so that a change of the rate acts at once:
    velocity = momentum * velocity + g
    direction = velocity, or g + momentum * velocity with Nesterov's momentum;    size = rate

Of frozen blocks nothing is updated, and the norm does not count them. Where a block has a factor of its own,
its rate is the rate times this factor, in `size` and in `decay` (`core.backend.trained_part`).

Moving average of all parameters and running statistics w, frozen ones too, after each update (Polyak and
Juditsky, 1992, in the exponential form; running statistics as timm's ModelEmaV2):
    e = e + share * (w - e);    share = 1 - min(average_decay, (1 + step) / (10 + step))
At the beginning e = w. The smaller decay of the first steps lets e forget them. An array that does not change
is its own average, bit for bit, because w - e is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from core.base.errors import UserError
from core.base.rounding import to_float32


@dataclass(frozen=True)
class LossRule:
    """Weights and constants of the parts of the loss; a part of weight 0 is omitted.

    `existence` is the weight of the existence head's part. It counts only where the plan has the head.
    """

    bce: float
    dice: float
    focal: float
    focal_gamma: float
    tversky: float = 0.0
    tversky_alpha: float = 0.3
    tversky_beta: float = 0.7
    lovasz: float = 0.0
    existence: float = 1.0

    def parts(self) -> list[tuple[float, str, tuple[float, ...]]]:
        """Return weight, name and constants of each part of the masks' loss with a weight above 0."""
        every: list[tuple[float, str, tuple[float, ...]]] = [
            (self.bce, "bce", ()),
            (self.dice, "dice", ()),
            (self.focal, "focal", (self.focal_gamma,)),
            (self.tversky, "tversky", (self.tversky_alpha, self.tversky_beta)),
            (self.lovasz, "lovasz", ()),
        ]
        return [part for part in every if part[0] > 0]

    def in_words(self, head: bool) -> str:
        """Return the sum for people, as "3 bce + dice"; with `head` it includes the existence head's part."""
        weights = [(weight, name) for weight, name, _ in self.parts()]
        if head:
            weights.append((self.existence, "existence"))
        return " + ".join(name if weight == 1 else f"{weight:g} {name}" for weight, name in weights)


@dataclass(frozen=True)
class AdamRule:
    """Constants of Adam; `slots` names the arrays that are kept for each parameter."""

    beta1: float
    beta2: float
    epsilon: float
    slots: tuple[str, ...] = ("m", "v")


@dataclass(frozen=True)
class SgdRule:
    """Constants of gradient descent; `slots` as for `AdamRule`."""

    momentum: float
    nesterov: bool
    slots: tuple[str, ...] = ("velocity",)


OptimizerRule: TypeAlias = AdamRule | SgdRule


LEAST_LOSS_SCALE, MOST_LOSS_SCALE = 2.0**-24, 2.0**24
"""The bounds of a loss scale that changes."""


@dataclass(frozen=True)
class LossScaleRule:
    """How the loss is scaled; all but `growth_interval` are powers of two.

    Args:
        initial: The scale before the first step.
        factor: By what the scale is multiplied or divided; 1 leaves it as it is.
        growth_interval: Updates without an overflow after which the scale grows.
    """

    initial: float = 2.0**16
    factor: float = 2.0
    growth_interval: int = 2000


Update = TypeVar("Update")


def update_for(rule: OptimizerRule, updates: Mapping[type, Update], backend: str) -> Update:
    """Return the update function registered for `type(rule)`.

    Raises:
        UserError: The backend has none.
    """
    if type(rule) not in updates:
        raise UserError(f"{backend} has no optimiser {type(rule).__name__}")
    return updates[type(rule)]


@dataclass(frozen=True)
class TrainingRules:
    """The specification of training that `compile` gets.

    Args:
        loss: Weights and constants of the loss.
        optimizer: The optimiser and its constants.
        clip_norm: Largest global norm of the gradients; None for no clipping.
        seed: Seed of the dropout masks that a backend draws itself.
        frozen: Names of blocks that are not trained (`core.backend.trained_part`).
        rates: Names of blocks, and the factor of their learning rate.
        average_decay: Decay of the moving average of the arrays; None for no average.
        loss_scale: How the loss is scaled; None for no scaling.
    """

    loss: LossRule
    optimizer: OptimizerRule
    clip_norm: float | None = None
    seed: int = 0
    frozen: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    average_decay: float | None = None
    loss_scale: LossScaleRule | None = None


def prediction_rules(rules: TrainingRules) -> TrainingRules:
    """Return the rules of a model that only predicts: its state is the network's arrays alone."""
    return TrainingRules(rules.loss, SgdRule(momentum=0.0, nesterov=False, slots=()), seed=rules.seed)


@dataclass(frozen=True)
class StepScalars:
    """The numbers that change from step to step.

    Args:
        step: Number of this update, from 1.
        step_size: The learning rate; for Adam, multiplied by its bias correction.
        decay: Share of each kernel that weight decay subtracts.
        rated: Step size and decay of the blocks of each name in `TrainingRules.rates`, in their order.
        average_share: Share of an array's distance from its moving average that the average moves.
    """

    step: int
    step_size: float
    decay: float = 0.0
    rated: tuple[tuple[float, float], ...] = ()
    average_share: float = 0.0

    @property
    def groups(self) -> tuple[StepScalars, ...]:
        """These scalars, then those of each name in `TrainingRules.rates` (see `TrainedPart.groups`)."""
        return self, *(replace(self, step_size=size, decay=decay) for size, decay in self.rated)


def step_scalars(rules: TrainingRules, step: int, rate: float, weight_decay: float = 0.0) -> StepScalars:
    """Return the scalars of update number `step` (from 1) at learning rate `rate`."""
    rule, correction, share = rules.optimizer, 1.0, 0.0
    if isinstance(rule, AdamRule):
        correction = math.sqrt(1.0 - rule.beta2**step) / (1.0 - rule.beta1**step)
    if rules.average_decay is not None:
        share = to_float32(1.0 - min(rules.average_decay, (1.0 + step) / (10.0 + step)))

    def of_rate(rate: float) -> tuple[float, float]:
        return to_float32(rate * correction), to_float32(rate * weight_decay)

    rated = tuple(of_rate(rate * factor) for _, factor in rules.rates)
    return StepScalars(step, *of_rate(rate), rated, share)
