"""Sums over the pixels of each channel in MXNet, exact to float64 but for a few additions in float32.

MXNet's own sums add pixel by pixel in float32. These add a few pixels in float32, by kernels of oneDNN or by
products, and those partial sums in float64. `operation` gives the size of the array that is summed.
"""

from __future__ import annotations

import math

from backends.mxnet.framework import mx
from backends.mxnet.gradients import Symbol
from core.backend.kernel_switches import Switch
from core.network.plan import Operation

WINDOW_SIDE = Switch(
    "rows and columns up to this number are added one by one in float32", "length of a side", 8
)


def image_sums(operation: Operation, x: Symbol) -> Symbol:
    """Sum the pixels of each image and channel; return (N, C), float64. Partial sums are over windows."""
    window = tuple(
        WINDOW_SIDE.largest_divisor(length) for length in (operation.output.height, operation.output.width)
    )
    means = mx.sym.Pooling(x, kernel=window, stride=window, pool_type="avg")
    return _add_parts(means, operation, window, float(math.prod(window)))


def image_sums_by_rows(operation: Operation, x: Symbol) -> Symbol:
    """Return what `image_sums` does, of an array in the plain layout. Partial sums are over rows."""
    width = operation.output.width
    rows = mx.sym.reshape(x, shape=(-1, width))
    sums = mx.sym.FullyConnected(rows, mx.sym.ones((1, width)), num_hidden=1, no_bias=True)
    return _add_parts(sums, operation, (1, width), 1.0)


def batch_mean(operation: Operation, sums: Symbol) -> Symbol:
    """Return the mean of each channel over the batch, (C,), from sums of each image, (N, C)."""
    return mx.sym.mean(sums, axis=0) / (operation.output.height * operation.output.width)


def batch_sum(sums: Symbol) -> Symbol:
    """Return the sum of each channel over the batch, (C,), from sums of each image, (N, C)."""
    return mx.sym.sum(sums, axis=0)


def to_float64(x: Symbol) -> Symbol:
    """Cast to float64."""
    return mx.sym.cast(x, dtype="float64")


def to_float32(x: Symbol) -> Symbol:
    """Cast to float32."""
    return mx.sym.cast(x, dtype="float32")


def plain_layout(x: Symbol) -> Symbol:
    """Return the same array, it and its gradient in the plain layout instead of oneDNN's.

    It is a transposition that changes nothing, which oneDNN computes. MXNet would make a plain copy by itself
    for an operation that oneDNN does not have, but would keep its memory for ever. This copy is in the
    graph's memory, which other arrays use too.
    """
    return mx.sym.transpose(x, axes=(0, 1, 2, 3))


def _add_parts(parts: Symbol, operation: Operation, size: tuple[int, ...], factor: float) -> Symbol:
    """Sum the parts of each image, each the value of an area of this size, times a factor; return (N, C)."""
    out = operation.output
    count = out.height * out.width // math.prod(size)
    # A product is several times faster than `mx.sym.sum`.
    factors = mx.sym.full((count, 1), factor, dtype="float64")
    sums = mx.sym.dot(mx.sym.reshape(to_float64(parts), shape=(-1, count)), factors)
    return mx.sym.reshape(sums, shape=(-1, out.channels))
