"""Each primitive operation of `core.network.plan` in JAX. Arrays are (N, H, W, C)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from backends.jax.framework import jax
from core.network.plan import (
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
    unknown_operation,
)

jnp, lax = jax.numpy, jax.lax

OPERATIONS = (BatchNorm, Bias, Concat, Conv2D, ConvTranspose2D, Dropout, Relu)
"""What `forward` computes: all that may stand before the sigmoid."""

Tensor = Any
"""A `jax.Array`, or what stands for one while a function is traced."""

Operands = tuple[Tensor, Tensor]
"""The image and the kernel of a product, or their gradients."""

Sides = tuple[Pads, Pads]
"""Of height and width."""

Size = tuple[int, int]
"""Height and width."""


class Way(NamedTuple):
    """How products are computed.

    Attributes:
        correlate: `Conv2D` of an image and a kernel, by stride and pads.
        spread: `ConvTranspose2D` of an image and a kernel, by stride and crops, to a size.
        on_cpu: Whether they are computed there.
    """

    correlate: Callable[[Tensor, Tensor, int, Sides], Tensor]
    spread: Callable[[Tensor, Tensor, int, Sides, Size], Tensor]
    on_cpu: bool


Product = Callable[[Any, Way, Tensor, Tensor], Tensor]
"""One of the two convolutions, of its operation, the image and the kernel, by some way."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def conv2d(operation: Conv2D, way: Way, x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution with explicit pads."""
    return way.correlate(x, kernel, operation.stride, operation.pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def conv_transpose2d(operation: ConvTranspose2D, way: Way, x: Tensor, kernel: Tensor) -> Tensor:
    """The gradient of the convolution whose pads are the crops."""
    out = operation.output
    return way.spread(x, kernel, operation.stride, operation.crops, (out.height, out.width))


def in_bfloat16(product: Product, on_cpu: bool) -> Product:
    """The product of precision "mixed_bfloat16". Gradients are rounded as values are.

    `core.backend.training_rules` states the rounding.

    `reduce_precision` does it, since XLA takes a cast to bfloat16 and back for nothing and leaves it out.
    """

    def rounded(operation: Any, way: Way, x: Tensor, kernel: Tensor) -> Tensor:
        x, kernel = _to_bfloat16(x), _to_bfloat16(kernel)
        if not on_cpu:  # which computes in float32 in any case
            x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
        return _to_bfloat16(product(operation, way, x, kernel).astype(jnp.float32))

    return rounded


def bias(_: Operation, x: Tensor, b: Tensor) -> Tensor:
    """Add b to every pixel."""
    return (_columns(x) + _tiled(b, x)).reshape(x.shape)


def relu(_: Operation, x: Tensor) -> Tensor:
    """Negative numbers become 0."""
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
    """The normalised input, and the mean and biased variance that normalised it."""
    if training:
        found: tuple[Tensor, Tensor, Tensor] = _batch_norm_by_own(operation.epsilon, x, gamma, beta)
        return found
    return _normalised(operation.epsilon, x, gamma, beta, mean, variance), mean, variance


def dropout(operation: Dropout, x: Tensor, keep: Tensor) -> Tensor:
    """Elements to keep, scaled up; the others 0."""
    return x * keep.astype(x.dtype) * operation.scale


def concat(_: Concat, xs: Sequence[Tensor]) -> Tensor:
    """Join along the channels."""
    return jnp.concatenate(xs, axis=-1)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


def forward(
    plan: Plan,
    images: Tensor,
    arrays: Mapping[str, Tensor],
    keep: Mapping[str, Tensor] | None,
    on_cpu: bool,
    mixed: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits and, with `keep` as in training, the batch's statistics by the running ones' names."""
    values = {plan.input.name: images}
    statistics: dict[str, Tensor] = {}
    way = _way(on_cpu, images.dtype)
    convolve, transpose = (
        in_bfloat16(product, on_cpu) if mixed else product for product in (conv2d, conv_transpose2d)
    )
    for op in plan.operations[:-1]:
        x = values[op.input]
        match op:
            case Conv2D():
                y = convolve(op, way, x, arrays[op.kernel])
            case ConvTranspose2D():
                y = transpose(op, way, x, arrays[op.kernel])
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
                    training=keep is not None,
                )
            case Dropout():
                y = x if keep is None else dropout(op, x, keep[op.name])
            case Concat():
                y = concat(op, [values[name] for name in op.inputs])
            case _:
                raise unknown_operation(op, "jax")
        values[op.output.name] = y
    return values[plan.logits], statistics


def _way(on_cpu: bool, dtype: Any) -> Way:
    """The quickest one."""
    if not on_cpu:
        return Way(_correlate, _spread_by_zeros, on_cpu)
    if dtype == jnp.float64:  # XLA has no library for it there, and compiles a slow loop
        return Way(_correlate_by_taps, _spread_by_taps, on_cpu)
    return Way(_correlate, _spread_by_phases, on_cpu)


def _correlate(x: Tensor, kernel: Tensor, stride: int, pads: Sides) -> Tensor:
    """`Conv2D` as XLA has it."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_LAYOUT)


def _correlate_by_taps(x: Tensor, kernel: Tensor, stride: int, pads: Sides) -> Tensor:
    """The same as one matrix product, of the kernel and what each of its taps meets."""
    met = jnp.concatenate(_met(x, kernel.shape[:2], stride, pads), axis=-1)
    return met @ kernel.reshape(-1, kernel.shape[3])


def _met(x: Tensor, taps: Size, stride: int, pads: Sides) -> list[Tensor]:
    """What each of a kernel's taps meets at each pixel of the result."""
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*side, 0) for side in pads), (0, 0, 0)))
    (rows, columns), (count, height, width, channels) = taps, padded.shape
    # Indices with two strides would make a `gather`, which the CPU takes several times as long for.
    return [
        lax.slice(
            padded,
            (0, row, column, 0),
            (count, height - rows + row + 1, width - columns + column + 1, channels),
            (1, stride, stride, 1),
        )
        for row in range(rows)
        for column in range(columns)
    ]


