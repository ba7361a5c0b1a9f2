"""Operations of a training step on a CPU, by other kernels than TensorFlow chooses by itself.

Each is an operation of `backends.tf.operations`, or a case of one. It computes the same sums, either faster
or with more exact digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.tf import fused_batch_norm
from backends.tf.framework import Tensor, tf
from backends.tf.im2col import Windows, fold_to_one_channel, kernel_gradient, kernel_gradient_of_one_channel
from core.backend.kernel_switches import Switch

Padding = str | list[list[int]]
"""TensorFlow's padding argument: "SAME", "VALID", or the pixels at both ends of the four axes."""

CANCELLATION = Switch(
    "a variance is computed from centred values", "squared mean over variance", 16, by_data=True
)
"""E[x²] - E[x]² multiplies the rounding error of the variance by this ratio."""

FEW_COLUMNS = Switch("a depthwise kernel's gradient is computed in parts", "columns of a kernel", 3)
"""oneDNN's gradient of a kernel of more columns takes two to four times as long as those of such parts."""


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


def depthwise_convolution(x: Tensor, kernel: Tensor, windows: Windows, pads: Padding) -> Tensor:
    """Convolve each channel alone; the kernel's gradient is computed a few of its columns at a time.

    Args:
        x: (N, H, W, C).
        kernel: (taps down, taps across, C, filters of a channel).
        windows: The position of the kernel at each pixel of the result.
        pads: Those of `windows`.
    """
    strides = [1, windows.stride, windows.stride, 1]

    def with_gradient(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            dx = tf.nn.depthwise_conv2d_backprop_input(tf.shape(x), kernel, dy, strides, pads)
            return dx, _depthwise_kernel_gradient(windows, pads, x, dy, kernel.shape)

        return tf.nn.depthwise_conv2d(x, kernel, strides, pads), gradient

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


def _depthwise_kernel_gradient(windows: Windows, pads: Padding, x: Tensor, dy: Tensor, shape: Any) -> Tensor:
    """Return the gradient of a depthwise kernel of this shape."""
    (rows, columns), stride = windows.taps, windows.stride
    strides = [1, stride, stride, 1]
    parts = np.array_split(np.arange(columns), FEW_COLUMNS.part_count(columns))
    if parts[0].size == columns:
        return tf.nn.depthwise_conv2d_backprop_filter(x, shape, dy, strides, pads)
    down, across = ((count - 1) * stride for count in windows.count)
    padded = tf.pad(x, [[0, 0], *windows.pads, [0, 0]])
    gradients = []
    for part in parts:
        left, width = int(part[0]), part.size
        under = padded[:, : down + rows, left : left + across + width]
        filter_sizes = [rows, width, *shape[2:]]
        gradients.append(tf.nn.depthwise_conv2d_backprop_filter(under, filter_sizes, dy, strides, "VALID"))
    return tf.concat(gradients, axis=1)


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
            return dy, tf.cast(_sums(dy), dy.dtype)

        if only_with_relu:
            zeros, ones = tf.zeros_like(b), tf.ones_like(b)
            return fused_batch_norm.normalize(x, ones, b, zeros, ones, epsilon=0.0), gradient
        return tf.nn.bias_add(x, b), gradient

    y: Tensor = tf.custom_gradient(with_gradient)(x, b)
    return y


def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `fused_batch_norm.normalize_by_batch` does, with sums that keep float32's digits.

    The CPU's kernel adds pixel by pixel: over a batch of radiographs its mean and variance are off by
    up to 2e-4, and so are the gradients that follow. Those computed here are off by 1e-6 at most.
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
    mean = _mean(x)
    squares = _mean(tf.square(x))
    variance = squares - tf.square(mean)
    variance = tf.cond(
        tf.reduce_all(squares <= CANCELLATION.bound * variance),
        lambda: variance,
        lambda: _mean(tf.square(x - tf.cast(mean, x.dtype))),
    )
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _mean(x: Tensor) -> Tensor:
    """Return each channel's mean in float64."""
    return _sums(x) / tf.cast(tf.size(x) // x.shape[-1], tf.float64)


def _sums(x: Tensor) -> Tensor:
    """Return each channel's sum in float64, from float32 sums of the columns of each image.

    These are products with ones, for which no image is copied.
    """
    height, width, channels = x.shape[1:]
    columns = tf.reshape(x, [-1, height, width * channels])
    sums = tf.matmul(tf.ones([tf.shape(x)[0], 1, height], x.dtype), columns)
    return tf.reduce_sum(tf.cast(tf.reshape(sums, [-1, channels]), tf.float64), axis=0)
