"""The losses of `core.rules` in NumPy: each gives its value and its gradient for the logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.reference.operations import Floats, sigmoid
from core.rules import LossRule

Loss = tuple[np.floating[Any], Floats]
"""Value and gradient."""


def bce(logits: Floats, masks: Floats) -> Loss:
    """Mean binary cross-entropy."""
    return np.mean(_softplus(logits) - logits * masks), (sigmoid(logits) - masks) / logits.size


def dice(logits: Floats, masks: Floats) -> Loss:
    """Soft Dice over the batch, smoothing 1."""
    p = sigmoid(logits)
    overlap, total = 2 * np.sum(p * masks) + 1, np.sum(p) + np.sum(masks) + 1
    d_p = (overlap - 2 * masks * total) / total**2
    return 1 - overlap / total, d_p * p * (1 - p)


def focal(logits: Floats, masks: Floats, gamma: float) -> Loss:
    """Cross-entropy weighed by how wrong each pixel is."""
    sign = 2 * masks - 1
    x, g = logits * sign, logits.dtype.type(gamma)
    weight = np.exp(-g * _softplus(x))  # sigmoid(-x)**gamma
    value = weight * _softplus(-x)
    slope = -weight * (g * sigmoid(x) * _softplus(-x) + sigmoid(-x))
    return np.mean(value), slope * sign / logits.size


def total(rule: LossRule, logits: Floats, masks: Floats) -> Loss:
    """The weighted sum."""
    number = logits.dtype.type
    parts: list[tuple[float, Loss]] = []
    if rule.bce > 0:
        parts.append((rule.bce, bce(logits, masks)))
    if rule.dice > 0:
        parts.append((rule.dice, dice(logits, masks)))
    if rule.focal > 0:
        parts.append((rule.focal, focal(logits, masks, rule.focal_gamma)))
    value = sum((number(weight) * loss for weight, (loss, _) in parts), start=number(0))
    gradient = sum((number(weight) * slope for weight, (_, slope) in parts), np.zeros_like(logits))
    return value, gradient


def _softplus(x: Floats) -> Floats:
    y: Floats = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return y