def _spread_by_zeros(x: Tensor, kernel: Tensor, stride: int, crops: Sides, size: Size) -> Tensor:
    """`ConvTranspose2D` as a convolution over the image with zeros put between its pixels."""
    pads = [
        (taps - 1 - begin, out + begin - 1 - stride * (pixels - 1))
        for taps, (begin, _), pixels, out in zip(kernel.shape, crops, x.shape[1:3], size, strict=False)
    ]
    return lax.conv_general_dilated(
        x, _turned(kernel), (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=_LAYOUT
    )


def _spread_by_phases(x: Tensor, kernel: Tensor, stride: int, crops: Sides, size: Size) -> Tensor:
    """The same as a convolution to each of the stride**2 phases of the output, then cut to `size`.

    On the CPU in float32 it takes half to a quarter of the time: XLA's library for convolutions there
    multiplies by all those zeros.
    """
    count, height, width, _ = x.shape
    # A kernel smaller than the stride leaves phases without a tap: they are given one of 0.
    missing = [(0, max(stride - taps, 0)) for taps in kernel.shape[:2]]
    turned = _turned(jnp.pad(kernel, (*missing, (0, 0), (0, 0))))
    (top, _), (left, _) = crops
    rows = []
    for row in range(stride):
        taps_down, pads_down = _phase(turned.shape[0], stride, row + top)
        columns = []
        for column in range(stride):
            taps_right, pads_right = _phase(turned.shape[1], stride, column + left)
            taps = turned[taps_down, taps_right]
            columns.append(_correlate(x, taps, 1, (pads_down, pads_right)))
        rows.append(jnp.stack(columns, axis=3))
    y = jnp.stack(rows, axis=2)  # (N, h, row, w, column, C)
    y = y.reshape(count, height * stride, width * stride, kernel.shape[2])
    return y[:, : size[0], : size[1]]


def _spread_by_taps(x: Tensor, kernel: Tensor, stride: int, crops: Sides, size: Size) -> Tensor:
    """The same as the adjoint of `_correlate_by_taps`, which is linear in its image."""
    image = jax.ShapeDtypeStruct((x.shape[0], *size, kernel.shape[2]), x.dtype)
    (found,) = jax.linear_transpose(lambda y: _correlate_by_taps(y, kernel, stride, crops), image)(x)
    return found


def _turned(kernel: Tensor) -> Tensor:
    """By half a turn, and (kh, kw, in, out)."""
    return jnp.swapaxes(kernel[::-1, ::-1], 2, 3)


def _phase(size: int, stride: int, place: int) -> tuple[slice, Pads]:
    """Along one axis, which taps of the turned kernel meet every stride-th pixel, and the pads they want.

    Output pixel stride*u + phase meets input pixel u + d by tap place - stride*d, where place = phase +
    the crop at the beginning.
    """
    last = size - 1 - (size - 1 - place) % stride  # the largest tap, that of the lowest d
    lowest, count = (place - last) // stride, last // stride + 1
    return slice(size - 1 - last, None, stride), (-lowest, lowest + count - 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _batch_norm_by_own(
    epsilon: float, x: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """By the input's own mean and variance. These go to the running ones, so no gradient comes by them.

    The gradient is written out: what JAX derives has twice the sums, each some kernels to compile. With it
    the default network takes XLA a quarter longer.
    """
    columns = _columns(x)
    mean = _mean(x, columns)
    variance = _mean(x, jnp.square(columns - _tiled(mean, x)))
    return _normalised(epsilon, x, gamma, beta, mean, variance), mean, variance


def _normalised(
    epsilon: float, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    scale = gamma * lax.rsqrt(variance + epsilon)
    y = (_columns(x) - _tiled(mean, x)) * _tiled(scale, x) + _tiled(beta, x)
    return y.reshape(x.shape)


def _columns(x: Tensor) -> Tensor:
    """(N * H, W * C): sums over columns are quick, and in two levels, so that float32 keeps its digits."""
    count, height, width, channels = x.shape
    return x.reshape(count * height, width * channels)


def _tiled(values: Tensor, x: Tensor) -> Tensor:
    """One value for each channel of x, repeated for each of `_columns`."""
    return jnp.tile(values, x.shape[2])


def _sums(x: Tensor, *columns: Tensor) -> Tensor:
    """Of each channel of things made of the `_columns` of x: (things, channels)."""
    sums = jnp.stack([jnp.sum(one, axis=0) for one in columns])
    return jnp.sum(sums.reshape(len(columns), *x.shape[2:]), axis=1)


def _mean(x: Tensor, columns: Tensor) -> Tensor:
    """Of each channel likewise."""
    return _sums(x, columns)[0] / (x.size // x.shape[-1])


def _to_bfloat16(x: Tensor) -> Tensor:
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _conv2d_backward(operation: Conv2D, way: Way, operands: Operands, dy: Tensor) -> Operands:
    x, kernel = operands
    dx = way.spread(dy, kernel, operation.stride, operation.pads, x.shape[1:3])
    return dx, _to_kernel(way, x, dy, kernel, operation.stride, operation.pads)


def _conv_transpose2d_backward(
    operation: ConvTranspose2D, way: Way, operands: Operands, dy: Tensor
) -> Operands:
    x, kernel = operands
    dx = way.correlate(dy, kernel, operation.stride, operation.crops)
    return dx, _to_kernel(way, dy, x, kernel, operation.stride, operation.crops)


def _to_kernel(way: Way, x: Tensor, dy: Tensor, kernel: Tensor, stride: int, pads: Sides) -> Tensor:
    """The gradient of `correlate` with respect to the kernel, which it is linear in.

    The CPU has two ways of its own, where XLA's libraries add what comes to a number one by one:

    - A kernel of one tap with one channel in or out is a vector: sums in float64.
    - An image of one channel, as the first block's and the gradient of the output: a product for each row,
      of what the taps meet, and the sum of these. XLA's convolution is 1e-5 off with 300,000 pixels (JAX
      0.12), and takes twice as long. Rows, and not whole images: their shape is that of `_columns`, and what
      comes before is fused without an index to divide.
    """
    if way.on_cpu and kernel.shape[:2] == (1, 1) and 1 in kernel.shape[2:]:
        met = x[:, ::stride, ::stride][:, : dy.shape[1], : dy.shape[2]]
        found = jnp.sum(met * dy, axis=(0, 1, 2), dtype=jnp.float64)
        return found.astype(kernel.dtype).reshape(kernel.shape)
    channels, filters = kernel.shape[2:]
    if way.on_cpu and channels == 1 < filters:
        met = jnp.stack([one[..., 0] for one in _met(x, kernel.shape[:2], stride, pads)], axis=2)
        met, dy = met.reshape(-1, *met.shape[2:]), dy.reshape(-1, *dy.shape[2:])
        return jnp.sum(jnp.einsum("rtw,rwf->rtf", met, dy), axis=0).reshape(kernel.shape)
    (found,) = jax.linear_transpose(lambda k: way.correlate(x, k, stride, pads), kernel)(dy)
    return found


def _batch_norm_forward(
    epsilon: float, x: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    y, mean, variance = _batch_norm_by_own(epsilon, x, gamma, beta)
    return (y, mean, variance), (x, gamma, mean, variance)


def _batch_norm_backward(
    epsilon: float, kept: tuple[Tensor, ...], slopes: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """The chain rule of Ioffe and Szegedy (2015, section 3), its terms brought together.

    With n pixels a channel, sigma = sqrt(variance + epsilon) and d = (x - mean) / sigma:
        dx = gamma / sigma * (dy - sum(dy) / n - d * sum(dy * d) / n)
    """
    x, gamma, mean, variance = kept
    dy = _columns(slopes[0])
    centred, inverse = _columns(x) - _tiled(mean, x), lax.rsqrt(variance + epsilon)
    d_beta, d_gamma = _sums(x, dy, dy * centred)
    d_gamma *= inverse
    pixels = x.size // x.shape[-1]
    along = centred * _tiled(inverse * d_gamma / pixels, x)
    dx = _tiled(gamma * inverse, x) * (dy - _tiled(d_beta / pixels, x) - along)
    return dx.reshape(x.shape), d_gamma, d_beta


conv2d.defvjp(lambda *given: (conv2d(*given), given[2:]), _conv2d_backward)
conv_transpose2d.defvjp(lambda *given: (conv_transpose2d(*given), given[2:]), _conv_transpose2d_backward)
_batch_norm_by_own.defvjp(_batch_norm_forward, _batch_norm_backward)
