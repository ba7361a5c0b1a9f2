"""Each primitive operation of `core.network.plan` as an MXNet symbol. Arrays are (N, C, H, W) inside.

Kernels are (out, in, kh, kw) for convolutions and (in, out, kh, kw) for transposed ones: in both cases
`transpose(3, 2, 0, 1)` of the neutral layout.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.mxnet.framework import attribute, mx
from backends.mxnet.gradients import (
    Result,
    Step,
    Symbol,
    first_along,
    gradient,
    new_node,
    padded,
    reshaped,
    reversed_along,
    same,
    through,
    transposed,
    window,
    with_zeros,
)
from backends.mxnet.padding import Side, sides
from core.backend.kernel_switches import Switch
from core.network.plan import (
    BatchNorm,
    Bias,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Operation,
    Plan,
    Relu,
    Tensor,
    unknown_operation,
)

OPERATIONS = (BatchNorm, Bias, Concat, Conv2D, ConvTranspose2D, Dropout, Relu)
"""What `forward` computes: all that may stand before the sigmoid."""

WINDOW = Switch("at most so many rows and columns are added one by one in float32", "length of a side", 8)
SEVERAL = Switch("a transposed convolution to one channel goes by phases", "channels", 2)

_ZEROS, _NEARLY_ONES = "constant/zeros/", "constant/nearly_ones/"  # of which operation, type, and how many
_EPSILON = 2.0**-10  # with it, nearly one is exactly 1

BLOCK = Switch("phases are filled up with filters of 0", "filters of phases", 16)
"""So many oneDNN computes at once; a convolution of fewer is several times slower than of so many."""


def conv2d(operation: Conv2D, of: Tensor, x: Symbol, kernel: Symbol, b: Symbol | None, dtype: str) -> Result:
    """Convolution with MXNet's padding; what is too much is cut off."""
    height, width = sides(operation, (of.height, of.width))
    given = (x, kernel) if b is None else (x, kernel, b)
    y = mx.sym.Convolution(
        *given,
        kernel=operation.kernel_size,
        stride=(operation.stride, operation.stride),
        pad=(height.padding, width.padding),
        num_filter=operation.output.channels,
        no_bias=b is None,
    )
    wanted, uncut = _wanted(y, height, width)

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        dx, d_kernel = gradient("Convolution", y, *uncut(dy), *given)[:2]
        return (dx, d_kernel) if b is None else (dx, d_kernel, _bias_gradient(operation, dy, dtype))

    return Result(wanted, pullback)


def conv_transpose2d(
    operation: ConvTranspose2D, of: Tensor, x: Symbol, kernel: Symbol, b: Symbol, dtype: str
) -> Result:
    """Transposed convolution with MXNet's padding; what is too much is cut off."""
    height, width = sides(operation, (of.height, of.width))
    shared = {
        "kernel": operation.kernel_size,
        "stride": (operation.stride, operation.stride),
        "no_bias": True,
        "pad": (height.padding, width.padding),
    }
    y = mx.sym.Deconvolution(
        x, kernel, adj=(height.adjust, width.adjust), num_filter=operation.output.channels, **shared
    )
    wanted, uncut = _wanted(y, height, width)

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        # Deconvolution's own gradient writes beyond the end of an array that is not a variable's. It is the
        # adjoint of a convolution: that takes one gradient to the other, and the kernel's is the same.
        (dy,) = uncut(dy)
        dx = mx.sym.Convolution(dy, kernel, num_filter=of.channels, **shared)
        _, d_kernel = gradient("Convolution", dx, x, dy, kernel)
        return dx, d_kernel

    product = Result(wanted, pullback)
    return _plus_bias(operation, product, b, dtype)


