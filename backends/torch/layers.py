"""The parameter-free operations of `core.network.plan` that networks from the literature need, in PyTorch.

Arrays are (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.torch.framework import torch
from core.network.plan import (
    Activation,
    Add,
    Affine,
    AveragePool2D,
    GlobalMean,
    MaxPool2D,
    Multiply,
    Operation,
    Pads,
    Upsample,
    unknown_operation,
)

LAYERS = (Activation, Add, Affine, AveragePool2D, GlobalMean, MaxPool2D, Multiply, Upsample)
"""What `layer` computes."""

Tensor = Any
"""A `torch.Tensor`; mypy skips PyTorch's own types."""


def layer(operation: Operation, xs: Sequence[Tensor]) -> Tensor:
    """The result of an operation, of its inputs in order."""
    x = xs[0]
    match operation:
        case Activation():
            return _activation(operation, x)
        case Add():
            return x + xs[1]
        case Multiply():
            return x * xs[1]
        case Affine():
            return _affine(operation, x)
        case MaxPool2D():
            return _max_pool2d(operation, x)
        case AveragePool2D():
            return _average_pool2d(operation, x)
        case GlobalMean():
            return _global_mean(x)
        case Upsample():
            return _upsample(operation, x)
    raise unknown_operation(operation, "torch")


def _activation(operation: Activation, x: Tensor) -> Tensor:
    """The function of each element."""
    match operation.function:
        case "relu6":
            return torch.nn.functional.relu6(x)
        case "leaky_relu":
            return torch.nn.functional.leaky_relu(x, operation.slope)
        case "elu":
            return torch.nn.functional.elu(x)
        case "silu":
            return torch.nn.functional.silu(x)
        case "sigmoid":
            return torch.sigmoid(x)


def _affine(operation: Affine, x: Tensor) -> Tensor:
    """Scale and shift each channel."""
    scale, shift = (
        torch.tensor(numbers, dtype=x.dtype, device=x.device)
        for numbers in (operation.scale, operation.shift)
    )
    return x * per_channel(scale) + per_channel(shift)


def _max_pool2d(operation: MaxPool2D, x: Tensor) -> Tensor:
    """The largest number of each window; the gradient goes to the first of equal ones."""
    padded = torch.nn.functional.pad(x, sides_of(operation.pads), value=-torch.inf)
    return torch.nn.functional.max_pool2d(padded, operation.kernel_size, operation.stride)


def _average_pool2d(operation: AveragePool2D, x: Tensor) -> Tensor:
    """The mean of each window's pixels that are in the image: its sum over their number."""
    sides, kernel, stride = sides_of(operation.pads), operation.kernel_size, operation.stride
    pool, pad = torch.nn.functional.avg_pool2d, torch.nn.functional.pad
    total = pool(pad(x, sides), kernel, stride, divisor_override=1)
    count = pool(pad(torch.ones_like(x[:1, :1]), sides), kernel, stride, divisor_override=1)
    return total / count


def _global_mean(x: Tensor) -> Tensor:
    """(N, C, 1, 1)."""
    return x.mean(dim=(2, 3), keepdim=True)


def _upsample(operation: Upsample, x: Tensor) -> Tensor:
    """Larger by a whole factor."""
    aligned = None if operation.method == "nearest" else False
    size = (operation.output.height, operation.output.width)
    return torch.nn.functional.interpolate(x, size=size, mode=operation.method, align_corners=aligned)


def sides_of(pads: tuple[Pads, Pads]) -> tuple[int, int, int, int]:
    """Pads in PyTorch's order, the last axis first."""
    (top, bottom), (left, right) = pads
    return left, right, top, bottom


def per_channel(values: Tensor) -> Tensor:
    """One value for each channel, to be added to or multiplied with an image."""
    return values.reshape(1, -1, 1, 1)
