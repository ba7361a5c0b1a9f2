"""The primitive operations of `core.network.plan` in NumPy, forward and backward.

They are written from the definitions in `core.network.plan`, tap by tap, and share nothing with a framework.
The type of the arrays (float32 or float64) is the type of the arithmetic. Arrays are (N, H, W, C).
`<operation>_backward` takes the gradient of the result and returns those of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.network.plan import (
    AveragePool2D,
    BatchNorm,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    GroupedConv2D,
    MaxPool2D,
    Operation,
    Pads,
)

Floats = NDArray[np.floating[Any]]

Rounding = Callable[[Floats], Floats]
"""A function applied to each result: the identity, or a perturbation that shows the effect of rounding."""


def conv2d(operation: Conv2D, x: Floats, kernel: Floats) -> Floats:
    """Convolve: for each tap of the kernel, add the product of it and a strided view of the padded input."""
    out = operation.output
    padded = pad(x, operation.pads)
    y = np.zeros((len(x), out.height, out.width, out.channels), x.dtype)
    for taken, made in _groups(operation, x):
        for a, b, tap in taps(operation):
            y[..., made] += padded[tap][..., taken] @ kernel[a, b, :, made]
    return y


def conv2d_backward(operation: Conv2D, x: Floats, kernel: Floats, dy: Floats) -> tuple[Floats, Floats]:
    """Return the gradients of the input and of the kernel."""
    padded = pad(x, operation.pads)
    d_padded, d_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for taken, made in _groups(operation, x):
        d_made = dy[..., made]
        for a, b, tap in taps(operation):
            d_padded[tap][..., taken] += d_made @ kernel[a, b, :, made].T
            d_kernel[a, b, :, made] = np.tensordot(
                padded[tap][..., taken], d_made, axes=((0, 1, 2), (0, 1, 2))
            )
    return crop(d_padded, operation.pads, x.shape), d_kernel


def conv_transpose2d(operation: ConvTranspose2D, x: Floats, kernel: Floats) -> Floats:
    """Convolve transposed: add a multiple of the kernel for every input pixel, then crop."""
    out = operation.output
    full = np.zeros((len(x), *_full_size(operation), out.channels), x.dtype)
    for a, b, tap in taps(operation, x.shape):
        full[tap] += x @ kernel[a, b].T
    return crop(full, operation.crops, (len(x), out.height, out.width, out.channels))


def conv_transpose2d_backward(
    operation: ConvTranspose2D, x: Floats, kernel: Floats, dy: Floats
) -> tuple[Floats, Floats]:
    """Return the gradients of the input and of the kernel."""
    d_full = pad(dy, operation.crops)
    dx, d_kernel = np.zeros_like(x), np.zeros_like(kernel)
    for a, b, tap in taps(operation, x.shape):
        dx += d_full[tap] @ kernel[a, b]
        d_kernel[a, b] = np.tensordot(d_full[tap], x, axes=((0, 1, 2), (0, 1, 2)))
    return dx, d_kernel


def bias(_: Operation, x: Floats, b: Floats) -> Floats:
    """Add b to every pixel."""
    return x + b


def bias_backward(dy: Floats) -> tuple[Floats, Floats]:
    """Return the gradients of the input and of b."""
    return dy, _total(dy)


def relu(_: Operation, x: Floats) -> Floats:
    """Replace negative numbers by 0."""
    return np.maximum(x, 0)


def relu_backward(x: Floats, dy: Floats) -> Floats:
    """Return the gradient, with 0 where the input was 0 or negative."""
    return np.where(x > 0, dy, 0)


def batch_norm(
    operation: BatchNorm,
    x: Floats,
    gamma: Floats,
    beta: Floats,
    mean: Floats,
    variance: Floats,
    training: bool,
    rounded: Rounding,
) -> tuple[Floats, Floats, Floats]:
    """Return the normalised input, and the mean and variance that normalised it (the batch's in training).

    `rounded` is applied to the statistics of each channel, and then to the result.
    """
    if training:
        mean, variance = map(rounded, _moments(x))
    inverse = 1 / np.sqrt(variance + x.dtype.type(operation.epsilon))
    return rounded((x - mean) * (inverse * gamma) + beta), mean, variance


def batch_norm_backward(
    operation: BatchNorm, x: Floats, gamma: Floats, dy: Floats, rounded: Rounding
) -> tuple[Floats, Floats, Floats]:
    """Return the gradients of input, gamma and beta, through the batch's statistics too; see `batch_norm`."""
    pixels = x.dtype.type(x.size // x.shape[-1])  # a whole number beyond 2**16 would make float32 float64
    mean, variance = map(rounded, _moments(x))
    inverse = 1 / np.sqrt(variance + x.dtype.type(operation.epsilon))
    normalised = (x - mean) * inverse
    d_beta, d_gamma = rounded(_total(dy)), rounded(_total(dy * normalised))
    dx = gamma * inverse / pixels * (pixels * dy - d_beta - normalised * d_gamma)
    return rounded(dx), d_gamma, d_beta


def frozen_batch_norm_backward(
    operation: BatchNorm, gamma: Floats, variance: Floats, dy: Floats, rounded: Rounding
) -> Floats:
    """Return the gradient of the input where running statistics normalised; see `batch_norm`."""
    return rounded(dy * (gamma / np.sqrt(variance + dy.dtype.type(operation.epsilon))))


def dropout(operation: Dropout, x: Floats, keep: NDArray[np.uint8]) -> Floats:
    """Scale the elements to keep (1) up, and set the others (0) to 0. Backward is the same function of dy."""
    return x * keep.astype(x.dtype) * x.dtype.type(operation.scale)


def concat(_: Concat, xs: Sequence[Floats]) -> Floats:
    """Join along the channels."""
    return np.concatenate(xs, axis=-1)


def concat_backward(xs: Sequence[Floats], dy: Floats) -> list[Floats]:
    """Return each input's part of the gradient."""
    return np.split(dy, np.cumsum([x.shape[-1] for x in xs])[:-1], axis=-1)


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), without overflow."""
    e = np.exp(-np.abs(x))
    y: Floats = np.where(x >= 0, 1, e) / (1 + e)
    return y


def _groups(operation: Conv2D, x: Floats) -> Iterator[tuple[slice, slice]]:
    """Yield the channels in and out of each group of a convolution."""
    count = operation.groups if isinstance(operation, GroupedConv2D) else 1
    taken, made = x.shape[-1] // count, operation.output.channels // count
    for group in range(count):
        yield slice(group * taken, (group + 1) * taken), slice(group * made, (group + 1) * made)


def taps(
    operation: Conv2D | ConvTranspose2D | MaxPool2D | AveragePool2D, shape: tuple[int, ...] | None = None
) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """Yield each tap (a, b) of the kernel, and the strided window of the larger image that it meets."""
    height, width = shape[1:3] if shape is not None else (operation.output.height, operation.output.width)
    rows, columns = operation.kernel_size
    s, d = operation.stride, operation.dilation if isinstance(operation, GroupedConv2D) else 1
    for a in range(rows):
        for b in range(columns):
            yield (
                a,
                b,
                (
                    slice(None),
                    slice(a * d, a * d + (height - 1) * s + 1, s),
                    slice(b * d, b * d + (width - 1) * s + 1, s),
                ),
            )


def _full_size(operation: ConvTranspose2D) -> tuple[int, int]:
    (top, bottom), (left, right) = operation.crops
    return operation.output.height + top + bottom, operation.output.width + left + right


def pad(x: Floats, pads: tuple[Pads, Pads], value: float = 0.0) -> Floats:
    """Add pixels of one value at the sides; a negative number cuts off."""
    rows, columns = pads
    sides = ((0, 0), *((max(begin, 0), max(end, 0)) for begin, end in (rows, columns)), (0, 0))
    grown = np.pad(x, sides, constant_values=value)
    return grown[:, : grown.shape[1] + min(rows[1], 0), : grown.shape[2] + min(columns[1], 0)]


def crop(x: Floats, crops: tuple[Pads, Pads], shape: tuple[int, ...]) -> Floats:
    """Cut the sides off; append zeros if that leaves less than `shape`."""
    (top, _), (left, _) = crops
    cut = x[:, top : top + shape[1], left : left + shape[2]]
    missing = [(0, wanted - got) for wanted, got in zip(shape, cut.shape, strict=True)]
    return np.pad(cut, missing)


def _total(x: Floats) -> Floats:
    """Return the sum of each channel, added in float64: NumPy adds along the first axes one by one."""
    total: Floats = x.sum(axis=(0, 1, 2), dtype=np.float64).astype(x.dtype)
    return total


def _moments(x: Floats) -> tuple[Floats, Floats]:
    """Return mean and biased variance of each channel, added in float64."""
    mean: Floats = np.asarray(x.mean(axis=(0, 1, 2), dtype=np.float64), x.dtype)
    variance: Floats = np.asarray(x.var(axis=(0, 1, 2), dtype=np.float64), x.dtype)
    return mean, variance
