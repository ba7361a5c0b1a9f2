"""Each primitive operation of `core.plan` as an MXNet symbol. Arrays are (N, C, H, W) inside.

Kernels are (out, in, kh, kw) for convolutions and (in, out, kh, kw) for transposed ones: in both cases
`transpose(3, 2, 0, 1)` of the neutral layout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.mxnet.framework import attribute, mx
from backends.mxnet.padding import Side, sides, sizes
from core.plan import (
    BatchNorm,
    Bias,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Operation,
    Plan,
    Relu,
)

Symbol = Any
"""An `mx.sym.Symbol`; MXNet ships no type information."""

Size = tuple[int, int]
"""Height and width of an operation's input."""

_FEW, _MANY = 10_000, 100_000
"""Pixels a channel between which batch norm is worth oneDNN's float32 kernel, and it is good enough."""

_ZEROS, _NEARLY_ONES = "constant/zeros/", "constant/nearly_ones/"  # of which operation, and how many
_EPSILON = 2.0**-10  # with it, nearly one is exactly 1

_BLOCK = 16
"""Filters that oneDNN computes at once; a convolution of fewer is several times slower than of so many."""


def conv2d(operation: Conv2D, size: Size, x: Symbol, kernel: Symbol, b: Symbol | None) -> Symbol:
    """Convolution with MXNet's padding; what is too much is cut off."""
    height, width = sides(operation, size)
    y = mx.sym.Convolution(
        x,
        kernel,
        b,
        kernel=operation.kernel_size,
        stride=(operation.stride, operation.stride),
        pad=(height.padding, width.padding),
        num_filter=operation.output.channels,
        no_bias=b is None,
    )
    return _wanted(y, height, width)


def conv_transpose2d(
    operation: ConvTranspose2D, size: Size, x: Symbol, kernel: Symbol, b: Symbol, dtype: str
) -> Symbol:
    """Transposed convolution with MXNet's padding; what is too much is cut off."""
    if operation.output.channels == 1:
        # Deconvolution with one filter fails in backward from 16 input channels on: "could not
        # create a primitive descriptor for a reorder primitive".
        return _conv_transpose2d_by_phases(operation, x, kernel, b)
    height, width = sides(operation, size)
    y = mx.sym.Deconvolution(
        x,
        kernel,
        kernel=operation.kernel_size,
        stride=(operation.stride, operation.stride),
        no_bias=True,
        pad=(height.padding, width.padding),
        adj=(height.adjust, width.adjust),
        num_filter=operation.output.channels,
    )
    return bias(operation, _wanted(y, height, width), b, dtype)


def in_bfloat16(
    operation: Conv2D | ConvTranspose2D, size: Size, x: Symbol, kernel: Symbol, b: Symbol
) -> Symbol:
    """A product as "mixed_bfloat16" has it (`core.rules`), then the bias, which is not rounded.

    The product of the rounded operands is taken in float32; MXNet has no bfloat16 kernels that train.
    """
    x, kernel = _rounded(x), _rounded(kernel)
    if isinstance(operation, ConvTranspose2D):
        # Not Deconvolution: fed a weight that is computed, it ends in a segmentation fault.
        y = _conv_transpose2d_by_phases(operation, x, kernel, None)
    else:
        y = conv2d(operation, size, x, kernel, None)
    return bias(operation, _rounded(y), b, "float32")


def bias(operation: Operation, x: Symbol, b: Symbol, dtype: str) -> Symbol:
    """Add b to every pixel.

    In float32 as a batch norm that knows its mean (0) and variance (1) beforehand: of all that adds, oneDNN
    has a fast kernel for that one alone. It takes a tenth of the time of `Deconvolution`'s own bias.
    """
    if dtype == "float64":
        return mx.sym.broadcast_add(x, mx.sym.reshape(b, shape=(1, -1, 1, 1)))
    mean, variance = (  # each its own, as MXNet wants of what it may write to
        mx.sym.Variable(f"{prefix}{operation.name}/{operation.output.channels}")
        for prefix in (_ZEROS, _NEARLY_ONES)
    )
    return mx.sym.BatchNorm(
        x, mx.sym.ones_like(b), b, mean, variance, eps=_EPSILON, use_global_stats=True, fix_gamma=True
    )


