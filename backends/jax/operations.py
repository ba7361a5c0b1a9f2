"""The primitive operations of `core.network.plan` in JAX. Arrays are (N, H, W, C)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from backends.jax.framework import jax
from backends.jax.layers import LAYERS
from core.backend.outputs import Outputs
from core.base.rounding import Half, Narrow
from core.network.plan import (
    BatchNorm,
    Bias,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Existence,
    GroupedConv2D,
    Operation,
    Pads,
    Plan,
    Relu,
    unknown_operation,
)

jnp, lax = jax.numpy, jax.lax

OPERATIONS = (
    *(BatchNorm, Bias, Concat, Conv2D, ConvTranspose2D, Dropout, Existence, GroupedConv2D, Relu),
    *LAYERS,
)
"""The operations that `forward` computes: all that may stand before the sigmoid."""

Tensor = Any
"""A `jax.Array`, or its stand-in while a function is traced."""

Operands = tuple[Tensor, Tensor]
"""The image and the kernel of a product, or their gradients."""

PadsOf2D = tuple[Pads, Pads]
"""The pads or crops of height and width."""

Size = tuple[int, int]
"""Height and width."""


class Algorithms(NamedTuple):
    """The functions that compute convolutions, and where they run.

    Attributes:
        convolve: Computes `Conv2D` from image, kernel, stride and pads.
        transpose: Computes `ConvTranspose2D` from image, kernel, stride, crops and the output's size.
        on_cpu: Whether they run on the CPU.
    """

    convolve: Callable[[Tensor, Tensor, int, PadsOf2D], Tensor]
    transpose: Callable[[Tensor, Tensor, int, PadsOf2D, Size], Tensor]
    on_cpu: bool


Product = Callable[[Any, Algorithms, Tensor, Tensor], Tensor]
"""One of the two convolutions, a function of its operation, the algorithms, the image and the kernel."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def conv2d(operation: Conv2D, algorithms: Algorithms, x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve with explicit pads."""
    return algorithms.convolve(x, kernel, operation.stride, operation.pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def conv_transpose2d(operation: ConvTranspose2D, algorithms: Algorithms, x: Tensor, kernel: Tensor) -> Tensor:
    """Compute the input's gradient of the convolution whose pads are the crops."""
    out = operation.output
    return algorithms.transpose(x, kernel, operation.stride, operation.crops, (out.height, out.width))


def conv2d_of_groups(operation: GroupedConv2D, algorithms: Algorithms, x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve with groups or a dilation; on a CPU tap by tap, since XLA has slow loops for it."""
    stride, dilation, groups = operation.stride, operation.dilation, operation.groups
    if not algorithms.on_cpu:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            operation.pads,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=_LAYOUT,
            feature_group_count=groups,
        )
    taps = _pixels_of_taps(x, operation.kernel_size, stride, operation.pads, dilation)
    out, filters = operation.output, operation.output.channels
    kernels = kernel.reshape(len(taps), -1, filters)
    if groups == x.shape[-1]:  # each channel alone
        return sum(_alone(tap, kernels[number, 0]) for number, tap in enumerate(taps))
    met = jnp.stack(taps, axis=3).reshape(len(x), out.height, out.width, len(taps), groups, -1)
    parted = kernels.reshape(len(taps), kernel.shape[2], groups, -1)
    return jnp.einsum("nhwtgi,tigo->nhwgo", met, parted).reshape(len(x), out.height, out.width, filters)


def _alone(x: Tensor, numbers: Tensor) -> Tensor:
    """Multiply each channel by its number, in columns, so that the gradients are summed in two levels."""
    x = jnp.repeat(x, numbers.shape[0] // x.shape[-1], axis=-1)
    return (_columns(x) * _tiled(numbers, x)).reshape(x.shape)


def in_half(product: Product, half: Half, on_cpu: bool) -> Product:
    """Return the product with operands and result rounded to 16 bits. Gradients are rounded as values are.

    `core.backend.training_rules` states the rounding.
    """
    dtype = jnp.dtype(half)

    def rounded(operation: Any, algorithms: Algorithms, x: Tensor, kernel: Tensor) -> Tensor:
        x, kernel = _rounded(half, x), _rounded(half, kernel)
        if not on_cpu:  # the CPU computes in float32 in any case
            x, kernel = x.astype(dtype), kernel.astype(dtype)
        return _rounded(half, product(operation, algorithms, x, kernel).astype(jnp.float32))

    return rounded


def in_tf32(product: Product, on_cpu: bool) -> Product:
    """Return the product with operands rounded to TF32, as a GPU's kernels do by themselves.

    `core.backend.training_rules` states the rounding.
    """

    def rounded(operation: Any, algorithms: Algorithms, x: Tensor, kernel: Tensor) -> Tensor:
        y = product(operation, algorithms, _to_tf32(True, x), _to_tf32(True, kernel))
        return _to_tf32(False, y)

    return rounded if on_cpu else product


def bias(_: Operation, x: Tensor, b: Tensor) -> Tensor:
    """Add b to every pixel."""
    return (_columns(x) + _tiled(b, x)).reshape(x.shape)


def relu(_: Operation, x: Tensor) -> Tensor:
    """Replace negative numbers by 0."""
    return jax.nn.relu(x)


def batch_norm(
    operation: BatchNorm,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised input, and the mean and biased variance that normalised it."""
    if training:
        results: tuple[Tensor, Tensor, Tensor] = _normalize_by_batch(operation.epsilon, x, gamma, beta)
        return results
    return _normalize(operation.epsilon, x, gamma, beta, mean, variance), mean, variance


def dropout(operation: Dropout, x: Tensor, keep: Tensor) -> Tensor:
    """Scale the elements to keep (1) up, and set the others (0) to 0."""
    return x * keep.astype(x.dtype) * operation.scale


def concat(_: Concat, xs: Sequence[Tensor]) -> Tensor:
    """Join along the channels."""
    return jnp.concatenate(xs, axis=-1)


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


def probabilities(logits: Outputs) -> Outputs:
    """Return 1 / (1 + exp(-x)) of the logits of both heads."""
    return logits.mapped(sigmoid)


def forward(
    plan: Plan,
    images: Tensor,
    arrays: Mapping[str, Tensor],
    keep: Mapping[str, Tensor] | None,
    by_batch: Collection[str],
    on_cpu: bool,
    narrow: Narrow | None,
) -> tuple[Outputs, dict[str, Tensor]]:
    """Return the logits, and the statistics that normalised by the running ones' names.

    These are the batch's for the batch norms in `by_batch`. In training there is `keep`.
    """
    values = {plan.input.name: images}
    statistics: dict[str, Tensor] = {}
    algorithms = _fastest_algorithms(on_cpu, images.dtype)
    products: tuple[Product, ...] = (conv2d, conv2d_of_groups, conv_transpose2d)
    if narrow == "tf32":
        products = tuple(in_tf32(product, on_cpu) for product in products)
    elif narrow is not None:
        products = tuple(in_half(product, narrow, on_cpu) for product in products)
    convolve, convolve_groups, transpose = products
    for op in plan.forward:
        x = values[op.input]
        match op:
            case GroupedConv2D():
                y = convolve_groups(op, algorithms, x, arrays[op.kernel])
            case Conv2D():
                y = convolve(op, algorithms, x, arrays[op.kernel])
            case ConvTranspose2D():
                y = transpose(op, algorithms, x, arrays[op.kernel])
            case Bias():
                y = bias(op, x, arrays[op.bias])
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
                    training=op.name in by_batch,
                )
            case Dropout():
                y = x if keep is None else dropout(op, x, keep[op.name])
            case Concat():
                y = concat(op, [values[name] for name in op.inputs])
            case _ if type(op) in LAYERS:
                y = LAYERS[type(op)](op, *(values[name] for name in op.inputs))
            case _:
                raise unknown_operation(op, "jax")
        values[op.output.name] = y
    return Outputs.of(plan, values), statistics


def _fastest_algorithms(on_cpu: bool, dtype: Any) -> Algorithms:
    if not on_cpu:
        return Algorithms(_convolve, _transpose_by_zeros, on_cpu)
    if dtype == jnp.float64:  # on the CPU XLA has no library for float64 and compiles a slow loop
        return Algorithms(_convolve_by_taps, _transpose_by_taps, on_cpu)
    return Algorithms(_convolve, _transpose_by_phases, on_cpu)


def _convolve(x: Tensor, kernel: Tensor, stride: int, pads: PadsOf2D) -> Tensor:
    """Compute `Conv2D` by XLA's convolution."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_LAYOUT)


def _convolve_by_taps(x: Tensor, kernel: Tensor, stride: int, pads: PadsOf2D) -> Tensor:
    """Compute `Conv2D` as one matrix product of the pixels under each tap and the kernel."""
    pixels = jnp.concatenate(_pixels_of_taps(x, kernel.shape[:2], stride, pads), axis=-1)
    return pixels @ kernel.reshape(-1, kernel.shape[3])


def _pixels_of_taps(x: Tensor, taps: Size, stride: int, pads: PadsOf2D, dilation: int = 1) -> list[Tensor]:
    """Return for each tap of a kernel the input's pixel at each pixel of the result, (N, h, w, C)."""
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*side, 0) for side in pads), (0, 0, 0)))
    (rows, columns), (count, height, width, channels) = taps, padded.shape
    bottom, right = height - (rows - 1) * dilation, width - (columns - 1) * dilation  # for the first tap
    # Indices with two strides would make a `gather`, which is several times slower on the CPU.
    return [
        lax.slice(
            padded,
            (0, row, column, 0),
            (count, bottom + row, right + column, channels),
            (1, stride, stride, 1),
        )
        for row in range(0, rows * dilation, dilation)
        for column in range(0, columns * dilation, dilation)
    ]


