"""The losses of `core.backend.training_rules` in JAX."""

from __future__ import annotations

from collections.abc import Callable

from backends.jax.framework import jax
from backends.jax.operations import Tensor
from core.backend.outputs import Outputs
from core.backend.training_rules import LossRule

jnp = jax.numpy


def bce(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean binary cross-entropy."""
    return _sum(jax.nn.softplus(logits) - logits * masks) / logits.size


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Return 1 less the soft Dice over the batch, with smoothing 1."""
    p = jax.nn.sigmoid(logits)
    overlap = 2 * _sum(p * masks) + 1
    return 1 - overlap / (_sum(p) + _sum(masks) + 1)


def focal(logits: Tensor, masks: Tensor, gamma: float) -> Tensor:
    """Return the mean cross-entropy with each pixel weighted by its error, to the power `gamma`."""
    x = logits * (2 * masks - 1)
    return _sum(jnp.exp(-gamma * jax.nn.softplus(x)) * jax.nn.softplus(-x)) / logits.size


def tversky(logits: Tensor, masks: Tensor, alpha: float, beta: float) -> Tensor:
    """Return 1 less the soft Tversky index over the batch, with smoothing 1.

    `alpha` weights false positives, `beta` false negatives.
    """
    p = jax.nn.sigmoid(logits)
    found = 2 * _sum(p * masks) + 1
    false = alpha * _sum(p * (1 - masks)) + beta * _sum((1 - p) * masks)
    return 1 - found / (found + 2 * false)


def lovasz(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean of the images' Lovasz hinges. The stable sort keeps pixels of equal error in order."""
    truth = jnp.reshape(masks, (masks.shape[0], -1))
    errors = 1 - jnp.reshape(logits, truth.shape) * (2 * truth - 1)
    order = jnp.argsort(-errors, axis=1, stable=True)
    errors = jnp.take_along_axis(errors, order, axis=1)
    weights = _jaccard_steps(jnp.take_along_axis(truth, order, axis=1))
    return _sum(jnp.reshape(jax.nn.relu(errors) * weights, logits.shape)) / truth.shape[0]


def total(rule: LossRule, logits: Outputs, masks: Tensor) -> Tensor:
    """Return the weighted sum of the rule's losses, and of the existence head's if there are its logits."""
    losses: dict[str, Callable[..., Tensor]] = {
        "bce": bce,
        "dice": dice,
        "focal": focal,
        "tversky": tversky,
        "lovasz": lovasz,
    }
    parts = [
        weight * losses[name](logits.masks, masks, *constants) for weight, name, constants in rule.parts()
    ]
    if logits.existence is not None:
        truth = jnp.max(masks, axis=(1, 2, 3), keepdims=True)
        parts.append(rule.existence * bce(logits.existence, truth))
    return sum(parts, start=jnp.zeros((), masks.dtype))


def _sum(x: Tensor) -> Tensor:
    """Sum all pixels of an (N, H, W, 1), rows by a product: XLA would add pixels one by one in float32."""
    rows = x.reshape(-1, x.shape[2])
    ones = jnp.ones(x.shape[2], x.dtype)
    return jnp.sum(jnp.dot(rows, ones, precision=jax.lax.Precision.HIGHEST))


def _jaccard_steps(truth: Tensor) -> Tensor:
    """Return what each pixel adds to the Jaccard loss; (N, pixels), sorted from the largest error down."""
    positives = jnp.sum(truth, axis=1, keepdims=True)
    found = jnp.cumsum(truth, axis=1) - truth
    left, union = positives - found, positives + jnp.arange(truth.shape[1], dtype=truth.dtype) - found
    # In an image without truth the union before the first pixel is 0; this pixel adds the whole loss.
    least = jnp.maximum(union, 1)
    steps = jnp.where(truth > 0, 1 / least, left / (least * (union + 1)))
    return jnp.where(union > 0, steps, jnp.ones_like(steps))
