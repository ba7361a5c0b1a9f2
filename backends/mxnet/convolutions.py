"""Convolutions, transposed convolutions and their biases as MXNet symbols, each with its gradient.

`input_tensor` is the plan's description of the input x. Layouts are those of `backends.mxnet.operations`.
"""

from __future__ import annotations

from typing import Any

from backends.mxnet.batch_norm import scale_and_shift
from backends.mxnet.framework import mx
from backends.mxnet.gradients import (
    Result,
    Step,
    Symbol,
    compose,
    cropped,
    first_along,
    gradient,
    identity,
    new_node,
    padded,
    reshaped,
    reversed_along,
    transposed,
    with_zeros,
)
from backends.mxnet.sums import batch_sum, image_sums, plain_layout
from backends.mxnet.symmetric_padding import AxisPadding, axis_paddings
from core.backend.kernel_switches import Switch
from core.base.rounding import Half, Narrow
from core.network.plan import Conv2D, ConvTranspose2D, GroupedConv2D, Operation, Tensor

SEVERAL_CHANNELS = Switch("a transposed convolution to one channel goes by phases", "channels", 2)

FILTER_BLOCK = Switch("phases are filled up with filters of 0", "filters of phases", 16)
"""The number of filters that oneDNN computes at once. A convolution with fewer is several times slower."""


def conv2d(
    operation: Conv2D, input_tensor: Tensor, x: Symbol, kernel: Symbol, b: Symbol | None, dtype: str
) -> Result:
    """Convolve with MXNet's padding, then cut off the pixels beyond the plan's."""
    height, width = axis_paddings(operation, (input_tensor.height, input_tensor.width))
    given = (x, kernel) if b is None else (x, kernel, b)
    grouped: dict[str, Any] = {}
    if isinstance(operation, GroupedConv2D):
        grouped = {"dilate": (operation.dilation,) * 2, "num_group": operation.groups}
    y = mx.sym.Convolution(
        *given,
        kernel=operation.kernel_size,
        stride=(operation.stride, operation.stride),
        pad=(height.padding, width.padding),
        **grouped,
        num_filter=operation.output.channels,
        no_bias=b is None,
    )
    wanted, uncut = _cut(y, height, width)

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        dx, d_kernel = gradient("Convolution", y, *uncut(dy), *given)[:2]
        return (dx, d_kernel) if b is None else (dx, d_kernel, _bias_gradient(operation, dy, dtype))

    return Result(wanted, pullback)


def conv_transpose2d(
    operation: ConvTranspose2D, input_tensor: Tensor, x: Symbol, kernel: Symbol, b: Symbol | None, dtype: str
) -> Result:
    """Convolve transposed with MXNet's padding, then cut off the pixels beyond the plan's."""
    height, width = axis_paddings(operation, (input_tensor.height, input_tensor.width))
    shared = {
        "kernel": operation.kernel_size,
        "stride": (operation.stride, operation.stride),
        "no_bias": True,
        "pad": (height.padding, width.padding),
    }
    y = mx.sym.Deconvolution(
        x, kernel, adj=(height.adjust, width.adjust), num_filter=operation.output.channels, **shared
    )
    wanted, uncut = _cut(y, height, width)

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        # Deconvolution's own gradient writes beyond the end of an array that is not a variable's. So the
        # gradient is written with the convolution whose adjoint this is: it takes dy to dx, and its kernel's
        # gradient is the one wanted.
        (dy,) = uncut(dy)
        dx = mx.sym.Convolution(dy, kernel, num_filter=input_tensor.channels, **shared)
        _, d_kernel = gradient("Convolution", dx, x, dy, kernel)
        return dx, d_kernel

    return _add_bias(operation, Result(wanted, pullback), b, dtype)


