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
    return _add_parts(to_float64(means), operation, window) * math.prod(window)


def image_sums_by_rows(operation: Operation, x: Symbol) -> Symbol:
    """Return what `image_sums` does, of an array in the plain layout. Partial sums are over rows."""
    width = operation.output.width
    rows = mx.sym.reshape(x, shape=(-1, width))
    sums = mx.sym.FullyConnected(rows, mx.sym.ones((1, width)), num_hidden=1, no_bias=True)
    return _add_parts(to_float64(sums), operation, (1, width))


def batch_mean(operation: Operation, sums: Symbol) -> Symbol:
    """Return the mean of each channel over the batch, (C,), from sums of each image, (N, C)."""
    ones = _one_per_image(sums)
    count = mx.sym.dot(ones, ones, transpose_a=True) * (operation.output.height * operation.output.width)
    return mx.sym.broadcast_div(batch_sum(sums), mx.sym.reshape(count, shape=(1,)))


def batch_sum(sums: Symbol) -> Symbol:
    """Return the sum of each channel over the batch, (C,), from sums of each image, (N, C)."""
    # A product is several times faster than `mx.sym.sum`.
    return mx.sym.reshape(mx.sym.dot(_one_per_image(sums), sums, transpose_a=True), shape=(-1,))


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


def _one_per_image(sums: Symbol) -> Symbol:
    """Return ones, (N, 1), for sums (N, C)."""
    return mx.sym.ones_like(mx.sym.slice_axis(sums, axis=1, begin=0, end=1))


def _add_parts(parts: Symbol, operation: Operation, size: tuple[int, ...]) -> Symbol:
    """Sum the parts of each image, each the value of an area of this size; return (N, C)."""
    out = operation.output
    count = out.height * out.width // math.prod(size)
    sums = mx.sym.dot(mx.sym.reshape(parts, shape=(-1, count)), mx.sym.ones((count, 1), dtype="float64"))
    return mx.sym.reshape(sums, shape=(-1, out.channels))
