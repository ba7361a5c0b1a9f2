"""The parameter-free operations of `core.network.plan` that networks from the literature need, in MXNet.

Arrays are (N, C, H, W). Each result comes with its gradient, written with public operations of MXNet alone.
What is sliced is put into the plain layout first: in oneDNN's layout MXNet ends the process by a division
by 0 where a slice has a part of a block of channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from backends.mxnet.framework import mx
from backends.mxnet.gradients import Result, Symbol, gradient
from backends.mxnet.sums import image_sums, plain_layout
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
    Tensor,
    Upsample,
)

_LOWEST = float(np.finfo(np.float32).min)  # MXNet cannot pad with minus infinity


def _activation(operation: Activation, _: Tensor, __: str, x: Symbol) -> Result:
    positive, negative = mx.sym.maximum(x, 0), mx.sym.minimum(x, 0)
    is_positive = x > 0
    match operation.function:
        case "relu6":
            positive = mx.sym.Activation(plain_layout(x), act_type="relu")
            y = mx.sym.minimum(positive, 6)  # `clip` is several times slower
            # The result is kept for the next operation in any case; the input is not.
            return Result(y, lambda dy: gradient("Activation", positive, plain_layout(dy) * (y < 6), y))
        case "leaky_relu":
            slope = is_positive + operation.slope * (1 - is_positive)
            return Result(positive + operation.slope * negative, lambda dy: (dy * slope,))
        case "elu":
            slope = is_positive + (1 - is_positive) * mx.sym.exp(negative)
            return Result(positive + mx.sym.expm1(negative), lambda dy: (dy * slope,))
        case "silu":
            s = mx.sym.sigmoid(x)
            return Result(x * s, lambda dy: (dy * (s + x * s * (1 - s)),))
        case "sigmoid":
            y = mx.sym.sigmoid(x)
            return Result(y, lambda dy: (dy * y * (1 - y),))


def _add(_: Add, __: Tensor, ___: str, x: Symbol, other: Symbol) -> Result:
    return Result(x + other, lambda dy: (dy, dy))


def _multiply(operation: Multiply, _: Tensor, dtype: str, x: Symbol, scale: Symbol) -> Result:
    def pullback(dy: Symbol) -> tuple[Symbol, Symbol]:
        d_scale = mx.sym.cast(image_sums(operation, dy * x), dtype=dtype)
        return mx.sym.broadcast_mul(dy, scale), mx.sym.reshape(d_scale, shape=(0, 0, 1, 1))

    return Result(mx.sym.broadcast_mul(x, scale), pullback)


def _affine(operation: Affine, _: Tensor, dtype: str, x: Symbol) -> Result:
    scale, shift = (
        mx.sym.concat(*(mx.sym.full((1, 1, 1, 1), number, dtype=dtype) for number in numbers), dim=1)
        for numbers in (operation.scale, operation.shift)
    )
    y = mx.sym.broadcast_add(mx.sym.broadcast_mul(x, scale), shift)
    return Result(y, lambda dy: (mx.sym.broadcast_mul(dy, scale),))


def max_pool2d_of_cpu(operation: MaxPool2D, input_tensor: Tensor, x: Symbol) -> Result:
    """Return the largest number of each window, by MXNet's kernel.

    On the CPU its gradient goes to the first of equal ones. On a GPU it is cuDNN's, which does not say so.
    """
    pads, size = operation.pads, (input_tensor.height, input_tensor.width)
    out = operation.output.height, operation.output.width
    begins = [begin for begin, _ in pads]
    made = [
        (length + 2 * begin - taps) // operation.stride + 1
        for length, begin, taps in zip(size, begins, operation.kernel_size, strict=True)
    ]
    as_planned = tuple(made) == out  # with the same pad at both ends
    padded = x if as_planned else _padded(operation, x, _LOWEST)
    y = mx.sym.Pooling(
        padded,
        kernel=operation.kernel_size,
        stride=(operation.stride, operation.stride),
        pad=begins if as_planned else (0, 0),
        pool_type="max",
    )

    def pullback(dy: Symbol) -> tuple[Symbol]:
        (dx,) = gradient("Pooling", y, dy, dy, padded, y, y)  # the last is where the largest numbers were
        return (dx if as_planned else _without_pads(operation, input_tensor, plain_layout(dx)),)

    return Result(y, pullback)


def _max_pool2d(operation: MaxPool2D, input_tensor: Tensor, _: str, x: Symbol) -> Result:
    """Return the largest number of each window. The gradient goes to the first of equal ones."""
    padded = _padded(operation, x, _LOWEST)
    taps = _taps(operation, padded)
    y = functools.reduce(mx.sym.maximum, taps)

    def pullback(dy: Symbol) -> tuple[Symbol]:
        shares = []
        is_free = mx.sym.ones_like(y)  # no tap before was the largest
        for tap in taps:
            is_first = is_free * (tap == y)
            is_free = is_free - is_first
            shares.append(dy * is_first)
        return (_spread(operation, taps, shares, input_tensor),)

    return Result(y, pullback)


def _average_pool2d(operation: AveragePool2D, input_tensor: Tensor, _: str, x: Symbol) -> Result:
    """Return the sum of each window's pixels divided by their number."""
    taps = _taps(operation, _padded(operation, x, 0.0))
    one = mx.sym.slice(plain_layout(x), begin=(0, 0), end=(1, 1))  # one channel of one image
    count = mx.sym.add_n(*_taps(operation, _padded(operation, mx.sym.ones_like(one), 0.0)))

    def pullback(dy: Symbol) -> tuple[Symbol]:
        share = mx.sym.broadcast_div(dy, count)
        return (_spread(operation, taps, [share] * len(taps), input_tensor),)

    return Result(mx.sym.broadcast_div(mx.sym.add_n(*taps), count), pullback)


