"""The losses of `core.rules` in TensorFlow."""

from __future__ import annotations

from backends.tf.framework import tf
from backends.tf.operations import Tensor
from core.rules import LossRule


def bce(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean binary cross-entropy."""
    return tf.reduce_mean(tf.nn.softplus(logits) - logits * masks)


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice over the batch, smoothing 1."""
    p = tf.sigmoid(logits)
    overlap = 2 * tf.reduce_sum(p * masks) + 1
    return 1 - overlap / (tf.reduce_sum(p) + tf.reduce_sum(masks) + 1)


def focal(logits: Tensor, masks: Tensor, gamma: float) -> Tensor:
    """Cross-entropy weighed by how wrong each pixel is."""
    x = logits * (2 * masks - 1)
    return tf.reduce_mean(tf.exp(-gamma * tf.nn.softplus(x)) * tf.nn.softplus(-x))


def total(rule: LossRule, logits: Tensor, masks: Tensor) -> Tensor:
    """The weighted sum."""
    parts = []
    if rule.bce > 0:
        parts.append(rule.bce * bce(logits, masks))
    if rule.dice > 0:
        parts.append(rule.dice * dice(logits, masks))
    if rule.focal > 0:
        parts.append(rule.focal * focal(logits, masks, rule.focal_gamma))
    return tf.add_n(parts)