def conv_transpose2d_by_phases(
    operation: ConvTranspose2D, x: Symbol, kernel: Symbol, b: Symbol | None, dtype: str
) -> Result:
    """Convolve transposed, by a convolution to the stride**2 phases of the output, which are interleaved.

    Along one axis, output pixel s*u + v meets input pixel j = u + d by the tap a = v + crop - s*d. So
    phase v correlates x with the taps w[v + crop - s*d], d from the lowest to the highest for which
    any phase has a tap; where there is none the weight is 0.
    """
    s, out = operation.stride, operation.output
    axes = zip(operation.kernel_size, operation.crops, strict=True)
    spans = [(-((taps - 1 - crop) // s), (s - 1 + crop) // s) for taps, (crop, _) in axes]
    rows, columns = (
        (s * high - crop, s * (high - low + 1) - taps - (s * high - crop))
        for (low, high), taps, (crop, _) in zip(spans, operation.kernel_size, operation.crops, strict=True)
    )
    height, width = (high - low + 1 for low, high in spans)
    filters = s * s * out.channels
    spare = FILTER_BLOCK.padding_needed(filters)
    weights, pullback_weights = compose(
        kernel,
        padded(rows, columns),
        reshaped(-1, out.channels, height, s, width, s),
        reversed_along(2, 4),
        transposed(3, 5, 1, 0, 2, 4),
        reshaped(filters, -1, height, width),
        with_zeros(spare),
    )
    given = (x, weights) if b is None else (x, weights, _bias_of_phases(b, s * s, spare))
    pads = [max(-low, high) for low, high in spans]
    phases = mx.sym.Convolution(
        *given, kernel=(height, width), pad=pads, num_filter=filters + spare, no_bias=b is None
    )
    steps = [first_along(1, filters)] if spare else []
    if pads != [0, 0]:
        first = [pad + low for pad, (low, _) in zip(pads, spans, strict=True)]
        steps.append(cropped(first, (out.height // s, out.width // s)))
    y, pullback_y = compose(phases, *steps, *_interleaved(s, out.channels, out.height // s, out.width // s))

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        dy = plain_layout(dy)  # an array of 16 channels is in oneDNN's layout, where it cannot be reshaped
        dx, d_weights = gradient("Convolution", phases, *pullback_y(dy), *given)[:2]
        if dtype == "float32" and not SEVERAL_CHANNELS.reached(out.channels):
            parts = dx, _kernel_gradient_of_one_channel(operation, x, dy)
        else:
            parts = dx, *pullback_weights(d_weights)
        return parts if b is None else (*parts, _bias_gradient(operation, dy, dtype))

    return Result(y, pullback)


def rounded(
    operation: Conv2D | ConvTranspose2D,
    input_tensor: Tensor,
    x: Symbol,
    kernel: Symbol,
    b: Symbol | None,
    narrow: Narrow,
) -> Result:
    """Compute a convolution of either kind with rounded operands, then add the bias, unrounded.

    `core.backend.training_rules` states the rounding.

    The product of the rounded operands is taken in float32; MXNet has no bfloat16 kernels that train.
    """

    def operand(x: Symbol) -> Symbol:
        return _to_tf32(x) if narrow == "tf32" else _to_half(x, narrow)

    def result(y: Symbol) -> Symbol:
        return y if narrow == "tf32" else _to_half(y, narrow)

    if isinstance(operation, ConvTranspose2D):
        # Not Deconvolution, which ends in a segmentation fault when its weight is computed.
        y, pullback = conv_transpose2d_by_phases(operation, operand(x), operand(kernel), None, "float32")
    else:
        y, pullback = conv2d(operation, input_tensor, operand(x), operand(kernel), None, "float32")
    product = Result(result(y), lambda dy: tuple(map(result, pullback(operand(dy)))))
    return _add_bias(operation, product, b, "float32")


def _add_bias(operation: Operation, product: Result, b: Symbol | None, dtype: str) -> Result:
    """Add b to every pixel of a product, if there is one; the gradient for b comes last.

    In float32 `scale_and_shift` does it: of all operations that add, oneDNN has a fast kernel for batch norm
    alone. `Deconvolution`'s own bias is much slower.
    """
    if b is None:
        return product
    x = product.value
    if dtype == "float64":
        y = mx.sym.broadcast_add(x, mx.sym.reshape(b, shape=(1, -1, 1, 1)))
    else:
        y = scale_and_shift(operation.name, operation, x, mx.sym.ones_like(b), b)

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        db = _bias_gradient(operation, dy, dtype)
        return (*product.pullback(dy), db)

    return Result(y, pullback)


def _bias_gradient(operation: Operation, dy: Symbol, dtype: str) -> Symbol:
    """Sum dy over all pixels, since the same bias is added to each."""
    return mx.sym.cast(batch_sum(image_sums(operation, dy)), dtype=dtype)


def _to_half(x: Symbol, half: Half) -> Symbol:
    """Round to numbers of 16 bits; the result is float32."""
    # `mx.sym.amp_cast` asks NumPy for bfloat16, which NumPy has only after an import of ml_dtypes.
    name = mx.sym.amp_cast(x, dtype="float16").name
    return mx.sym.amp_cast(new_node("amp_cast", [x], {"dtype": half}, name), dtype="float32")


def _cut(x: Symbol, height: AxisPadding, width: AxisPadding) -> Result:
    """Cut out the plan's pixels; make no copy if there are no others."""
    if not height.is_cut and not width.is_cut:
        return identity(x)
    return cropped((height.first, width.first), (height.wanted, width.wanted))(x)


def _kernel_gradient_of_one_channel(operation: ConvTranspose2D, x: Symbol, dy: Symbol) -> Symbol:
    """Return the kernel's gradient of a transposed convolution to one channel: windows of dy times x.

    oneDNN's kernel adds one by one what nearly cancels: over a batch of radiographs it is off by 1e-4.
    """
    (top, bottom), (left, right) = operation.crops
    uncropped = padded((top, max(bottom, 0)), (left, max(right, 0)))(dy).value
    if min(bottom, right) < 0:
        end = (min(bottom, 0) or None, min(right, 0) or None)
        uncropped = mx.sym.slice(uncropped, begin=(None, None, None, None), end=(None, None, *end))
    stride = (operation.stride, operation.stride)
    windows = mx.sym.im2col(uncropped, kernel=operation.kernel_size, stride=stride)  # (N, taps, pixels)
    pixels = mx.sym.reshape(plain_layout(x), shape=(0, 0, -1))
    products = mx.sym.sum(mx.sym.batch_dot(windows, pixels, transpose_b=True), axis=0)  # (taps, channels in)
    return mx.sym.reshape(mx.sym.transpose(products), shape=(-1, 1, *operation.kernel_size))


def _bias_of_phases(b: Symbol, phases: int, spare: int) -> Symbol:
    """Repeat the bias for each phase, then add zeros for the spare filters."""
    tiles = mx.sym.tile(b, reps=(phases,))
    return with_zeros(spare)(tiles).value


def _interleaved(s: int, channels: int, height: int, width: int) -> tuple[Step, ...]:
    """Return the steps from (N, s * s * channels, height, width) to (N, channels, s * height, s * width).

    They transpose along one axis, then along the other, which is several times faster than `depth_to_space`.
    """
    return (
        reshaped(-1, s, s, channels * height * width),
        transposed(0, 1, 3, 2),
        reshaped(-1, s, channels * height, s * width),
        transposed(0, 2, 1, 3),
        reshaped(-1, channels, s * height, s * width),
    )


def _to_tf32(x: Symbol) -> Symbol:
    """Round to TF32; the result is float32.

    MXNet has no operations on bits. But float16 has as many digits, so x is rounded to it after a division by
    a power of two near |x|; both change no digit.
    """
    exponent = mx.sym.floor(mx.sym.log2(mx.sym.abs(x)))
    power = mx.sym.pow(2.0, mx.sym.clip(exponent, a_min=-126, a_max=127))
    return _to_half(x / power, "float16") * power
