"""Operations of a training step on a CPU, by other kernels than TensorFlow takes by itself.

Each is an operation of `backends.tf.operations`, or a case of one: the same sums, sooner or with more digits.
"""

from __future__ import annotations

from typing import Any

from backends.tf import fused_batch_norm
from backends.tf.framework import Tensor, tf

_PARTS = 8
"""At most so many are the rows of a batch cut into; a part is more likely to stay in the caches."""


def pointwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution with one tap and stride 1.

    The kernel's gradient is a product for each image, then their sum: two thirds of the time, and as exact.
    """

    def with_gradient(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            pixels = x.shape[1] * x.shape[2]
            received, wanted = (tf.reshape(array, [-1, pixels, array.shape[-1]]) for array in (x, dy))
            dkernel = tf.reduce_sum(tf.matmul(received, wanted, transpose_a=True), axis=0)
            return tf.nn.conv2d_transpose(dy, kernel, tf.shape(x), 1), tf.reshape(dkernel, kernel.shape)

        return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient

    y: Tensor = tf.custom_gradient(with_gradient)(x, kernel)
    return y


def transposed_to_one_channel(
    x: Tensor, kernel: Tensor, shape: Tensor, stride: int, pads: list[list[int]]
) -> Tensor:
    """Transposed convolution to one channel, whose pads are what is called SAME.

    Called explicit ones, they bring Eigen's kernel, which is faster than oneDNN's, as that computes 16
    channels. Of the gradients oneDNN's are faster.
    """

    def with_gradient(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            dkernel = tf.raw_ops.Conv2DBackpropFilter(
                input=dy,
                filter_sizes=kernel.shape,
                out_backprop=x,
                strides=[1, stride, stride, 1],
                padding="SAME",
            )
            return tf.nn.conv2d(dy, kernel, stride, "SAME"), dkernel

        return tf.nn.conv2d_transpose(x, kernel, shape, stride, pads), gradient

    y: Tensor = tf.custom_gradient(with_gradient)(x, kernel)
    return y


def bias(x: Tensor, b: Tensor) -> Tensor:
    """Addition to every pixel, whose gradient is summed as a product: of every column, then of the columns.

    TensorFlow's own is fused with that of the convolution before it, and both together take twice as long.
    """

    def with_gradient(x: Tensor, b: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            width, channels = dy.shape[2], dy.shape[3]
            columns = tf.reshape(dy, [-1, width * channels])
            ones = tf.ones([1, tf.shape(columns)[0]], dy.dtype)
            sums = tf.reshape(tf.matmul(ones, columns), [width, channels])
            return dy, tf.reduce_sum(sums, axis=0)

        return tf.nn.bias_add(x, b), gradient

    y: Tensor = tf.custom_gradient(with_gradient)(x, b)
    return y


def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """`fused_batch_norm.by_own` with sums that keep float32's digits.

    The CPU's kernel adds pixel by pixel: over a batch of radiographs its mean and variance are off by
    up to 2e-4, and so are the gradients behind. These are off by 5e-7.
    """

    def with_gradient(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[tuple[Tensor, ...], Any]:
        mean, variance = moments(x)

        def gradient(dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return fused_batch_norm.gradient_on_cpu(dy, x, gamma, mean, variance, epsilon)

        y = fused_batch_norm.by_known(x, gamma, beta, mean, variance, epsilon)
        return (y, mean, variance), gradient

    y, mean, variance = tf.custom_gradient(with_gradient)(x, gamma, beta)
    return y, mean, variance


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in levels: of columns, of a row of them, of the parts.

    The fused kernel does the first one, told that a row's pixels are so many more channels. It reads what it
    gets three times, so it gets a part of the rows at a time.
    """
    height, width, channels = x.shape[1:]
    parts = max(count for count in range(1, _PARTS + 1) if height % count == 0)
    rows = tf.reshape(x, [parts, -1, 1, width * channels])
    ones = tf.ones([width * channels], x.dtype)
    found = [fused_batch_norm.by_own(part, ones, ones, epsilon=1.0)[1:] for part in tf.split(rows, parts)]
    means, variances = (
        tf.reshape(tf.stack(pieces), [parts, width, channels]) for pieces in zip(*found, strict=True)
    )
    mean = _mean(means)
    return mean, _mean(variances + tf.math.squared_difference(means, mean))


def _mean(pieces: Tensor) -> Tensor:
    """Along the first two axes, one after the other."""
    return tf.reduce_mean(tf.reduce_mean(pieces, axis=1), axis=0)
