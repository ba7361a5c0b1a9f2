"""The parameter-free operations of `core.network.plan` that networks from the literature need, in PyTorch.

Arrays are (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
)

Tensor = Any
"""A `torch.Tensor`; mypy skips PyTorch's own types."""


def _activation(operation: Activation, x: Tensor) -> Tensor:
    """Apply the function to each element."""
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
    """Return the largest number of each window; the gradient goes to the first of equal ones."""
    padded = torch.nn.functional.pad(x, sides_of(operation.pads), value=-torch.inf)
    return torch.nn.functional.max_pool2d(padded, operation.kernel_size, operation.stride)


def _average_pool2d(operation: AveragePool2D, x: Tensor) -> Tensor:
    """Return the sum of each window's pixels divided by their number."""
    sides, kernel, stride = sides_of(operation.pads), operation.kernel_size, operation.stride
    pool, pad = torch.nn.functional.avg_pool2d, torch.nn.functional.pad
    total = pool(pad(x, sides), kernel, stride, divisor_override=1)
    count = pool(pad(torch.ones_like(x[:1, :1]), sides), kernel, stride, divisor_override=1)
    return total / count


def _global_mean(_: GlobalMean, x: Tensor) -> Tensor:
    """Return (N, C, 1, 1)."""
    return x.mean(dim=(2, 3), keepdim=True)


def _upsample(operation: Upsample, x: Tensor) -> Tensor:
    """Enlarge by a whole factor."""
    aligned = None if operation.method == "nearest" else False
    size = (operation.output.height, operation.output.width)
    return torch.nn.functional.interpolate(x, size=size, mode=operation.method, align_corners=aligned)


def sides_of(pads: tuple[Pads, Pads]) -> tuple[int, int, int, int]:
    """Return pads in PyTorch's order, the last axis first."""
    (top, bottom), (left, right) = pads
    return left, right, top, bottom


def per_channel(values: Tensor) -> Tensor:
    """Reshape one value for each channel, so that it can be added to an image or multiplied with it."""
    return values.reshape(1, -1, 1, 1)


LAYERS: Mapping[type[Operation], Callable[..., Tensor]] = {
    Activation: _activation,
    Add: lambda _, x, other: x + other,
    Affine: _affine,
    AveragePool2D: _average_pool2d,
    GlobalMean: _global_mean,
    MaxPool2D: _max_pool2d,
    Multiply: lambda _, x, scale: x * scale,
    Upsample: _upsample,
}
"""The function of each operation: of the operation and its inputs."""
