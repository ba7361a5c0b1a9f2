"""TensorFlow's fused kernel of batch norm, on the conventions of `core`: float32, variances biased."""

from __future__ import annotations

from backends.tf.framework import Tensor, tf


def by_known(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> Tensor:
    """The input normalised by a mean and a variance of each channel."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=False
    ).y


def by_own(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """The input normalised by its own mean and variance of each channel, and these.

    The kernel gives the Bessel-corrected variance, though it normalises by the biased.
    """
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    count = tf.cast(tf.size(x) // x.shape[-1], variance.dtype)
    return y, mean, variance * ((count - 1) / count)


def gradient_on_cpu(
    dy: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `by_own` with regard to x, gamma and beta; a GPU's kernel wants something else than the variance."""
    found = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=dy,
        x=x,
        scale=gamma,
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=[],
        epsilon=epsilon,
        is_training=True,
    )
    return found.x_backprop, found.scale_backprop, found.offset_backprop
