"""TensorFlow's fused kernel of batch norm, with the conventions of `core`: float32 and biased variances."""

from __future__ import annotations

from backends.tf.framework import Tensor, tf


def normalize(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    """Return the input normalised by a given mean and variance of each channel."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=False
    ).y


def normalize_by_batch(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the input normalised by its own mean and variance of each channel, and these.

    The kernel normalises by the biased variance but returns the Bessel-corrected one.
    """
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    count = tf.cast(tf.size(x) // x.shape[-1], variance.dtype)
    return y, mean, variance * ((count - 1) / count)


def gradient_on_cpu(
    dy: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `normalize_by_batch` for x, gamma and beta.

    On a GPU the kernel needs another input than the variance.
    """
    gradients = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=dy,
        x=x,
        scale=gamma,
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=[],
        epsilon=epsilon,
        is_training=True,
    )
    return gradients.x_backprop, gradients.scale_backprop, gradients.offset_backprop
