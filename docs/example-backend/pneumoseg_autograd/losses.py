"""The losses of `core.backend.training_rules` in autograd's NumPy."""

from __future__ import annotations

from collections.abc import Callable

import autograd.numpy as np
from autograd.tracer import getval

from core.backend.training_rules import LossRule
from pneumoseg_autograd.operations import Array, sigmoid, softplus


def bce(logits: Array, truth: Array) -> Array:
    """Mean binary cross-entropy."""
    return np.mean(softplus(logits) - logits * truth)


def dice(logits: Array, truth: Array) -> Array:
    """Soft Dice over the batch, smoothing 1."""
    p = sigmoid(logits)
    return 1 - (2 * np.sum(p * truth) + 1) / (np.sum(p) + np.sum(truth) + 1)


def focal(logits: Array, truth: Array, gamma: float) -> Array:
    """Mean focal loss; the power of a sigmoid is written as an exponential, whose slope is always finite."""
    towards = logits * (2 * truth - 1)
    return np.mean(np.exp(-gamma * softplus(towards)) * softplus(-towards))


def tversky(logits: Array, truth: Array, alpha: float, beta: float) -> Array:
    """Soft Tversky over the batch, smoothing 1, weights `alpha` of false positives, `beta` of negatives."""
    p = sigmoid(logits)
    found = 2 * np.sum(p * truth) + 1
    false = alpha * np.sum(p * (1 - truth)) + beta * np.sum((1 - p) * truth)
    return 1 - found / (found + 2 * false)


def lovasz(logits: Array, truth: Array) -> Array:
    """Mean of the images' Lovasz hinges; the weights of the pixels are constants in the gradient."""
    errors = 1 - logits * (2 * truth - 1)
    weights = np.empty_like(truth)
    for error, wanted, weight in zip(getval(errors), truth, weights, strict=True):
        order = np.argsort(-error, axis=None, kind="stable")
        weight.flat[order] = _jaccard_steps(wanted.flat[order])
    return np.sum(np.where(errors > 0, errors, 0 * errors) * weights) / len(truth)


def total(rule: LossRule, logits: Array, truth: Array) -> Array:
    """Return the weighted sum of the losses."""
    losses: dict[str, Callable[..., Array]] = {
        "bce": bce,
        "dice": dice,
        "focal": focal,
        "tversky": tversky,
        "lovasz": lovasz,
    }
    return sum(weight * losses[name](logits, truth, *constants) for weight, name, constants in rule.parts())


def _jaccard_steps(truth: Array) -> Array:
    """Return the increase of the Jaccard loss at each pixel, in descending order of the errors."""
    left = np.sum(truth) - np.cumsum(truth) + truth
    union = np.sum(truth) + np.cumsum(1 - truth) - (1 - truth)
    least = np.maximum(union, 1)
    return np.where(union == 0, 1, np.where(truth > 0, 1 / least, left / (least * (union + 1))))
