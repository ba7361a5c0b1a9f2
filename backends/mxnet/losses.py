"""The losses of `core.rules` as MXNet symbols.

Gluon's `SigmoidBCELoss` is not used: at a logit of exactly 0 its gradient is -z instead of 1/2 - z.
"""

from __future__ import annotations

from backends.mxnet.framework import mx
from backends.mxnet.operations import Symbol
from core.rules import LossRule


def bce(logits: Symbol, masks: Symbol) -> Symbol:
    """Mean binary cross-entropy."""
    return mx.sym.mean(_softplus(logits) - logits * masks)


def dice(logits: Symbol, masks: Symbol) -> Symbol:
    """Soft Dice over the batch, smoothing 1."""
    p = mx.sym.sigmoid(logits)
    overlap = 2 * mx.sym.sum(p * masks) + 1
    return 1 - overlap / (mx.sym.sum(p) + mx.sym.sum(masks) + 1)


def focal(logits: Symbol, masks: Symbol, gamma: float) -> Symbol:
    """Cross-entropy weighed by how wrong each pixel is."""
    x = logits * (2 * masks - 1)
    return mx.sym.mean(mx.sym.exp(-gamma * _softplus(x)) * _softplus(-x))


def total(rule: LossRule, logits: Symbol, masks: Symbol) -> Symbol:
    """The weighted sum."""
    parts = []
    if rule.bce > 0:
        parts.append(rule.bce * bce(logits, masks))
    if rule.dice > 0:
        parts.append(rule.dice * dice(logits, masks))
    if rule.focal > 0:
        parts.append(rule.focal * focal(logits, masks, rule.focal_gamma))
    return mx.sym.add_n(*parts)


def _softplus(x: Symbol) -> Symbol:
    return mx.sym.Activation(x, act_type="softrelu")