def _global_mean(_: GlobalMean, input_tensor: Tensor, dtype: str, x: Symbol) -> Result:
    """Return (N, C, 1, 1)."""
    height, width = input_tensor.height, input_tensor.width
    sums = image_sums(Operation(input_tensor.name, (), input_tensor), x)
    mean = mx.sym.cast(sums * (1 / (height * width)), dtype=dtype)

    def pullback(dy: Symbol) -> tuple[Symbol]:
        return (mx.sym.broadcast_axis(dy * (1 / (height * width)), axis=(2, 3), size=(height, width)),)

    return Result(mx.sym.reshape(mean, shape=(0, 0, 1, 1)), pullback)


def _upsample(operation: Upsample, input_tensor: Tensor, _: str, x: Symbol) -> Result:
    height, width, factor = input_tensor.height, input_tensor.width, operation.factor
    x = plain_layout(x)
    if operation.method == "nearest":
        y = mx.sym.UpSampling(x, scale=factor, sample_type="nearest", num_args=1)
        block = {"kernel": (factor, factor), "stride": (factor, factor), "pool_type": "avg"}
        return Result(y, lambda dy: (mx.sym.Pooling(dy, **block) * factor**2,))
    down = _stretch(x, factor, 2, (height, width))
    right = _stretch(down.value, factor, 3, (height * factor, width))
    return Result(right.value, lambda dy: down.pullback(*right.pullback(dy)))


def _stretch(x: Symbol, factor: int, axis: int, size: tuple[int, int]) -> Result:
    """Interpolate linearly along one axis, one phase of the output at a time; `size` is x's."""
    length = size[axis - 2]
    before, after = _shifted(x, axis, length, -1), _shifted(x, axis, length, 1)
    phases = []
    for first, share in phases_of(factor):
        below, above = (before, x) if first < 0 else (x, after)
        phases.append(below * (1 - share) + above * share)
    height, width = size
    parted = (0, 0, height, factor, width) if axis == 2 else (0, 0, height, width, factor)
    whole = (0, 0, height * factor, width) if axis == 2 else (0, 0, height, width * factor)
    y = mx.sym.reshape(mx.sym.stack(*phases, axis=axis + 1), shape=whole)

    def pullback(dy: Symbol) -> tuple[Symbol]:
        parts = mx.sym.reshape(plain_layout(dy), shape=parted)
        gradients = []
        for number, (first, share) in enumerate(phases_of(factor)):
            part = mx.sym.slice_axis(parts, axis=axis + 1, begin=number, end=number + 1)
            part = mx.sym.reshape(part, shape=(0, 0, height, width))
            below, above = (-1, 0) if first < 0 else (0, 1)
            gradients.append(_unshifted(part * (1 - share), axis, length, below))
            gradients.append(_unshifted(part * share, axis, length, above))
        return (mx.sym.add_n(*gradients),)

    return Result(y, pullback)


