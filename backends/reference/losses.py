"""The losses of `core.backend.training_rules` in NumPy: values and gradients for the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backends.reference.operations import Floats, sigmoid
from core.backend.training_rules import LossRule

Loss = tuple[np.floating[Any], Floats]
"""The value of a loss, and its gradient for the logits."""


def bce(logits: Floats, masks: Floats) -> Loss:
    """Return the mean binary cross-entropy."""
    return np.mean(_softplus(logits) - logits * masks), (sigmoid(logits) - masks) / _count(logits)


def dice(logits: Floats, masks: Floats) -> Loss:
    """Return 1 less the soft Dice over the batch, with smoothing 1."""
    p = sigmoid(logits)
    one, two = logits.dtype.type(1), logits.dtype.type(2)
    overlap, total = two * np.sum(p * masks) + one, np.sum(p) + np.sum(masks) + one
    d_p = (overlap - 2 * masks * total) / total**2
    return one - overlap / total, d_p * p * (1 - p)


def focal(logits: Floats, masks: Floats, gamma: float) -> Loss:
    """Return the mean cross-entropy with each pixel weighted by its error, to the power `gamma`."""
    sign = 2 * masks - 1
    x, g = logits * sign, logits.dtype.type(gamma)
    weight = np.exp(-g * _softplus(x))  # sigmoid(-x)**gamma
    value = weight * _softplus(-x)
    slope = -weight * (g * sigmoid(x) * _softplus(-x) + sigmoid(-x))
    return np.mean(value), slope * sign / _count(logits)


def tversky(logits: Floats, masks: Floats, alpha: float, beta: float) -> Loss:
    """Return 1 less the soft Tversky index over the batch, with smoothing 1.

    `alpha` weights false positives, `beta` false negatives.
    """
    p, a, b = sigmoid(logits), logits.dtype.type(alpha), logits.dtype.type(beta)
    one, two = logits.dtype.type(1), logits.dtype.type(2)
    found = two * np.sum(p * masks) + one
    all_counted = found + two * (a * np.sum(p * (1 - masks)) + b * np.sum((1 - p) * masks))
    d_found, d_false = 2 * masks, 2 * (a * (1 - masks) - b * masks)
    d_p = (found * (d_found + d_false) - all_counted * d_found) / all_counted**2
    return one - found / all_counted, d_p * p * (1 - p)


def lovasz(logits: Floats, masks: Floats) -> Loss:
    """Return the mean of the images' Lovasz hinges; pixels of equal error keep the order of their index."""
    sign = 2 * masks - 1
    errors = 1 - logits * sign
    weights = np.empty_like(logits)
    for error, truth, weight in zip(errors, masks, weights, strict=True):
        order = np.argsort(-error, axis=None, kind="stable")
        weight.flat[order] = _jaccard_steps(truth.flat[order])
    count = logits.dtype.type(len(logits))
    return np.sum(np.maximum(errors, 0) * weights) / count, -sign * weights * (errors > 0) / count


def total(rule: LossRule, logits: Floats, masks: Floats) -> Loss:
    """Return the weighted sum of the rule's losses."""
    number = logits.dtype.type
    losses: dict[str, Callable[..., Loss]] = {
        "bce": bce,
        "dice": dice,
        "focal": focal,
        "tversky": tversky,
        "lovasz": lovasz,
    }
    parts = [(weight, losses[name](logits, masks, *constants)) for weight, name, constants in rule.parts()]
    value = sum((number(weight) * loss for weight, (loss, _) in parts), start=number(0))
    gradient = sum((number(weight) * slope for weight, (_, slope) in parts), np.zeros_like(logits))
    return value, gradient


def existence(rule: LossRule, logits: Floats, masks: Floats) -> Loss:
    """Return the weighted loss of the existence head from its logits, (N, 1, 1, 1)."""
    value, slope = bce(logits, masks.max(axis=(1, 2, 3), keepdims=True))
    weight = logits.dtype.type(rule.existence)
    return weight * value, weight * slope


def _jaccard_steps(truth: Floats) -> Floats:
    """Return what each pixel adds to the Jaccard loss; (pixels,), sorted from the largest error down."""
    positives = np.sum(truth)
    left = positives - np.cumsum(truth) + truth
    union = positives + np.cumsum(1 - truth) - (1 - truth)
    # In an image without truth the union before the first pixel is 0; this pixel adds the whole loss.
    steps = np.where(truth > 0, 1 / np.maximum(union, 1), left / (np.maximum(union, 1) * (union + 1)))
    steps[union == 0] = 1
    return steps


def _count(logits: Floats) -> np.floating[Any]:
    """Return the number of pixels in their type: divided by an int beyond 2**16, float32 becomes float64."""
    number: np.floating[Any] = logits.dtype.type(logits.size)
    return number


def _softplus(x: Floats) -> Floats:
    y: Floats = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return y
