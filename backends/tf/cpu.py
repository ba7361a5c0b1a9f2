"""Operations of a training step on a CPU, by other kernels than TensorFlow chooses by itself.

Each is an operation of `backends.tf.operations`, or a case of one. It computes the same sums, either faster
or with more exact digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backends.tf import fused_batch_norm
from backends.tf.framework import Tensor, tf
from backends.tf.im2col import Windows, fold_to_one_channel, kernel_gradient, kernel_gradient_of_one_channel
from core.backend.kernel_switches import Switch

Padding = str | list[list[int]]
"""TensorFlow's padding argument: "SAME", "VALID", or the pixels at both ends of the four axes."""

ROW_PARTS = Switch("the rows are summed in parts, up to this number of them", "length of a side", 4)
"""Parts, because a part is more likely to stay in the caches than all rows."""

CANCELLATION = Switch(
    "a variance is computed from centred values", "squared mean over variance", 16, by_data=True
)
"""E[x²] - E[x]² multiplies the rounding error of the variance by this ratio."""


def convolution(x: Tensor, kernel: Tensor, windows: Windows, pads: Padding) -> Tensor:
    """Convolve; the kernel's gradient is a product of unfolded windows (im2col).

    With a stride, and with a kernel of a single tap, this is faster than oneDNN's gradient.
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
    """Convolve transposed; the kernel's gradient is a product of unfolded windows (im2col)."""

    def with_gradient(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            return tf.nn.conv2d(dy, kernel, windows.stride, pads), kernel_gradient(windows, dy, x)

        return tf.nn.conv2d_transpose(x, kernel, shape, windows.stride, pads), gradient

    y: Tensor = tf.custom_gradient(with_gradient)(x, kernel)
    return y


def transposed_to_one_channel(x: Tensor, kernel: Tensor, windows: Windows) -> Tensor:
    """Convolve transposed to one channel, with crops that TensorFlow calls SAME, by folding windows (col2im).

    oneDNN's kernel computes 16 channels whatever their number, and Eigen's is slow too. For the gradient of
    the input oneDNN's kernel is the fastest.
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
    """Add b to every pixel; the gradient sums each column by a product, then the columns.

    TensorFlow's own gradient is fused with that of the convolution before it. Together they are slower.

    Args:
        x: (N, H, W, C).
        b: (C,).
        only_with_relu: Whether ReLU follows, and no convolution comes before. TensorFlow computes a
            convolution, its bias and ReLU in one pass over the memory, but bias and ReLU alone in two. Batch
            norm and ReLU take one pass, so the bias is added by a batch norm here.
    """

    def with_gradient(x: Tensor, b: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            height, width, channels = dy.shape[1:]
            sums = _column_sums(tf.reshape(dy, [-1, height, width * channels]))
            return dy, tf.reduce_sum(tf.reshape(sums, [width, channels]), axis=0)

        if only_with_relu:
            zeros, ones = tf.zeros_like(b), tf.ones_like(b)
            return fused_batch_norm.normalize(x, ones, b, zeros, ones, epsilon=0.0), gradient
        return tf.nn.bias_add(x, b), gradient

    y: Tensor = tf.custom_gradient(with_gradient)(x, b)
    return y


def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `fused_batch_norm.normalize_by_batch` does, with sums that keep float32's digits.

    The CPU's kernel adds pixel by pixel: over a batch of radiographs its mean and variance are off by
    up to 2e-4, and so are the gradients that follow. Those computed here are off by 2e-6 at most.
    """

    def with_gradient(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[tuple[Tensor, ...], Any]:
        mean, variance = moments(x)

        def gradient(dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return fused_batch_norm.gradient_on_cpu(dy, x, gamma, mean, variance, epsilon)

        y = fused_batch_norm.normalize(x, gamma, beta, mean, variance, epsilon)
        return (y, mean, variance), gradient

    y, mean, variance = tf.custom_gradient(with_gradient)(x, gamma, beta)
    return y, mean, variance


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel.

    The variance is E[x²] - E[x]². If E[x²] > 16 times that in any channel (`CANCELLATION`), it is computed
    again from centred values.
    """
    mean = _mean(x, _column_sums)
    squares = _mean(x, _column_sums_of_squares)
    variance = squares - tf.square(mean)
    variance = tf.cond(
        tf.reduce_all(squares <= CANCELLATION.bound * variance),
        lambda: variance,
        lambda: _mean(x - tf.cast(mean, x.dtype), _column_sums_of_squares),
    )
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _mean(x: Tensor, column_sums: Callable[[Tensor], Tensor]) -> Tensor:
    """Return each channel's mean in float64, from float32 sums of the columns of each part of the rows."""
    height, width, channels = x.shape[1:]
    parts = ROW_PARTS.largest_divisor(height)
    rows = tf.reshape(x, [-1, height // parts, width * channels])
    sums = tf.stack([column_sums(part) for part in tf.split(rows, parts)])
    total = tf.reduce_sum(tf.cast(tf.reshape(sums, [-1, channels]), tf.float64), axis=0)
    return total / tf.cast(tf.size(x) // channels, tf.float64)


def _column_sums(rows: Tensor) -> Tensor:
    """Sum each column of (N, rows, columns), by a product."""
    rows = tf.reshape(rows, [-1, rows.shape[-1]])
    return tf.matmul(tf.ones([1, tf.shape(rows)[0]], rows.dtype), rows)[0]


def _column_sums_of_squares(rows: Tensor) -> Tensor:
    """Sum the squares of each column of (N, rows, columns).

    They are the kernel's gradient of a depthwise convolution with one tap.
    """
    columns = rows.shape[-1]
    image = rows[:, :, tf.newaxis, :]
    return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=image,
        filter_sizes=[1, 1, columns, 1],
        out_backprop=image,
        strides=[1, 1, 1, 1],
        padding="SAME",
    )[0, 0, :, 0]