def in_bfloat16(
    operation: Conv2D | ConvTranspose2D, of: Tensor, x: Symbol, kernel: Symbol, b: Symbol
) -> Result:
    """A product of precision "mixed_bfloat16", then the bias, which is not rounded.

    `core.backend.training_rules` states the rounding.

    The product of the rounded operands is taken in float32; MXNet has no bfloat16 kernels that train.
    """
    if isinstance(operation, ConvTranspose2D):
        # Not Deconvolution: fed a weight that is computed, it ends in a segmentation fault.
        y, pullback = _conv_transpose2d_by_phases(operation, _rounded(x), _rounded(kernel), None, "float32")
    else:
        y, pullback = conv2d(operation, of, _rounded(x), _rounded(kernel), None, "float32")
    product = Result(_rounded(y), lambda dy: tuple(map(_rounded, pullback(_rounded(dy)))))
    return _plus_bias(operation, product, b, "float32")


def bias(operation: Operation, x: Symbol, b: Symbol, dtype: str) -> Result:
    """Add b to every pixel.

    In float32 as a batch norm that knows its mean (0) and variance (1) beforehand: of all that adds, oneDNN
    has a fast kernel for that one alone. It takes a tenth of the time of `Deconvolution`'s own bias.
    """
    if dtype == "float64":
        y = mx.sym.broadcast_add(x, mx.sym.reshape(b, shape=(1, -1, 1, 1)))
    else:
        y = _scaled(operation.name, operation, x, mx.sym.ones_like(b), b)
    return Result(y, lambda dy: (dy, _bias_gradient(operation, dy, dtype)))