def constants(names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """What stands behind those names of a symbol's inputs that are neither arrays of the model nor data."""
    values = {_ZEROS: 0.0, _NEARLY_ONES: 1 - _EPSILON}
    return {
        name: np.full(int(name.rpartition("/")[2]), value, np.float32)
        for name in names
        for prefix, value in values.items()
        if name.startswith(prefix)
    }


def relu(_: Operation, x: Symbol) -> Symbol:
    """Negative numbers become 0."""
    return mx.sym.Activation(x, act_type="relu")  # unlike `relu` it takes the layout that oneDNN works in


def batch_norm(
    operation: BatchNorm,
    x: Symbol,
    gamma: Symbol,
    beta: Symbol,
    mean: Symbol,
    variance: Symbol,
    types: tuple[str, str],
) -> Symbol:
    """The normalised input; in training it also puts the batch's own mean and biased variance into `mean` and
    `variance`, on the CPU in backward. `types` are that of the values and that of the sums.
    """  # noqa: D205
    values, sums = types
    inputs = [x, gamma, beta]
    if sums != values:
        inputs = [mx.sym.cast(symbol, dtype=sums) for symbol in (_plain(x), gamma, beta)]
    y = mx.sym.BatchNorm(
        *inputs,
        mean,
        variance,
        eps=attribute(operation.epsilon),
        momentum=0.0,  # of the running average, which the model takes by itself
        fix_gamma=False,  # by default gamma is held at 1
    )
    return y if sums == values else _plain(mx.sym.cast(y, dtype=values))


def added_in_float64(plan: Plan, count: int) -> frozenset[str]:
    """The batch norms of a CPU's float32 step that are computed in float64, for batches of `count` images.

    oneDNN's kernel adds pixel by pixel: beyond 100,000 of them its variance is off by up to 2e-4, with fewer
    by 1e-5. And it normalises by x * a + b, which loses digits where a mean is large against its deviation.
    It takes a third of the time of the detour through float64; where little is gained, the detour is taken.
    """

    def pixels(operation: BatchNorm) -> int:
        return count * operation.output.height * operation.output.width

    return frozenset(op.name for op in plan.batch_norms if not _FEW < pixels(op) <= _MANY)


def dropout(operation: Dropout, x: Symbol, keep: Symbol) -> Symbol:
    """Elements to keep (1, else 0), scaled up."""
    return x * keep * operation.scale


def concat(_: Concat, xs: Sequence[Symbol], channels: Sequence[int]) -> Symbol:
    """Join along the channels."""
    y = mx.sym.concat(*xs, dim=1)
    if all(count % _BLOCK == 0 for count in channels):
        return y
    # A gradient in oneDNN's layout cannot be parted within a block: MXNet ends by a division by zero.
    return _plain(y)


def sigmoid(x: Symbol) -> Symbol:
    """1 / (1 + exp(-x))."""
    return mx.sym.Activation(x, act_type="sigmoid")


def forward(
    plan: Plan,
    images: Symbol,
    arrays: Mapping[str, Symbol],
    keep: Mapping[str, Symbol] | None,
    dtype: str,
    exact: Collection[str],
    mixed: bool,
) -> Symbol:
    """The logits; with `keep` for training. Batch norms named in `exact` add in float64."""
    values = {plan.input.name: images}
    size_of = sizes(plan)
    channels_of = {op.output.name: op.output.channels for op in plan.operations}
    biases = {op.input: op.bias for op in plan.operations if isinstance(op, Bias)}
    for op in plan.operations[:-1]:
        x = values[op.input]
        match op:
            case Conv2D() | ConvTranspose2D() if mixed:
                y = in_bfloat16(op, size_of[op.input], x, arrays[op.kernel], arrays[biases[op.name]])
            # The bias that follows is given to the convolution, whose own addition is faster by far.
            case Conv2D():
                y = conv2d(op, size_of[op.input], x, arrays[op.kernel], arrays[biases[op.name]])
            case ConvTranspose2D():
                y = conv_transpose2d(
                    op, size_of[op.input], x, arrays[op.kernel], arrays[biases[op.name]], dtype
                )
            case Bias():
                y = x
            case Relu():
                y = relu(op, x)
            case BatchNorm():
                y = batch_norm(
                    op,
                    x,
                    arrays[op.gamma],
                    arrays[op.beta],
                    arrays[op.moving_mean],
                    arrays[op.moving_variance],
                    (dtype, "float64" if op.name in exact else dtype),
                )
            case Dropout():
                y = x if keep is None else dropout(op, x, keep[op.name])
            case Concat():
                y = concat(
                    op, [values[name] for name in op.inputs], [channels_of[name] for name in op.inputs]
                )
            case _:
                raise NotImplementedError(f"mxnet has no {type(op).__name__}")
        values[op.output.name] = y
    return values[plan.logits]


def _rounded(x: Symbol) -> Symbol:
    """To bfloat16 and back; the gradient is cast, and so rounded, in the same way."""
    return mx.sym.amp_cast(mx.sym.amp_cast(x, dtype="bfloat16"), dtype="float32")


def _plain(x: Symbol) -> Symbol:
    """The same in the plain layout, and so its gradient: transposed to where it was, which oneDNN does.

    An operation that oneDNN does not have also gets plain copies, but their memory is kept for ever; this one
    is in the graph's, where others use it too.
    """
    return mx.sym.transpose(x, axes=(0, 1, 2, 3))


def _wanted(x: Symbol, height: Side, width: Side) -> Symbol:
    """The pixels that are wanted; if they are all there are, no copy is made."""
    if not height.is_cut and not width.is_cut:
        return x
    return _window(x, (height.first, width.first), (height.wanted, width.wanted))


def _window(x: Symbol, first: Sequence[int], size: Sequence[int]) -> Symbol:
    """The `size` pixels from `first` on along height and width."""
    ends = [begin + length for begin, length in zip(first, size, strict=True)]
    return mx.sym.slice(x, begin=(None, None, *first), end=(None, None, *ends))


def _conv_transpose2d_by_phases(
    operation: ConvTranspose2D, x: Symbol, kernel: Symbol, b: Symbol | None
) -> Symbol:
    """The same sum as a convolution to stride**2 phases of the output, which are then interleaved.

    Along one axis, output pixel s*u + v meets input pixel j = u + d by the tap a = v + crop - s*d. So
    phase v correlates x with the taps w[v + crop - s*d], d from the lowest to the highest for which
    any phase has a tap; where there is none the weight is 0.
    """
    s, out = operation.stride, operation.output
    sides = zip(operation.kernel_size, operation.crops, strict=True)
    spans = [(-((taps - 1 - crop) // s), (s - 1 + crop) // s) for taps, (crop, _) in sides]
    (top, bottom), (left, right) = (
        (s * high - crop, s * (high - low + 1) - taps - (s * high - crop))
        for (low, high), taps, (crop, _) in zip(spans, operation.kernel_size, operation.crops, strict=True)
    )
    height, width = (high - low + 1 for low, high in spans)
    weights = mx.sym.pad(kernel, mode="constant", pad_width=(0, 0, 0, 0, top, bottom, left, right))
    weights = mx.sym.reshape(weights, shape=(-1, out.channels, height, s, width, s))
    weights = mx.sym.transpose(mx.sym.reverse(weights, axis=(2, 4)), axes=(3, 5, 1, 0, 2, 4))
    weights = mx.sym.reshape(weights, shape=(s * s * out.channels, -1, height, width))
    pads = [max(-low, high) for low, high in spans]
    filters = s * s * out.channels
    spare = -filters % _BLOCK
    phases = mx.sym.Convolution(
        x,
        _with_zeros(weights, spare),
        None if b is None else _with_zeros(mx.sym.tile(b, reps=(s * s,)), spare),
        kernel=(height, width),
        pad=pads,
        num_filter=filters + spare,
        no_bias=b is None,
    )
    if spare:
        phases = mx.sym.slice_axis(phases, axis=1, begin=0, end=filters)
    if pads != [0, 0]:
        first = [pad + low for pad, (low, _) in zip(pads, spans, strict=True)]
        phases = _window(phases, first, (out.height // s, out.width // s))
    return _interleaved(phases, s, out.channels, out.height // s, out.width // s)


def _with_zeros(x: Symbol, count: int) -> Symbol:
    """So many zeros more along the first axis."""
    if not count:
        return x
    zeros = mx.sym.zeros_like(mx.sym.slice_axis(x, axis=0, begin=0, end=1))
    return mx.sym.concat(x, mx.sym.broadcast_axis(zeros, axis=0, size=count), dim=0)


def _interleaved(phases: Symbol, s: int, channels: int, height: int, width: int) -> Symbol:
    """(N, s * s * channels, height, width) to (N, channels, s * height, s * width).

    `depth_to_space` in a seventh of its time: transposed along one axis, then along the other.
    """
    y = mx.sym.reshape(phases, shape=(-1, s, s, channels * height * width))
    y = mx.sym.reshape(mx.sym.transpose(y, axes=(0, 1, 3, 2)), shape=(-1, s, channels * height, s * width))
    return mx.sym.reshape(mx.sym.transpose(y, axes=(0, 2, 1, 3)), shape=(-1, channels, s * height, s * width))
