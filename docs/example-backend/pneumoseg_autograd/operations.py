"""The primitive operations of `core.network.plan` in autograd's NumPy. Arrays are (N, H, W, C).

Only the forward pass is written here; autograd derives the backward pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import autograd.numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from core.base.rounding import Narrow, to_narrow
from core.network.plan import (
    BatchNorm,
    Bias,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Plan,
    Relu,
    unknown_operation,
)

OPERATIONS = (BatchNorm, Bias, Concat, Conv2D, ConvTranspose2D, Dropout, Relu)
"""The operations that `forward` computes: all that may come before the sigmoid."""

Array = Any
"""A NumPy array, or autograd's box around one."""


def conv2d(operation: Conv2D, x: Array, kernel: Array) -> Array:
    """Convolve: add one strided window of the padded input for each tap of the kernel."""
    x = np.pad(x, ((0, 0), *operation.pads, (0, 0)), mode="constant")
    return _taps(operation, x, kernel, operation.stride, first=lambda a, b: (a, b))


def conv_transpose2d(operation: ConvTranspose2D, x: Array, kernel: Array) -> Array:
    """Convolve transposed: place the input's pixels `stride` apart, then convolve with stride 1."""
    s, out = operation.stride, operation.output
    (height, width), (taps_y, taps_x) = x.shape[1:3], operation.kernel_size
    (top, _), (left, _) = operation.crops
    x = np.pad(np.reshape(x, (-1, height, 1, width, 1, x.shape[3])), _apart(s), mode="constant")
    x = np.reshape(x, (-1, height * s, width * s, x.shape[5]))
    below, right = max(top + out.height - height * s, 0), max(left + out.width - width * s, 0)
    x = np.pad(x, ((0, 0), (taps_y - 1, below), (taps_x - 1, right), (0, 0)), mode="constant")
    turned = np.swapaxes(kernel, 2, 3)
    return _taps(operation, x, turned, 1, lambda a, b: (taps_y - 1 - a + top, taps_x - 1 - b + left))


def batch_norm(
    operation: BatchNorm, x: Array, arrays: Mapping[str, Array], training: bool
) -> tuple[Array, Array, Array]:
    """Return the normalised input, and the mean and biased variance used for it."""
    mean, variance = arrays[operation.moving_mean], arrays[operation.moving_variance]
    if training:
        mean = _mean(x)
        variance = _mean((x - mean) ** 2)
    scale = arrays[operation.gamma] / np.sqrt(variance + operation.epsilon)
    return (x - mean) * scale + arrays[operation.beta], mean, variance


@primitive  # type: ignore[untyped-decorator]
def operand(x: Array, narrow: Narrow) -> Array:
    """Round an operand of a product; its gradient too if it has 16 bits."""
    return to_narrow(x, narrow)


@primitive  # type: ignore[untyped-decorator]
def result(y: Array, narrow: Narrow) -> Array:
    """Round the result of a product if it has 16 bits; its gradient in any case."""
    return y if narrow == "tf32" else to_narrow(y, narrow)


def _given(dx: Array, narrow: Narrow) -> Array:
    return dx if narrow == "tf32" else to_narrow(dx, narrow)


defvjp(operand, lambda _y, _x, narrow: lambda dx: _given(dx, narrow), argnums=(0,))
defvjp(result, lambda _y, _x, narrow: lambda dy: to_narrow(dy, narrow), argnums=(0,))


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), computed as exp(-softplus(-x)) so that small results are accurate."""
    return np.exp(-softplus(-x))


def softplus(x: Array) -> Array:
    """Return log(1 + exp(x)); its slope at 0 is 1/2."""
    return np.logaddexp(x * 0, x)


def forward(
    plan: Plan,
    images: Array,
    arrays: Mapping[str, Array],
    keep: Mapping[str, Array] | None,
    by_batch: Collection[str],
    narrow: Narrow | None,
) -> tuple[Array, dict[str, Array]]:
    """Return the logits, and the batch's statistics of the batch norms in `by_batch`.

    The statistics have the names of the running ones. In training there is `keep`.
    """
    values = {plan.input.name: images}
    statistics: dict[str, Array] = {}

    def product(compute: Any, op: Any, x: Array) -> Array:
        kernel = arrays[op.kernel]
        if narrow is None:
            return compute(op, x, kernel)
        return result(compute(op, operand(x, narrow), operand(kernel, narrow)), narrow)

    for op in plan.operations[:-1]:
        x = values[op.input]
        match op:
            case Conv2D():
                y = product(conv2d, op, x)
            case ConvTranspose2D():
                y = product(conv_transpose2d, op, x)
            case Bias():
                y = x + arrays[op.bias]
            case Relu():
                y = np.where(x > 0, x, 0 * x)
            case BatchNorm():
                y, mean, variance = batch_norm(op, x, arrays, training=op.name in by_batch)
                if op.name in by_batch:
                    statistics |= {op.moving_mean: getval(mean), op.moving_variance: getval(variance)}
            case Dropout():
                y = x if keep is None else x * (keep[op.name] * x.dtype.type(op.scale))
            case Concat():
                y = np.concatenate([values[name] for name in op.inputs], axis=-1)
            case _:
                raise unknown_operation(op, "autograd")
        values[op.output.name] = y
    return values[plan.logits], statistics


def _taps(operation: Conv2D | ConvTranspose2D, x: Array, kernel: Array, stride: int, first: Any) -> Array:
    """Sum, over all taps (a, b), the window that begins at pixel `first(a, b)` times the tap."""
    out, y = operation.output, 0.0
    for a in range(operation.kernel_size[0]):
        for b in range(operation.kernel_size[1]):
            i, j = first(a, b)
            rows = slice(i, i + (out.height - 1) * stride + 1, stride)
            columns = slice(j, j + (out.width - 1) * stride + 1, stride)
            y = y + np.matmul(x[:, rows, columns], kernel[a, b])
    return y


def _mean(x: Array) -> Array:
    """Return the mean of each channel in two stages, because NumPy adds one by one along these axes."""
    return np.mean(np.mean(x, axis=(0, 1)), axis=0)


def _apart(stride: int) -> tuple[tuple[int, int], ...]:
    """Return pads of (N, H, 1, W, 1, C) that put stride - 1 zeros after every pixel."""
    return (0, 0), (0, 0), (0, stride - 1), (0, 0), (0, stride - 1), (0, 0)
