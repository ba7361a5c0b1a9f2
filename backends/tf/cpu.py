"""Operations of a training step on a CPU, by other kernels than TensorFlow takes by itself.

Each is an operation of `backends.tf.operations`, or a case of one: the same sums, sooner or with more digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backends.tf import fused_batch_norm
from backends.tf.framework import Tensor, tf
from backends.tf.im2col import Windows, fold_to_one_channel, kernel_gradient, kernel_gradient_of_one_channel
from core.backend.kernel_switches import Switch

Padding = str | list[list[int]]
"""In TensorFlow's words: "SAME", or the pixels at both ends of the four axes."""

PARTS = Switch("sums are taken of at most so many parts of the rows", "length of a side", 4)
"""A part is more likely to stay in the caches."""

CANCELLED = Switch("a variance is taken around the mean", "squared mean over variance", 16, by_data=True)
"""The variance's rounding grows by as much, where it is the mean of the squares less the squared mean."""


def convolution(x: Tensor, kernel: Tensor, windows: Windows, pads: Padding) -> Tensor:
    """Convolution whose kernel's gradient is a product of unfolded windows.

    With a stride of 2 it takes 0.7 to 0.85 of the time of oneDNN's, with a single tap two thirds.
    """

    def with_gradient(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            dx = tf.nn.conv2d_transpose(dy, kernel, tf.shape(x), windows.stride, pads)
            return dx, kernel_gradient(windows, x, dy)

        return tf.nn.conv2d(x, kernel, windows.stride, pads), gradient

    y: Tensor = tf.custom_gradient(with_gradient)(x, kernel)
    return y


def transposed_convolution(
    x: Tensor, kernel: Tensor, shape: Tensor, windows: Windows, pads: Padding
) -> Tensor:
    """The transposed convolution whose kernel's gradient is such a product."""

    def with_gradient(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            return tf.nn.conv2d(dy, kernel, windows.stride, pads), kernel_gradient(windows, dy, x)

        return tf.nn.conv2d_transpose(x, kernel, shape, windows.stride, pads), gradient

    y: Tensor = tf.custom_gradient(with_gradient)(x, kernel)
    return y


def transposed_to_one_channel(x: Tensor, kernel: Tensor, windows: Windows) -> Tensor:
    """Transposed convolution to one channel, whose crops are what is called SAME, of folded windows.

    oneDNN's kernel computes 16 channels and takes 3.5 times as long, Eigen's twice. Of the input's gradient
    oneDNN's is the faster one.
    """
    stride = windows.stride

    def with_gradient(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            dkernel = kernel_gradient_of_one_channel(windows, dy, x)
            with tf.control_dependencies([dkernel]):  # x is large, and now free
                return tf.nn.conv2d(dy, kernel, stride, "SAME"), dkernel

        return fold_to_one_channel(windows, x, kernel), gradient

    y: Tensor = tf.custom_gradient(with_gradient)(x, kernel)
    return y


def bias(x: Tensor, b: Tensor, *, only_with_relu: bool) -> Tensor:
    """Addition to every pixel, whose gradient is summed as a product: of every column, then of the columns.

    TensorFlow's own is fused with that of the convolution before it, and both together take twice as long.

    Args:
        x: (N, H, W, C).
        b: (C,).
        only_with_relu: Whether ReLU follows, and no convolution comes before. TensorFlow makes one pass over
            the memory of all three, but two of the last two; of a batch norm, which this is then, and ReLU
            it makes one.
    """

    def with_gradient(x: Tensor, b: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            height, width, channels = dy.shape[1:]
            sums = _sums(tf.reshape(dy, [-1, height, width * channels]))
            return dy, tf.reduce_sum(tf.reshape(sums, [width, channels]), axis=0)

        if only_with_relu:
            zeros, ones = tf.zeros_like(b), tf.ones_like(b)
            return fused_batch_norm.by_known(x, ones, b, zeros, ones, epsilon=0.0), gradient
        return tf.nn.bias_add(x, b), gradient

    y: Tensor = tf.custom_gradient(with_gradient)(x, b)
    return y


def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """`fused_batch_norm.by_own` with sums that keep float32's digits.

    The CPU's kernel adds pixel by pixel: over a batch of radiographs its mean and variance are off by
    up to 2e-4, and so are the gradients behind. These are off by 2e-6 at most.
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
    """Mean and biased variance of each channel.

    The variance is the mean of the squares less the square of the mean, where few of their digits cancel.
    """
    mean = _mean(x, _sums)
    squares = _mean(x, _sums_of_squares)
    variance = squares - tf.square(mean)
    variance = tf.cond(
        tf.reduce_all(squares <= CANCELLED.bound * variance),
        lambda: variance,
        lambda: _mean(x - tf.cast(mean, x.dtype), _sums_of_squares),
    )
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _mean(x: Tensor, sums: Callable[[Tensor], Tensor]) -> Tensor:
    """Of each channel in float64, from float32 sums of each column of each part of the rows."""
    height, width, channels = x.shape[1:]
    parts = PARTS.largest_divisor(height)
    rows = tf.reshape(x, [-1, height // parts, width * channels])
    found = tf.stack([sums(part) for part in tf.split(rows, parts)])
    total = tf.reduce_sum(tf.cast(tf.reshape(found, [-1, channels]), tf.float64), axis=0)
    return total / tf.cast(tf.size(x) // channels, tf.float64)


def _sums(rows: Tensor) -> Tensor:
    """Of each column of all rows, (N, rows, columns), as a product."""
    rows = tf.reshape(rows, [-1, rows.shape[-1]])
    return tf.matmul(tf.ones([1, tf.shape(rows)[0]], rows.dtype), rows)[0]


def _sums_of_squares(rows: Tensor) -> Tensor:
    """Likewise, as the gradient of a depthwise convolution's kernel with one tap."""
    columns = rows.shape[-1]
    image = rows[:, :, tf.newaxis, :]
    return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=image,
        filter_sizes=[1, 1, columns, 1],
        out_backprop=image,
        strides=[1, 1, 1, 1],
        padding="SAME",
    )[0, 0, :, 0]
