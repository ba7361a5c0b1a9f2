"""Each primitive operation of `core.plan` in PyTorch. Arrays are (N, C, H, W) inside, in memory too.

Kernels are (out, in, kh, kw) for convolutions and (in, out, kh, kw) for transposed ones: in both cases
`transpose(3, 2, 0, 1)` of the neutral layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backends.torch.framework import torch
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

Tensor = Any
"""A `torch.Tensor`; mypy skips PyTorch's own types, which take it a minute."""


def conv2d(operation: Conv2D, x: Tensor, kernel: Tensor) -> Tensor:
    """Convolution, whose own padding is symmetric: what one side has more is added beforehand."""
    padding, (rows, columns) = _symmetric(operation.pads)
    padded = _grown(x, rows, columns)
    return torch.nn.functional.conv2d(padded, kernel, None, operation.stride, padding)


def conv_transpose2d(operation: ConvTranspose2D, x: Tensor, kernel: Tensor) -> Tensor:
    """Transposed convolution, whose own crops are symmetric: what one side has more is cut afterwards."""
    padding, ((top, bottom), (left, right)) = _symmetric(operation.crops)
    y = torch.nn.functional.conv_transpose2d(x, kernel, None, operation.stride, padding)
    return _grown(y, (-top, -bottom), (-left, -right))


def bias(_: Operation, x: Tensor, b: Tensor) -> Tensor:
    """Add b to every pixel."""
    return x + b.reshape(1, -1, 1, 1)


def relu(_: Operation, x: Tensor) -> Tensor:
    """Negative numbers become 0."""
    return torch.relu(x)


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
    if training:  # with momentum 1 the "running" arrays become the batch's
        mean, variance = torch.zeros_like(mean), torch.zeros_like(variance)
    momentum = 1.0 if training else 0.0
    y = torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, training, momentum, operation.epsilon)
    return y, mean, _biased(variance, x.numel() // x.shape[1]) if training else variance


def dropout(operation: Dropout, x: Tensor, keep: Tensor) -> Tensor:
    """Elements to keep, scaled up; the others 0."""
    return x * keep.to(x.dtype) * operation.scale


def concat(_: Concat, xs: Sequence[Tensor]) -> Tensor:
    """Join along the channels."""
    return torch.cat(list(xs), dim=1)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


def forward(
    plan: Plan,
    images: Tensor,
    arrays: Mapping[str, Tensor],
    keep: Mapping[str, Tensor] | None,
    mixed: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits and, with `keep` as in training, the batch's statistics by the running ones' names."""
    values = {plan.input.name: images}
    statistics: dict[str, Tensor] = {}
    for op in plan.operations[:-1]:
        x = values[op.input]
        match op:
            case Conv2D():
                y = _product(conv2d, op, x, arrays[op.kernel], mixed)
            case ConvTranspose2D():
                y = _product(conv_transpose2d, op, x, arrays[op.kernel], mixed)
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
                raise NotImplementedError(f"torch has no {type(op).__name__}")
        values[op.output.name] = y
    return values[plan.logits], statistics


def _symmetric(sides: tuple[Pads, Pads]) -> tuple[tuple[int, int], tuple[Pads, Pads]]:
    """Pixels at both sides of height and width, and what is left at each."""
    (top, bottom), (left, right) = sides
    y, x = max(min(top, bottom), 0), max(min(left, right), 0)
    return (y, x), ((top - y, bottom - y), (left - x, right - x))


def _grown(x: Tensor, rows: Pads, columns: Pads) -> Tensor:
    """Zeros added at each side; negative numbers cut off."""
    return torch.nn.functional.pad(x, (*columns, *rows)) if any((*rows, *columns)) else x


def _product(product: Callable[..., Tensor], op: Operation, x: Tensor, kernel: Tensor, mixed: bool) -> Tensor:
    """A convolution of either kind; `mixed` takes operands, result and gradients as bfloat16."""
    if not mixed:
        return product(op, x, kernel)
    if x.is_cuda:
        return product(op, x.bfloat16(), kernel.bfloat16()).float()
    # On a CPU without bfloat16 of its own the kernels add up in bfloat16, 8 bits. Here the numbers are
    # rounded and the sums float32, backward too: the gradient of a change of type is one.
    return _rounded(product(op, _rounded(x), _rounded(kernel)))


def _rounded(x: Tensor) -> Tensor:
    """To bfloat16 and back; and the gradient likewise."""
    return x.bfloat16().float()


def _biased(variance: Tensor, count: int) -> Tensor:
    """The framework's running average takes the Bessel-corrected variance; NaN, for a single pixel."""
    return variance * ((count - 1) / count) if count > 1 else torch.zeros_like(variance)
