"""Each primitive operation of `core.plan` in TensorFlow. Arrays are (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backends.tf.framework import tf
from core.lowering import same_pads
from core.plan import (
    BatchNorm,
    Bias,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Operation,
    Pads,
    Plan,
    Relu,
)

Tensor = Any
"""A `tf.Tensor`; TensorFlow ships no type information."""


Product = Callable[[Any, Tensor, Tensor], Tensor]
"""One of the two convolutions, of its operation, the image and the kernel."""


def conv2d(operation: Conv2D, x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution with the plan's pads."""
    size = operation.output.height, operation.output.width
    pads = _padding(operation, x.shape[1:3], size, operation.pads)
    return tf.nn.conv2d(x, kernel, operation.stride, pads)


def conv_transpose2d(operation: ConvTranspose2D, x: Tensor, kernel: Tensor) -> Tensor:
    """The gradient of the convolution whose pads are the crops; an end short of pixels is zeros."""
    out = operation.output
    shape = tf.stack([tf.shape(x)[0], out.height, out.width, out.channels])
    pads = _padding(operation, (out.height, out.width), x.shape[1:3], operation.crops)
    return tf.nn.conv2d_transpose(x, kernel, shape, operation.stride, pads)


def in_bfloat16(product: Product, on_cpu: bool) -> Product:
    """The product as "mixed_bfloat16" has it (`core.rules`); `tf.cast` rounds gradients as it does values.

    The CPU's own kernels add in bfloat16 (a kernel's gradient is off by 2 % after 300 pixels), so there
    the product of the rounded operands is taken in float32.
    """

    def rounded(operation: Any, x: Tensor, kernel: Tensor) -> Tensor:
        x, kernel = tf.cast(x, tf.bfloat16), tf.cast(kernel, tf.bfloat16)
        if on_cpu:
            x, kernel = tf.cast(x, tf.float32), tf.cast(kernel, tf.float32)
        return tf.cast(tf.cast(product(operation, x, kernel), tf.bfloat16), tf.float32)

    return rounded


def bias(_: Operation, x: Tensor, b: Tensor, trains_on_cpu: bool) -> Tensor:
    """Add b to every pixel."""
    if x.shape[-1] == 1:
        return x + b  # its gradient is the faster one
    return _bias_on_cpu(x, b) if trains_on_cpu else tf.nn.bias_add(x, b)


def relu(_: Operation, x: Tensor) -> Tensor:
    """Negative numbers become 0."""
    return tf.nn.relu(x)