def constants(names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """What stands behind those names of a symbol's inputs that are neither arrays of the model nor data."""
    values = {_ZEROS: 0.0, _NEARLY_ONES: 1 - _EPSILON}
    found = {}
    for name in names:
        for prefix, value in values.items():
            if name.startswith(prefix):
                *_, dtype, count = name.split("/")
                found[name] = np.full(int(count), value, dtype)
    return found


def relu(_: Operation, x: Symbol) -> Result:
    """Negative numbers become 0."""
    y = mx.sym.Activation(x, act_type="relu")  # unlike `relu` it takes the layout that oneDNN works in
    return Result(y, lambda dy: gradient("Activation", y, dy, y))


def batch_norm_by_known(
    operation: BatchNorm, x: Symbol, gamma: Symbol, beta: Symbol, mean: Symbol, variance: Symbol
) -> Symbol:
    """The input normalised by these, where nothing is trained."""
    return mx.sym.BatchNorm(x, gamma, beta, mean, variance, **_settings(operation))


def batch_norm(
    operation: BatchNorm, x: Symbol, gamma: Symbol, beta: Symbol, dtype: str, exact: bool
) -> tuple[Result, Symbol, Symbol]:
    """The normalised input, and the mean and biased variance of the batch."""
    if exact:
        return _exact_batch_norm(operation, x, gamma, beta)
    return _batch_norm_by_kernel(operation, x, gamma, beta, dtype)


def _batch_norm_by_kernel(
    operation: BatchNorm, x: Symbol, gamma: Symbol, beta: Symbol, dtype: str
) -> tuple[Result, Symbol, Symbol]:
    """As MXNet has it."""
    # What MXNet averages by itself is not taken: it is written in backward, and nobody can wait for that.
    inputs = x, gamma, beta, *_known(f"{operation.name}/unused", operation, dtype)
    y, mean, inverse = made = mx.sym.BatchNorm(*inputs, output_mean_var=True, **_settings(operation))
    variance = mx.sym.relu(1 / mx.sym.square(inverse) - operation.epsilon)
    return Result(y, lambda dy: gradient("BatchNorm", made, dy, mean, inverse, *inputs)[:3]), mean, variance


def _exact_batch_norm(
    operation: BatchNorm, x: Symbol, gamma: Symbol, beta: Symbol
) -> tuple[Result, Symbol, Symbol]:
    """The same in float32, with sums over pixels that are as good as float64's.

    MXNet's kernel and its gradient add pixel by pixel: with 100,000 of them statistics are off by 1e-5.
    Here every sum over a channel is one of a float64 array of sums over few pixels; all that touches every
    pixel is a kernel of oneDNN: y = scale * (x - mean) + beta and dx = a * dy + b * x + c.
    """
    name = operation.name
    mean = _mean(operation, _pixels(operation, x))
    rounded = _narrow(mean)
    rest = mean - _wide(rounded)
    centred = _scaled(f"{name}/centred", operation, x, mx.sym.ones_like(gamma), -rounded)
    pixels = _plain(centred)
    variance = _mean(operation, _rows(operation, mx.sym.square(pixels)))
    inverse = mx.sym.rsqrt(variance + operation.epsilon)
    scale = _wide(gamma) * inverse
    y = _scaled(name, operation, centred, _narrow(scale), _narrow(_wide(beta) - scale * rest))

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        sums = _pixels(operation, dy)
        slopes = _rows(operation, _plain(dy) * pixels) - mx.sym.broadcast_mul(
            sums, mx.sym.reshape(rest, shape=(1, -1))
        )
        a = _narrow(scale)
        b = _narrow(-scale * mx.sym.square(inverse) * _mean(operation, slopes))
        # Of few pixels the gradient nearly cancels, so c is made of a and b as they are, and has a rest too.
        c = -_wide(a) * _mean(operation, sums) - _wide(b) * mean
        c_rounded = _narrow(c)
        ours = _scaled(f"{name}/of_gradient", operation, dy, a, c_rounded)
        others = _scaled(f"{name}/of_input", operation, x, b, _narrow(c - _wide(c_rounded)))
        return mx.sym.elemwise_add(ours, others), _narrow(inverse * _sum(slopes)), _narrow(_sum(sums))

    return Result(y, pullback), rounded, _narrow(variance)


def dropout(operation: Dropout, x: Symbol, keep: Symbol) -> Result:
    """Elements to keep (1, else 0), scaled up."""
    return Result(x * keep * operation.scale, lambda dy: (dy * keep * operation.scale,))


def concat(_: Concat, xs: Sequence[Symbol], channels: Sequence[int]) -> Result:
    """Join along the channels."""
    ends = list(itertools.accumulate(channels))
    parts = list(zip([0, *ends], ends, strict=False))

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        # In oneDNN's layout it takes twice as long, and within a block MXNet ends by a division by zero.
        dy = _plain(dy)
        return tuple(mx.sym.slice_axis(dy, axis=1, begin=begin, end=end) for begin, end in parts)

    return Result(mx.sym.concat(*xs, dim=1), pullback)


def sigmoid(x: Symbol) -> Symbol:
    """1 / (1 + exp(-x))."""
    return mx.sym.Activation(x, act_type="sigmoid")


def forward(
    plan: Plan,
    images: Symbol,
    arrays: Mapping[str, Symbol],
    keep: Mapping[str, Symbol] | None,
    dtype: str,
    exact: bool,
    mixed: bool,
) -> tuple[Symbol, dict[str, Symbol], Callable[[Symbol], dict[str, Symbol]]]:
    """The logits; for training, with `keep`, also the batch's statistics by the running ones' names, and what
    turns the gradient of the logits into those of the parameters.

    `exact` says whether a batch norm adds as float64 does in training, or as MXNet's kernel does.
    """  # noqa: D205
    values, tape = {plan.input.name: images}, []
    statistics: dict[str, Symbol] = {}
    tensors = {tensor.name: tensor for tensor in (plan.input, *(op.output for op in plan.operations))}
    biases = {op.input: op.bias for op in plan.operations if isinstance(op, Bias)}
    for op in plan.operations[:-1]:
        x, of = values[op.input], tensors[op.input]
        names: tuple[str, ...] = ()
        match op:
            # The bias that follows is given to the convolution, whose own addition is faster by far.
            case Conv2D() | ConvTranspose2D():
                names = op.kernel, biases[op.name]
                kernel, b = (arrays[name] for name in names)
                if mixed:
                    made = in_bfloat16(op, of, x, kernel, b)
                elif isinstance(op, Conv2D):
                    made = conv2d(op, of, x, kernel, b, dtype)
                elif op.input == plan.input.name or not SEVERAL.reached(op.output.channels):
                    # Deconvolution with one filter fails in backward from 16 input channels on: "could not
                    # create a primitive descriptor for a reorder primitive". And with its kernel's gradient
                    # comes that of its input, which nobody wants of images.
                    made = _conv_transpose2d_by_phases(op, x, kernel, b, dtype)
                else:
                    made = conv_transpose2d(op, of, x, kernel, b, dtype)
            case Bias():
                made = same(x)
            case Relu():
                made = relu(op, x)
            case BatchNorm():
                names = op.gamma, op.beta
                gamma, beta = (arrays[name] for name in names)
                running = op.moving_mean, op.moving_variance
                if keep is None:
                    known = (arrays[name] for name in running)
                    made = same(batch_norm_by_known(op, x, gamma, beta, *known))
                else:
                    made, *found = batch_norm(op, x, gamma, beta, dtype, exact)
                    statistics.update(zip(running, found, strict=True))
            case Dropout():
                made = same(x) if keep is None else dropout(op, x, keep[op.name])
            case Concat():
                made = concat(
                    op, [values[name] for name in op.inputs], [tensors[name].channels for name in op.inputs]
                )
            case _:
                raise unknown_operation(op, "mxnet")
        values[op.output.name] = made.value
        tape.append((op, names, made.pullback))

    def pullback(d_logits: Symbol) -> dict[str, Symbol]:
        parts: dict[str, list[Symbol]] = {plan.logits: [d_logits]}
        gradients: dict[str, Symbol] = {}
        for op, names, pullback_one in reversed(tape):
            results = pullback_one(_sum_of(parts.pop(op.output.name)))
            for name, result in zip(op.inputs, results, strict=False):
                parts.setdefault(name, []).append(result)
            gradients.update(zip(names, results[len(op.inputs) :], strict=False))
        return gradients

    return values[plan.logits], statistics, pullback


def _sum_of(parts: Sequence[Symbol]) -> Symbol:
    """What several ways add to a gradient, first those that joined channels: their parts are plain.

    In different layouts it would take twice as long.
    """
    *joined, last = parts
    return mx.sym.add_n(*joined, _plain(last)) if joined else last


def _plus_bias(operation: Operation, product: Result, b: Symbol, dtype: str) -> Result:
    y, pullback = bias(operation, product.value, b, dtype)

    def pullback_both(dy: Symbol) -> tuple[Symbol, ...]:
        dy, db = pullback(dy)
        return (*product.pullback(dy), db)

    return Result(y, pullback_both)


def _settings(operation: BatchNorm) -> dict[str, str]:
    """Of MXNet's batch norm, as attributes."""
    return {
        "eps": attribute(operation.epsilon),
        "momentum": "0.0",  # of the running average, which the model takes by itself
        "fix_gamma": "False",  # by default gamma is held at 1
        "use_global_stats": "False",
    }


def _known(name: str, operation: Operation, dtype: str) -> tuple[Symbol, Symbol]:
    """A mean of 0 and a variance of nearly 1; each its own, as MXNet wants of what it may write to."""
    zeros, nearly_ones = (
        mx.sym.Variable(f"{prefix}{name}/{dtype}/{operation.output.channels}")
        for prefix in (_ZEROS, _NEARLY_ONES)
    )
    return zeros, nearly_ones


def _scaled(name: str, operation: Operation, x: Symbol, scale: Symbol, shift: Symbol) -> Symbol:
    """Every channel times its scale, plus its shift, by a batch norm whose statistics are known."""
    return mx.sym.BatchNorm(
        x,
        scale,
        shift,
        *_known(name, operation, "float32"),
        eps=_EPSILON,
        use_global_stats=True,
        fix_gamma=False,
    )


def _pixels(operation: Operation, x: Symbol) -> Symbol:
    """Sums of each image's pixels, (N, C) in float64: of those of windows."""
    window = tuple(
        WINDOW.largest_divisor(length) for length in (operation.output.height, operation.output.width)
    )
    means = mx.sym.Pooling(x, kernel=window, stride=window, pool_type="avg")
    return _added(_wide(means), operation, window) * math.prod(window)


def _rows(operation: Operation, x: Symbol) -> Symbol:
    """The same of an array in the plain layout: of the sums of rows."""
    width = operation.output.width
    rows = mx.sym.reshape(x, shape=(-1, width))
    sums = mx.sym.FullyConnected(rows, mx.sym.ones((1, width)), num_hidden=1, no_bias=True)
    return _added(_wide(sums), operation, (1, width))


def _added(parts: Symbol, operation: Operation, size: tuple[int, ...]) -> Symbol:
    """Sums of the parts of this size of each image, (N, C)."""
    out = operation.output
    count = out.height * out.width // math.prod(size)
    sums = mx.sym.dot(mx.sym.reshape(parts, shape=(-1, count)), mx.sym.ones((count, 1), dtype="float64"))
    return mx.sym.reshape(sums, shape=(-1, out.channels))


def _bias_gradient(operation: Operation, dy: Symbol, dtype: str) -> Symbol:
    """Every pixel had the same number added."""
    return mx.sym.cast(_sum(_pixels(operation, dy)), dtype=dtype)


def _mean(operation: Operation, sums: Symbol) -> Symbol:
    """Of each channel, (C,)."""
    return mx.sym.mean(sums, axis=0) * (1 / (operation.output.height * operation.output.width))


def _sum(sums: Symbol) -> Symbol:
    """Likewise."""
    return mx.sym.sum(sums, axis=0)


def _wide(x: Symbol) -> Symbol:
    return mx.sym.cast(x, dtype="float64")


def _narrow(x: Symbol) -> Symbol:
    return mx.sym.cast(x, dtype="float32")


def _rounded(x: Symbol) -> Symbol:
    """To bfloat16 and back; the gradient is cast, and so rounded, in the same way."""
    # `mx.sym.amp_cast` asks NumPy for the type, which only knows it once somebody has imported ml_dtypes.
    name = mx.sym.amp_cast(x, dtype="float16").name
    return mx.sym.amp_cast(new_node("amp_cast", [x], {"dtype": "bfloat16"}, name), dtype="float32")


def _plain(x: Symbol) -> Symbol:
    """The same in the plain layout, and so its gradient: transposed to where it was, which oneDNN does.

    An operation that oneDNN does not have also gets plain copies, but their memory is kept for ever; this one
    is in the graph's, where others use it too.
    """
    return mx.sym.transpose(x, axes=(0, 1, 2, 3))


def _wanted(x: Symbol, height: Side, width: Side) -> Result:
    """The pixels that are wanted; if they are all there are, no copy is made."""
    if not height.is_cut and not width.is_cut:
        return same(x)
    return window((height.first, width.first), (height.wanted, width.wanted))(x)


def _conv_transpose2d_by_phases(
    operation: ConvTranspose2D, x: Symbol, kernel: Symbol, b: Symbol | None, dtype: str
) -> Result:
    """The same sum as a convolution to stride**2 phases of the output, which are then interleaved.

    Along one axis, output pixel s*u + v meets input pixel j = u + d by the tap a = v + crop - s*d. So
    phase v correlates x with the taps w[v + crop - s*d], d from the lowest to the highest for which
    any phase has a tap; where there is none the weight is 0.
    """
    s, out = operation.stride, operation.output
    sides = zip(operation.kernel_size, operation.crops, strict=True)
    spans = [(-((taps - 1 - crop) // s), (s - 1 + crop) // s) for taps, (crop, _) in sides]
    rows, columns = (
        (s * high - crop, s * (high - low + 1) - taps - (s * high - crop))
        for (low, high), taps, (crop, _) in zip(spans, operation.kernel_size, operation.crops, strict=True)
    )
    height, width = (high - low + 1 for low, high in spans)
    filters = s * s * out.channels
    spare = BLOCK.padding_needed(filters)
    weights, pullback_weights = through(
        kernel,
        padded(rows, columns),
        reshaped(-1, out.channels, height, s, width, s),
        reversed_along(2, 4),
        transposed(3, 5, 1, 0, 2, 4),
        reshaped(filters, -1, height, width),
        with_zeros(spare),
    )
    given = (x, weights) if b is None else (x, weights, _tiled(b, s * s, spare))
    pads = [max(-low, high) for low, high in spans]
    phases = mx.sym.Convolution(
        *given, kernel=(height, width), pad=pads, num_filter=filters + spare, no_bias=b is None
    )
    steps = [first_along(1, filters)] if spare else []
    if pads != [0, 0]:
        first = [pad + low for pad, (low, _) in zip(pads, spans, strict=True)]
        steps.append(window(first, (out.height // s, out.width // s)))
    y, pullback_y = through(phases, *steps, *_interleaving(s, out.channels, out.height // s, out.width // s))

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        dy = _plain(dy)  # in oneDNN's layout, which 16 channels are in, it cannot be reshaped
        dx, d_weights = gradient("Convolution", phases, *pullback_y(dy), *given)[:2]
        if dtype == "float32" and not SEVERAL.reached(out.channels):
            parts = dx, _kernel_gradient_of_one_channel(operation, x, dy)
        else:
            parts = dx, *pullback_weights(d_weights)
        return parts if b is None else (*parts, _bias_gradient(operation, dy, dtype))

    return Result(y, pullback)


def _kernel_gradient_of_one_channel(operation: ConvTranspose2D, x: Symbol, dy: Symbol) -> Symbol:
    """Of the kernel of a transposed convolution: the windows that it made, times what made them.

    oneDNN's kernel adds one by one what nearly cancels: over a batch of radiographs it is off by 1e-4.
    """
    (top, bottom), (left, right) = operation.crops
    grown = padded((top, max(bottom, 0)), (left, max(right, 0)))(dy).value
    if min(bottom, right) < 0:
        end = (min(bottom, 0) or None, min(right, 0) or None)
        grown = mx.sym.slice(grown, begin=(None, None, None, None), end=(None, None, *end))
    stride = (operation.stride, operation.stride)
    windows = mx.sym.im2col(grown, kernel=operation.kernel_size, stride=stride)  # (N, taps, pixels)
    pixels = mx.sym.reshape(_plain(x), shape=(0, 0, -1))
    products = mx.sym.sum(mx.sym.batch_dot(windows, pixels, transpose_b=True), axis=0)  # (taps, channels in)
    return mx.sym.reshape(mx.sym.transpose(products), shape=(-1, 1, *operation.kernel_size))


def _tiled(b: Symbol, count: int, spare: int) -> Symbol:
    """A vector so many times, then zeros."""
    tiles = mx.sym.tile(b, reps=(count,))
    return with_zeros(spare)(tiles).value


def _interleaving(s: int, channels: int, height: int, width: int) -> tuple[Step, ...]:
    """(N, s * s * channels, height, width) to (N, channels, s * height, s * width).

    `depth_to_space` in a seventh of its time: transposed along one axis, then along the other.
    """
    return (
        reshaped(-1, s, s, channels * height * width),
        transposed(0, 1, 3, 2),
        reshaped(-1, s, channels * height, s * width),
        transposed(0, 2, 1, 3),
        reshaped(-1, channels, s * height, s * width),
    )
