"""Each primitive operation of `core.plan` as an MXNet symbol. Arrays are (N, C, H, W) inside.

Kernels are (out, in, kh, kw) for convolutions and (in, out, kh, kw) for transposed ones: in both cases
`transpose(3, 2, 0, 1)` of the neutral layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.mxnet.framework import attribute, mx
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

Symbol = Any
"""An `mx.sym.Symbol`; MXNet ships no type information."""


@dataclass(frozen=True)
class Types:
    """The types of a training graph: of its values, and of what batch norm adds up."""

    values: str
    sums: str


def conv2d(operation: Conv2D, x: Symbol, kernel: Symbol, b: Symbol | None) -> Symbol:
    """Convolution with symmetric padding, the only kind MXNet has, from which the output is sliced.

    Padding p >= begin at both sides shifts the output by (p - begin) / stride pixels.
    """
    padding, first = zip(*(_symmetric(pads, operation.stride) for pads in operation.pads), strict=True)
    out = operation.output
    y = mx.sym.Convolution(
        x,
        kernel,
        b,
        kernel=operation.kernel_size,
        stride=(operation.stride, operation.stride),
        pad=padding,
        num_filter=out.channels,
        no_bias=b is None,
    )
    return _window(y, first, (out.height, out.width))


def conv_transpose2d(operation: ConvTranspose2D, x: Symbol, kernel: Symbol, b: Symbol) -> Symbol:
    """Transposed convolution from which the output is sliced."""
    out, stride = operation.output, operation.stride
    if out.channels == 1:
        # Deconvolution with one filter fails in backward from 16 input channels on: "could not
        # create a primitive descriptor for a reorder primitive".
        return bias(operation, _conv_transpose2d_by_phases(operation, x, kernel), b)
    (top, bottom), (left, right) = operation.crops
    y = mx.sym.Deconvolution(
        x,
        kernel,
        b,
        kernel=operation.kernel_size,
        stride=(stride, stride),
        no_bias=False,
        pad=(top, left),
        adj=(max(top - bottom, 0), max(left - right, 0)),
        num_filter=out.channels,
    )
    return _window(y, (0, 0), (out.height, out.width))


def in_bfloat16(operation: Conv2D | ConvTranspose2D, x: Symbol, kernel: Symbol, b: Symbol) -> Symbol:
    """A product as "mixed_bfloat16" has it (`core.rules`), then the bias, which is not rounded.

    The product of the rounded operands is taken in float32; MXNet has no bfloat16 kernels that train.
    """
    x, kernel = _rounded(x), _rounded(kernel)
    if isinstance(operation, ConvTranspose2D):
        # Not Deconvolution: fed a weight that is computed, it ends in a segmentation fault.
        y = _conv_transpose2d_by_phases(operation, x, kernel)
    else:
        y = conv2d(operation, x, kernel, None)
    return bias(operation, _rounded(y), b)


def bias(_: Operation, x: Symbol, b: Symbol) -> Symbol:
    """Add b to every pixel."""
    return mx.sym.broadcast_add(x, mx.sym.reshape(b, shape=(1, -1, 1, 1)))


def relu(_: Operation, x: Symbol) -> Symbol:
    """Negative numbers become 0."""
    return mx.sym.relu(x)


def batch_norm(
    operation: BatchNorm,
    x: Symbol,
    gamma: Symbol,
    beta: Symbol,
    mean: Symbol,
    variance: Symbol,
    types: Types | None,
) -> Symbol:
    """The normalised input; with `types` as in training, which also puts the batch's own mean and biased
    variance into `mean` and `variance` (of the type `types.sums`), on the CPU in backward.

    Sums are float64: in float32 the operator adds pixel by pixel, and over a batch of radiographs its mean
    and variance are off by up to 2e-4.
    """  # noqa: D205
    inputs = [x, gamma, beta]
    if types is not None:
        inputs = [mx.sym.cast(symbol, dtype=types.sums) for symbol in inputs]
    y = mx.sym.BatchNorm(
        *inputs,
        mean,
        variance,
        eps=attribute(operation.epsilon),
        momentum=0.0,  # of the running average, which the model takes by itself
        fix_gamma=False,  # by default gamma is held at 1
    )
    return y if types is None else mx.sym.cast(y, dtype=types.values)


def dropout(operation: Dropout, x: Symbol, keep: Symbol) -> Symbol:
    """Elements to keep (1, else 0), scaled up."""
    return x * keep * operation.scale


def concat(_: Concat, xs: Sequence[Symbol]) -> Symbol:
    """Join along the channels."""
    return mx.sym.concat(*xs, dim=1)


def sigmoid(x: Symbol) -> Symbol:
    """1 / (1 + exp(-x))."""
    return mx.sym.sigmoid(x)


def forward(
    plan: Plan,
    images: Symbol,
    arrays: Mapping[str, Symbol],
    keep: Mapping[str, Symbol] | None,
    types: Types | None,
    mixed: bool,
) -> Symbol:
    """The logits; with `keep` and `types` for training, without for prediction."""
    values = {plan.input.name: images}
    biases = {op.input: op.bias for op in plan.operations if isinstance(op, Bias)}
    for op in plan.operations[:-1]:
        x = values[op.input]
        match op:
            case Conv2D() | ConvTranspose2D() if mixed:
                y = in_bfloat16(op, x, arrays[op.kernel], arrays[biases[op.name]])
            # The bias that follows is given to the convolution, whose own addition is faster by far.
            case Conv2D():
                y = conv2d(op, x, arrays[op.kernel], arrays[biases[op.name]])
            case ConvTranspose2D():
                y = conv_transpose2d(op, x, arrays[op.kernel], arrays[biases[op.name]])
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
                    types,
                )
            case Dropout():
                y = x if keep is None else dropout(op, x, keep[op.name])
            case Concat():
                y = concat(op, [values[name] for name in op.inputs])
            case _:
                raise NotImplementedError(f"mxnet has no {type(op).__name__}")
        values[op.output.name] = y
    return values[plan.logits]


def _rounded(x: Symbol) -> Symbol:
    """To bfloat16 and back; the gradient is cast, and so rounded, in the same way."""
    return mx.sym.amp_cast(mx.sym.amp_cast(x, dtype="bfloat16"), dtype="float32")


def _symmetric(pads: Pads, stride: int) -> tuple[int, int]:
    """The smallest padding that covers both sides in step with the stride, and the first output to keep."""
    begin = pads[0]
    padding = next(p for p in range(max(pads), max(pads) + stride) if (p - begin) % stride == 0)
    return padding, (padding - begin) // stride


def _window(x: Symbol, first: Sequence[int], size: Sequence[int]) -> Symbol:
    """The `size` pixels from `first` on along height and width."""
    ends = [begin + length for begin, length in zip(first, size, strict=True)]
    return mx.sym.slice(x, begin=(None, None, *first), end=(None, None, *ends))


def _conv_transpose2d_by_phases(operation: ConvTranspose2D, x: Symbol, kernel: Symbol) -> Symbol:
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
    phases = mx.sym.Convolution(
        x, weights, kernel=(height, width), pad=pads, num_filter=s * s * out.channels, no_bias=True
    )
    first = [pad + low for pad, (low, _) in zip(pads, spans, strict=True)]
    phases = _window(phases, first, (out.height // s, out.width // s))
    return mx.sym.depth_to_space(phases, block_size=s)
