"""The parameter-free operations of `core.network.plan` that networks from the literature need, in TensorFlow.

Arrays are (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from backends.tf.framework import Tensor, tf
from core.network.padding import phases_of
from core.network.plan import (
    Activation,
    Add,
    Affine,
    AveragePool2D,
    GlobalMean,
    MaxPool2D,
    Multiply,
    Operation,
    Upsample,
)


def _activation(operation: Activation, x: Tensor) -> Tensor:
    match operation.function:
        case "relu6":
            return tf.nn.relu6(x)
        case "leaky_relu":
            return tf.nn.leaky_relu(x, operation.slope)
        case "elu":
            return tf.nn.elu(x)
        case "silu":
            return x * tf.sigmoid(x)
        case "sigmoid":
            return tf.sigmoid(x)


def _affine(operation: Affine, x: Tensor) -> Tensor:
    return x * tf.constant(operation.scale, x.dtype) + tf.constant(operation.shift, x.dtype)


def _max_pool2d(operation: MaxPool2D, x: Tensor) -> Tensor:
    """Return the largest number of each window; the gradient goes to the first of equal ones."""
    padded = tf.pad(x, _pads(operation), constant_values=tf.constant(-np.inf, x.dtype))
    return tf.nn.max_pool2d(padded, operation.kernel_size, operation.stride, "VALID")


def _average_pool2d(operation: AveragePool2D, x: Tensor) -> Tensor:
    """Return the mean with zeros for pads, times the window's pixels over those in the image."""
    inside = np.pad(np.ones(x.shape[1:3]), operation.pads)
    height, width = operation.kernel_size
    windows = np.lib.stride_tricks.sliding_window_view(inside, (height, width))
    count = windows[:: operation.stride, :: operation.stride].sum(axis=(2, 3))
    count = count[: operation.output.height, : operation.output.width, np.newaxis]
    mean = tf.nn.avg_pool2d(tf.pad(x, _pads(operation)), (height, width), operation.stride, "VALID")
    return mean * tf.constant(height * width / count, x.dtype)


def _global_mean(_: GlobalMean, x: Tensor) -> Tensor:
    """Return (N, 1, 1, C); rows are added first, so that float32 keeps its digits."""
    return tf.reduce_mean(tf.reduce_mean(x, axis=2, keepdims=True), axis=1, keepdims=True)


def _upsample(operation: Upsample, x: Tensor) -> Tensor:
    if operation.method == "nearest":
        return _nearest(x, operation.factor)
    return _stretched(_stretched(x, operation.factor, axis=1), operation.factor, axis=2)


def _nearest(x: Tensor, factor: int) -> Tensor:
    """Repeat every pixel; the gradient sums blocks as a pool, which is much faster than a sum over axes."""

    def with_gradient(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        height, width, channels = x.shape[1:]
        parted = tf.reshape(x, [-1, height, 1, width, 1, channels])
        tiled = tf.tile(parted, [1, 1, factor, 1, factor, 1])
        y = tf.reshape(tiled, [-1, height * factor, width * factor, channels])
        return y, lambda dy: tf.nn.avg_pool2d(dy, factor, factor, "VALID") * tf.constant(factor**2, dy.dtype)

    y: Tensor = tf.custom_gradient(with_gradient)(x)
    return y


def _stretched(x: Tensor, factor: int, axis: int) -> Tensor:
    """Interpolate linearly along one axis, one phase of the output at a time."""
    shape = [-1, *x.shape[1:]]
    length, shape[axis] = shape[axis], shape[axis] * factor
    # By one pixel, this repeats the border.
    padded = tf.pad(x, [[1, 1] if number == axis else [0, 0] for number in range(4)], mode="SYMMETRIC")
    parts = [[slice(None)] * 4 for _ in range(3)]
    for offset, part in enumerate(parts):
        part[axis] = slice(offset, offset + length)
    before, here, after = (padded[tuple(part)] for part in parts)
    phases = []
    for first, share in phases_of(factor):
        below, above = (before, here) if first < 0 else (here, after)
        phases.append(below * tf.constant(1 - share, x.dtype) + above * tf.constant(share, x.dtype))
    return tf.reshape(tf.stack(phases, axis=axis + 1), shape)


def _pads(operation: MaxPool2D | AveragePool2D) -> list[list[int]]:
    return [[0, 0], *map(list, operation.pads), [0, 0]]


LAYERS: Mapping[type[Operation], Callable[..., Tensor]] = {
    Activation: _activation,
    Add: lambda _, x, other: x + other,
    Affine: _affine,
    AveragePool2D: _average_pool2d,
    GlobalMean: _global_mean,
    MaxPool2D: _max_pool2d,
    Multiply: lambda _, x, scale: x * scale,
    Upsample: _upsample,
}
"""The function of each operation: of the operation and its inputs."""
