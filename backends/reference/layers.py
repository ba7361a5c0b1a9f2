"""The parameter-free operations of `core.network.plan` that networks from the literature need, in NumPy.

Arrays are (N, H, W, C). `LAYERS` has the function of each operation and its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backends.reference.operations import Floats, crop, pad, sigmoid, taps
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


class Layer(NamedTuple):
    """An operation's function and its gradient.

    Attributes:
        forward: From the operation and its inputs to the result.
        backward: From the operation, its inputs and the result's gradient to the inputs' gradients.
        rounds: Whether float32 rounds the result; a result that is one of the inputs' numbers is exact.
        rounds_backward: Whether float32 rounds the gradients.
    """

    forward: Callable[..., Floats]
    backward: Callable[..., list[Floats]]
    rounds: bool = True
    rounds_backward: bool = True


def activation(operation: Activation, x: Floats) -> Floats:
    """Apply the function to each element."""
    match operation.function:
        case "relu6":
            return np.minimum(np.maximum(x, 0), 6)
        case "leaky_relu":
            return np.where(x > 0, x, x * x.dtype.type(operation.slope))
        case "elu":
            return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
        case "silu":
            return x * sigmoid(x)
        case "sigmoid":
            return sigmoid(x)


def activation_backward(operation: Activation, x: Floats, dy: Floats) -> list[Floats]:
    """Return the input's gradient; `core.network.plan` states the slopes at the kinks."""
    match operation.function:
        case "relu6":
            return [np.where((x > 0) & (x < 6), dy, 0)]
        case "leaky_relu":
            return [np.where(x > 0, dy, dy * x.dtype.type(operation.slope))]
        case "elu":
            return [np.where(x > 0, dy, dy * np.exp(np.minimum(x, 0)))]
        case "silu":
            s = sigmoid(x)
            return [dy * (s + x * s * (1 - s))]
        case "sigmoid":
            s = sigmoid(x)
            return [dy * (s * (1 - s))]


def add(_: Add, x: Floats, other: Floats) -> Floats:
    """Add the inputs."""
    return x + other


def add_backward(_: Add, __: Floats, ___: Floats, dy: Floats) -> list[Floats]:
    """Return the result's gradient for both inputs."""
    return [dy, dy]


def multiply(_: Multiply, x: Floats, scale: Floats) -> Floats:
    """Multiply each channel by its number."""
    return x * scale


def multiply_backward(_: Multiply, x: Floats, scale: Floats, dy: Floats) -> list[Floats]:
    """Return the gradients of the image and of the channels' numbers."""
    d_scale: Floats = (x * dy).sum(axis=(1, 2), keepdims=True, dtype=np.float64).astype(x.dtype)
    return [dy * scale, d_scale]


def affine(operation: Affine, x: Floats) -> Floats:
    """Scale and shift each channel."""
    return x * np.array(operation.scale, x.dtype) + np.array(operation.shift, x.dtype)


def affine_backward(operation: Affine, _: Floats, dy: Floats) -> list[Floats]:
    """Return the input's gradient."""
    return [dy * np.array(operation.scale, dy.dtype)]


def max_pool2d(operation: MaxPool2D, x: Floats) -> Floats:
    """Return the largest number of each window."""
    y, _ = _largest(operation, x)
    return y


def max_pool2d_backward(operation: MaxPool2D, x: Floats, dy: Floats) -> list[Floats]:
    """Return the input's gradient, all of it at the first of the largest numbers of each window."""
    _, first = _largest(operation, x)
    padded = np.zeros_like(pad(x, operation.pads))
    for number, (_, _, tap) in enumerate(taps(operation)):
        padded[tap] += np.where(first == number, dy, 0)
    return [crop(padded, operation.pads, x.shape)]


def average_pool2d(operation: AveragePool2D, x: Floats) -> Floats:
    """Return the mean of each window's pixels that are in the image."""
    padded = pad(x, operation.pads)
    total = sum(padded[tap] for _, _, tap in taps(operation))
    return np.asarray(total / _count(operation, x), x.dtype)


def average_pool2d_backward(operation: AveragePool2D, x: Floats, dy: Floats) -> list[Floats]:
    """Return the input's gradient: each pixel's share of the windows that it is in."""
    padded, share = np.zeros_like(pad(x, operation.pads)), dy / _count(operation, x)
    for _, _, tap in taps(operation):
        padded[tap] += share
    return [crop(padded, operation.pads, x.shape)]


def global_mean(_: GlobalMean, x: Floats) -> Floats:
    """Return the mean of each channel, (N, 1, 1, C)."""
    return np.asarray(x.mean(axis=(1, 2), keepdims=True, dtype=np.float64), x.dtype)


def global_mean_backward(_: GlobalMean, x: Floats, dy: Floats) -> list[Floats]:
    """Return the input's gradient: the same share for each pixel."""
    return [np.broadcast_to(dy / x.dtype.type(x.shape[1] * x.shape[2]), x.shape)]


def upsample(operation: Upsample, x: Floats) -> Floats:
    """Interpolate by a product with one matrix for each axis."""
    rows, columns = (_interpolation(operation, length, x.dtype) for length in x.shape[1:3])
    return np.asarray(np.einsum("ih,nhwc,jw->nijc", rows, x, columns, optimize=True), x.dtype)


def upsample_backward(operation: Upsample, x: Floats, dy: Floats) -> list[Floats]:
    """Return the input's gradient, by the transposed products."""
    rows, columns = (_interpolation(operation, length, x.dtype) for length in x.shape[1:3])
    return [np.asarray(np.einsum("ih,nijc,jw->nhwc", rows, dy, columns, optimize=True), x.dtype)]


def _largest(operation: MaxPool2D, x: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return each window's largest number, and the number of the first tap that meets it."""
    padded = pad(x, operation.pads, -np.inf)
    windows = np.stack([padded[tap] for _, _, tap in taps(operation)])
    first = windows.argmax(axis=0)
    return np.take_along_axis(windows, first[np.newaxis], axis=0)[0], first


def _count(operation: AveragePool2D, x: Floats) -> Floats:
    """Return the number of the image's pixels in each window, (1, h, w, 1)."""
    inside = pad(np.ones((1, *x.shape[1:3], 1), x.dtype), operation.pads)
    return np.asarray(sum(inside[tap] for _, _, tap in taps(operation)))


def _interpolation(operation: Upsample, length: int, dtype: np.dtype[Any]) -> Floats:
    """Return how much of each pixel an output pixel takes, (length * factor, length)."""
    factor = operation.factor
    phases = phases_of(factor) if operation.method == "bilinear" else [(0, 0.0)] * factor
    taken = np.zeros((length * factor, length), dtype)
    for index in range(length):
        for phase, (first, share) in enumerate(phases):
            row = taken[index * factor + phase]
            row[max(index + first, 0)] += 1 - share
            row[min(index + first + 1, length - 1)] += share
    return taken


LAYERS: Mapping[type[Operation], Layer] = {
    Activation: Layer(activation, activation_backward),
    Add: Layer(add, add_backward, rounds_backward=False),
    Affine: Layer(affine, affine_backward),
    AveragePool2D: Layer(average_pool2d, average_pool2d_backward),
    GlobalMean: Layer(global_mean, global_mean_backward),
    MaxPool2D: Layer(max_pool2d, max_pool2d_backward, rounds=False, rounds_backward=False),
    Multiply: Layer(multiply, multiply_backward),
    Upsample: Layer(upsample, upsample_backward),
}
