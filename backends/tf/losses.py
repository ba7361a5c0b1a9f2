"""The losses of `core.backend.training_rules` in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

from backends.tf.framework import Tensor, tf
from core.backend.outputs import Outputs
from core.backend.training_rules import LossRule


def bce(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean binary cross-entropy."""
    return tf.reduce_mean(tf.nn.softplus(logits) - logits * masks)


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Return 1 less the soft Dice over the batch, with smoothing 1."""
    p = tf.sigmoid(logits)
    overlap = 2 * tf.reduce_sum(p * masks) + 1
    return 1 - overlap / (tf.reduce_sum(p) + tf.reduce_sum(masks) + 1)


def focal(logits: Tensor, masks: Tensor, gamma: float) -> Tensor:
    """Return the mean cross-entropy with each pixel weighted by its error, to the power `gamma`."""
    x = logits * (2 * masks - 1)
    return tf.reduce_mean(tf.exp(-gamma * tf.nn.softplus(x)) * tf.nn.softplus(-x))


def tversky(logits: Tensor, masks: Tensor, alpha: float, beta: float) -> Tensor:
    """Return 1 less the soft Tversky index over the batch, with smoothing 1.

    `alpha` weights false positives, `beta` false negatives.
    """
    p = tf.sigmoid(logits)
    found = 2 * tf.reduce_sum(p * masks) + 1
    false = alpha * tf.reduce_sum(p * (1 - masks)) + beta * tf.reduce_sum((1 - p) * masks)
    return 1 - found / (found + 2 * false)


def lovasz(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean of the images' Lovasz hinges. The stable sort keeps pixels of equal error in order."""
    truth = tf.reshape(masks, (tf.shape(masks)[0], -1))
    errors = 1 - tf.reshape(logits, tf.shape(truth)) * (2 * truth - 1)
    order = tf.argsort(errors, axis=1, direction="DESCENDING", stable=True)
    errors = tf.gather(errors, order, axis=1, batch_dims=1)
    weights = _jaccard_steps(tf.gather(truth, order, axis=1, batch_dims=1))
    return tf.reduce_sum(tf.nn.relu(errors) * weights) / tf.cast(tf.shape(truth)[0], errors.dtype)


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
        truth = tf.reduce_max(masks, axis=(1, 2, 3), keepdims=True)
        parts.append(rule.existence * bce(logits.existence, truth))
    return tf.add_n(parts)


def _jaccard_steps(truth: Tensor) -> Tensor:
    """Return what each pixel adds to the Jaccard loss; (N, pixels), sorted from the largest error down."""
    positives = tf.reduce_sum(truth, axis=1, keepdims=True)
    left = positives - tf.cumsum(truth, axis=1, exclusive=True)
    union = positives + tf.cumsum(1 - truth, axis=1, exclusive=True)
    # In an image without truth the union before the first pixel is 0; this pixel adds the whole loss.
    steps = tf.where(truth > 0, 1 / tf.maximum(union, 1), left / (tf.maximum(union, 1) * (union + 1)))
    return tf.where(union > 0, steps, tf.ones_like(steps))