def _transpose_by_zeros(x: Tensor, kernel: Tensor, stride: int, crops: PadsOf2D, size: Size) -> Tensor:
    """Compute `ConvTranspose2D` as a convolution over the image with zeros between its pixels."""
    pads = [
        (taps - 1 - begin, out + begin - 1 - stride * (pixels - 1))
        for taps, (begin, _), pixels, out in zip(kernel.shape, crops, x.shape[1:3], size, strict=False)
    ]
    return lax.conv_general_dilated(
        x, _rotated(kernel), (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=_LAYOUT
    )


def _transpose_by_phases(x: Tensor, kernel: Tensor, stride: int, crops: PadsOf2D, size: Size) -> Tensor:
    """Compute `ConvTranspose2D` as a convolution to each of the stride**2 phases of the output, then cut.

    On the CPU in float32 it is faster than `_transpose_by_zeros`, since XLA's library for convolutions there
    multiplies by all the zeros.
    """
    height, width = (-(-pixels // stride) for pixels in size)  # of a phase
    # A kernel smaller than the stride leaves phases without a tap: they get one of 0.
    missing = [(0, max(stride - taps, 0)) for taps in kernel.shape[:2]]
    rotated = _rotated(jnp.pad(kernel, (*missing, (0, 0), (0, 0))))
    (top, _), (left, _) = crops
    rows = []
    for row in range(stride):
        taps_down, pads_down = _phase(rotated.shape[0], stride, row + top, height - x.shape[1])
        columns = []
        for column in range(stride):
            taps_right, pads_right = _phase(rotated.shape[1], stride, column + left, width - x.shape[2])
            taps = rotated[taps_down, taps_right]
            columns.append(_convolve(x, taps, 1, (pads_down, pads_right)))
        rows.append(jnp.stack(columns, axis=3))
    y = jnp.stack(rows, axis=2)  # (N, h, row, w, column, C)
    y = y.reshape(x.shape[0], height * stride, width * stride, kernel.shape[2])
    return y[:, : size[0], : size[1]]


def _transpose_by_taps(x: Tensor, kernel: Tensor, stride: int, crops: PadsOf2D, size: Size) -> Tensor:
    """Compute `ConvTranspose2D` as the adjoint of `_convolve_by_taps`, which is linear in its image."""
    image = jax.ShapeDtypeStruct((x.shape[0], *size, kernel.shape[2]), x.dtype)
    (y,) = jax.linear_transpose(lambda y: _convolve_by_taps(y, kernel, stride, crops), image)(x)
    return y


def _rotated(kernel: Tensor) -> Tensor:
    """Rotate a kernel (kh, kw, out, in) by 180 degrees; return (kh, kw, in, out)."""
    return jnp.swapaxes(kernel[::-1, ::-1], 2, 3)


def _phase(size: int, stride: int, place: int, more: int) -> tuple[slice, Pads]:
    """Return the taps of the rotated kernel that meet every stride-th pixel of an axis, and their pads.

    The result has so many pixels more than the input (fewer, if negative).
    Output pixel stride*u + phase meets input pixel u + d by tap place - stride*d, where place = phase +
    the crop at the beginning.
    """
    last = size - 1 - (size - 1 - place) % stride  # the largest tap, that of the lowest d
    lowest, count = (place - last) // stride, last // stride + 1
    return slice(size - 1 - last, None, stride), (-lowest, lowest + count - 1 + more)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalize_by_batch(
    epsilon: float, x: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the input normalised by its own mean and variance, and these.

    Only the running statistics use the batch's, so no gradient comes through them. The gradient is written
    out: the one that JAX derives has twice the sums, and XLA takes longer to compile it.
    """
    columns = _columns(x)
    mean = _mean(x, columns)
    variance = _mean(x, jnp.square(columns - _tiled(mean, x)))
    return _normalize(epsilon, x, gamma, beta, mean, variance), mean, variance


def _normalize(
    epsilon: float, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    scale = gamma * lax.rsqrt(variance + epsilon)
    y = (_columns(x) - _tiled(mean, x)) * _tiled(scale, x) + _tiled(beta, x)
    return y.reshape(x.shape)


def _columns(x: Tensor) -> Tensor:
    """Reshape to (N * H, W * C): sums over columns are fast. In two levels, they keep float32's digits."""
    count, height, width, channels = x.shape
    return x.reshape(count * height, width * channels)


def _tiled(values: Tensor, x: Tensor) -> Tensor:
    """Repeat one value for each channel of x, so that it meets the columns of `_columns`."""
    return jnp.tile(values, x.shape[2])


def _sums(x: Tensor, *arrays: Tensor) -> Tensor:
    """Sum each channel of arrays with the shape of `_columns(x)`; return (arrays, channels)."""
    sums = jnp.stack([jnp.sum(array, axis=0) for array in arrays])
    return jnp.sum(sums.reshape(len(arrays), *x.shape[2:]), axis=1)


def _mean(x: Tensor, columns: Tensor) -> Tensor:
    """Return the mean of each channel of an array with the shape of `_columns(x)`."""
    return _sums(x, columns)[0] / (x.size // x.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded(half: Half, x: Tensor) -> Tensor:
    """Round to numbers of 16 bits, as float32; the gradient is rounded in the same way.

    XLA removes a cast there and back. `reduce_precision` stays, but it takes float16's subnormal numbers for
    0; so a barrier stands between the two casts.
    """
    if half == "bfloat16":
        return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return lax.optimization_barrier(x.astype(jnp.float16)).astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _to_tf32(values: bool, x: Tensor) -> Tensor:
    """Round to TF32, as float32: the values, or their gradient alone."""
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10) if values else x


def _conv2d_backward(operation: Conv2D, algorithms: Algorithms, operands: Operands, dy: Tensor) -> Operands:
    x, kernel = operands
    dx = algorithms.transpose(dy, kernel, operation.stride, operation.pads, x.shape[1:3])
    return dx, _kernel_gradient(algorithms, x, dy, kernel, operation.stride, operation.pads)


def _conv_transpose2d_backward(
    operation: ConvTranspose2D, algorithms: Algorithms, operands: Operands, dy: Tensor
) -> Operands:
    x, kernel = operands
    dx = algorithms.convolve(dy, kernel, operation.stride, operation.crops)
    return dx, _kernel_gradient(algorithms, dy, x, kernel, operation.stride, operation.crops)


def _kernel_gradient(
    algorithms: Algorithms, x: Tensor, dy: Tensor, kernel: Tensor, stride: int, pads: PadsOf2D
) -> Tensor:
    """Return the gradient of `convolve` for the kernel, in which it is linear.

    On the CPU two cases have an algorithm of their own, since XLA's libraries add one number after the other:

    - A kernel of one tap with one channel in or out is a vector. It is summed in float64.
    - An image of one channel, as that of the first block and the gradient of the output. It is one product
      for each row, of the pixels of all taps, and the sum of these.
    """
    if algorithms.on_cpu and kernel.shape[:2] == (1, 1) and 1 in kernel.shape[2:]:
        pixels = x[:, ::stride, ::stride][:, : dy.shape[1], : dy.shape[2]]
        sums = jnp.sum(pixels * dy, axis=(0, 1, 2), dtype=jnp.float64)
        return sums.astype(kernel.dtype).reshape(kernel.shape)
    channels, filters = kernel.shape[2:]
    if algorithms.on_cpu and channels == 1 < filters:
        found = _pixels_of_taps(x, kernel.shape[:2], stride, pads)
        pixels = jnp.stack([one[..., 0] for one in found], axis=2)
        # Rows and not whole images: their shape is that of `_columns`, so what comes before is fused.
        rows, d_rows = pixels.reshape(-1, *pixels.shape[2:]), dy.reshape(-1, *dy.shape[2:])
        return jnp.sum(jnp.einsum("rtw,rwf->rtf", rows, d_rows), axis=0).reshape(kernel.shape)
    (d_kernel,) = jax.linear_transpose(lambda k: algorithms.convolve(x, k, stride, pads), kernel)(dy)
    return d_kernel


def _batch_norm_forward(
    epsilon: float, x: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    y, mean, variance = _normalize_by_batch(epsilon, x, gamma, beta)
    return (y, mean, variance), (x, gamma, mean, variance)


def _batch_norm_backward(
    epsilon: float, saved: tuple[Tensor, ...], gradients: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of Ioffe and Szegedy (2015, section 3), with their terms collected.

    With n pixels a channel, sigma = sqrt(variance + epsilon) and d = (x - mean) / sigma:
        dx = gamma / sigma * (dy - sum(dy) / n - d * sum(dy * d) / n)
    """
    x, gamma, mean, variance = saved
    dy = _columns(gradients[0])
    centred, inverse = _columns(x) - _tiled(mean, x), lax.rsqrt(variance + epsilon)
    d_beta, d_gamma = _sums(x, dy, dy * centred)
    d_gamma *= inverse
    pixels = x.size // x.shape[-1]
    along = centred * _tiled(inverse * d_gamma / pixels, x)
    dx = _tiled(gamma * inverse, x) * (dy - _tiled(d_beta / pixels, x) - along)
    return dx.reshape(x.shape), d_gamma, d_beta


_to_tf32.defvjp(
    lambda values, x: (_to_tf32(values, x), None), lambda values, _, dy: (_to_tf32(not values, dy),)
)
_rounded.defvjp(lambda half, x: (_rounded(half, x), None), lambda half, _, dy: (_rounded(half, dy),))
conv2d.defvjp(lambda *given: (conv2d(*given), given[2:]), _conv2d_backward)
conv_transpose2d.defvjp(lambda *given: (conv_transpose2d(*given), given[2:]), _conv_transpose2d_backward)
_normalize_by_batch.defvjp(_batch_norm_forward, _batch_norm_backward)