def _shifted(x: Symbol, axis: int, length: int, by: int) -> Symbol:
    """Return x[i + by] along an axis, where the border repeats; `by` is -1 or 1."""
    if length == 1:
        return x
    if by < 0:
        return mx.sym.concat(_part(x, axis, 0, 1), _part(x, axis, 0, length - 1), dim=axis)
    return mx.sym.concat(_part(x, axis, 1, length), _part(x, axis, length - 1, length), dim=axis)


def _unshifted(dy: Symbol, axis: int, length: int, by: int) -> Symbol:
    """Return the gradient of x for that of `_shifted`: the border pixel was taken twice."""
    if by == 0 or length == 1:
        return dy
    if by < 0:
        border, others = _part(dy, axis, 0, 1), _part(dy, axis, 1, length)
        moved, kept = (others, mx.sym.zeros_like(border)), (border, mx.sym.zeros_like(others))
    else:
        border, others = _part(dy, axis, length - 1, length), _part(dy, axis, 0, length - 1)
        moved, kept = (mx.sym.zeros_like(border), others), (mx.sym.zeros_like(others), border)
    return mx.sym.concat(*moved, dim=axis) + mx.sym.concat(*kept, dim=axis)


def _part(x: Symbol, axis: int, begin: int, end: int) -> Symbol:
    return mx.sym.slice_axis(x, axis=axis, begin=begin, end=end)


def _padded(operation: MaxPool2D | AveragePool2D, x: Symbol, value: float) -> Symbol:
    (top, bottom), (left, right) = operation.pads
    widths = (0, 0, 0, 0, top, bottom, left, right)
    return mx.sym.pad(plain_layout(x), mode="constant", pad_width=widths, constant_value=value)


def _taps(operation: MaxPool2D | AveragePool2D, padded: Symbol) -> list[Symbol]:
    """Return for each tap of the window the pixels that it meets, in row order."""
    out, stride = operation.output, operation.stride
    down, right = ((length - 1) * stride + 1 for length in (out.height, out.width))
    height, width = operation.kernel_size
    return [
        mx.sym.slice(
            padded,
            begin=(None, None, row, column),
            end=(None, None, row + down, column + right),
            step=(1, 1, stride, stride),
        )
        for row in range(height)
        for column in range(width)
    ]


def _spread(
    operation: MaxPool2D | AveragePool2D,
    taps: Sequence[Symbol],
    shares: Sequence[Symbol],
    input_tensor: Tensor,
) -> Symbol:
    """Return the gradient of the image, from the share of each tap."""
    parts = (gradient("slice", tap, share)[0] for tap, share in zip(taps, shares, strict=True))
    # One after the other, since each part is as large as the image.
    return _without_pads(operation, input_tensor, functools.reduce(mx.sym.elemwise_add, parts))


def _without_pads(operation: MaxPool2D | AveragePool2D, input_tensor: Tensor, padded: Symbol) -> Symbol:
    (top, _), (left, _) = operation.pads
    end = (None, None, top + input_tensor.height, left + input_tensor.width)
    return mx.sym.slice(padded, begin=(None, None, top, left), end=end)


LAYERS: Mapping[type[Operation], Callable[..., Result]] = {
    Activation: _activation,
    Add: _add,
    Affine: _affine,
    AveragePool2D: _average_pool2d,
    GlobalMean: _global_mean,
    MaxPool2D: _max_pool2d,
    Multiply: _multiply,
    Upsample: _upsample,
}
"""The function of each operation, of itself, its first input's tensor, the type of the arrays, its inputs."""
