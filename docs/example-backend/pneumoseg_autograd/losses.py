"""The losses of `core.rules` in autograd's NumPy."""

from __future__ import annotations

import autograd.numpy as np

from core.rules import LossRule
from pneumoseg_autograd.operations import Array, sigmoid, softplus


def bce(logits: Array, truth: Array) -> Array:
    """Mean binary cross-entropy."""
    return np.mean(softplus(logits) - logits * truth)


def dice(logits: Array, truth: Array) -> Array:
    """Soft Dice over the batch, smoothing 1."""
    p = sigmoid(logits)
    return 1 - (2 * np.sum(p * truth) + 1) / (np.sum(p) + np.sum(truth) + 1)


def focal(logits: Array, truth: Array, gamma: float) -> Array:
    """Mean focal loss; the power of a sigmoid as an exponential, whose slope is finite everywhere."""
    towards = logits * (2 * truth - 1)
    return np.mean(np.exp(-gamma * softplus(towards)) * softplus(-towards))


def total(rule: LossRule, logits: Array, truth: Array) -> Array:
    """The weighted sum."""
    loss = 0.0
    if rule.bce:
        loss = loss + rule.bce * bce(logits, truth)
    if rule.dice:
        loss = loss + rule.dice * dice(logits, truth)
    if rule.focal:
        loss = loss + rule.focal * focal(logits, truth, rule.focal_gamma)
    return loss