def batch_norm(
    operation: BatchNorm,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    training: bool,
    on_cpu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised input, and the mean and biased variance that normalised it."""
    if x.dtype == tf.float64:  # the fused kernel has no float64
        if training:
            mean, variance = tf.nn.moments(x, axes=[0, 1, 2])
        y = tf.nn.batch_normalization(x, mean, variance, beta, gamma, operation.epsilon)
        return y, mean, variance
    if not training:
        return _normalise(operation, x, gamma, beta, mean, variance), mean, variance
    if on_cpu:
        return _batch_norm_on_cpu(operation, x, gamma, beta)
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=operation.epsilon, is_training=True
    )
    return y, mean, _biased(variance, tf.size(x) // x.shape[-1])


def dropout(operation: Dropout, x: Tensor, keep: Tensor) -> Tensor:
    """Elements to keep, scaled up; the others 0."""
    return x * tf.cast(keep, x.dtype) * tf.constant(operation.scale, x.dtype)


def concat(_: Concat, xs: Sequence[Tensor]) -> Tensor:
    """Join along the channels."""
    return tf.concat(xs, axis=-1)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return tf.sigmoid(x)


def forward(
    plan: Plan,
    images: Tensor,
    arrays: Mapping[str, Tensor],
    keep: Mapping[str, Tensor] | None,
    on_cpu: bool,
    mixed: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits and, with `keep` as in training, the batch's statistics by the running ones' names."""
    values = {plan.input.name: images}
    statistics: dict[str, Tensor] = {}
    convolve: Product = conv2d
    transpose: Product = conv_transpose2d
    if mixed:
        convolve, transpose = in_bfloat16(conv2d, on_cpu), in_bfloat16(conv_transpose2d, on_cpu)
    for op in plan.operations[:-1]:
        x = values[op.input]
        match op:
            case Conv2D():
                y = convolve(op, x, arrays[op.kernel])
            case ConvTranspose2D():
                y = transpose(op, x, arrays[op.kernel])
            case Bias():
                y = bias(op, x, arrays[op.bias], trains_on_cpu=on_cpu and keep is not None)
            case Relu():
                y = relu(op, x)
            case BatchNorm():
                y, statistics[op.moving_mean], statistics[op.moving_variance] = batch_norm(
                    op,
                    x,
                    arrays[op.gamma],
                    arrays[op.beta],
                    arrays[op.moving_mean],
                    arrays[op.moving_variance],
                    training=keep is not None,
                    on_cpu=on_cpu,
                )
            case Dropout():
                y = x if keep is None else dropout(op, x, keep[op.name])
            case Concat():
                y = concat(op, [values[name] for name in op.inputs])
            case _:
                raise NotImplementedError(f"tf has no {type(op).__name__}")
        values[op.output.name] = y
    return values[plan.logits], statistics


def _padding(
    operation: Conv2D | ConvTranspose2D, large: Sequence[int], small: Sequence[int], pads: tuple[Pads, Pads]
) -> str | list[list[int]]:
    """The pads in TensorFlow's words, between the sizes at both ends of a convolution.

    Where they are what it calls SAME they are called so: oneDNN's kernels of the gradients are chosen then,
    which take up to a third less time. But not for a kernel smaller than the stride: over one, they end
    the process now and then by a segmentation fault (TensorFlow 2.21).
    """
    explicit = [(begin, max(end, 0)) for begin, end in pads]
    rule = [
        same_pads(length, taps, operation.stride)
        for length, taps in zip(large, operation.kernel_size, strict=True)
    ]
    if min(operation.kernel_size) >= operation.stride and rule == list(zip(small, explicit, strict=True)):
        return "SAME"
    return [[0, 0], *map(list, explicit), [0, 0]]


def _normalise(
    operation: BatchNorm, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """The input normalised by a mean and a biased variance that are known."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=operation.epsilon,
        is_training=False,
    ).y


def _bias_on_cpu(x: Tensor, b: Tensor) -> Tensor:
    """The same addition with another gradient, summed as a product: of every column, then of the columns.

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


def _batch_norm_on_cpu(
    operation: BatchNorm, x: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm of a training step by the fused kernels, with sums that keep float32's digits.

    The CPU's kernel adds pixel by pixel: over a batch of radiographs its mean and variance are off by
    up to 2e-4, and so are the gradients behind. These are off by 5e-7.
    """

    def with_gradient(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[tuple[Tensor, ...], Any]:
        mean, variance = _moments(x)

        def gradient(dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=gamma,
                reserve_space_1=mean,
                reserve_space_2=variance,  # the CPU's kernel wants the variance, a GPU's something else
                reserve_space_3=[],
                epsilon=operation.epsilon,
                is_training=True,
            )
            return found.x_backprop, found.scale_backprop, found.offset_backprop

        return (_normalise(operation, x, gamma, beta, mean, variance), mean, variance), gradient

    y, mean, variance = tf.custom_gradient(with_gradient)(x, gamma, beta)
    return y, mean, variance


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in two levels: of every column, then of the columns.

    The fused kernel does the first one, told that a row's pixels are so many more channels.
    """
    width, channels = x.shape[2], x.shape[3]
    rows = tf.size(x) // (width * channels)
    columns = tf.reshape(x, [1, rows, 1, width * channels])
    ones = tf.ones([width * channels], x.dtype)
    _, means, variances, *_ = tf.raw_ops.FusedBatchNormV3(
        x=columns, scale=ones, offset=ones, mean=[], variance=[], epsilon=1.0, is_training=True
    )
    means = tf.reshape(means, [width, channels])
    within = tf.reshape(_biased(variances, rows), [width, channels])
    mean = tf.reduce_mean(means, axis=0)
    return mean, tf.reduce_mean(within + tf.math.squared_difference(means, mean), axis=0)


def _biased(variance: Tensor, count: Tensor) -> Tensor:
    """The fused kernel gives the Bessel-corrected variance, though it normalises by the biased."""
    count = tf.cast(count, variance.dtype)
    return variance * ((count - 1) / count)
