"""The parameter-free operations of `core.network.plan` that networks from the literature need, in JAX.

Arrays are (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from backends.jax.framework import jax
from core.network.padding import phases_of
from core.network.plan import (
    Activation,
    Add,
    Affine,
    AveragePool2D,
    GlobalMean,
    MaxPool2D,
    Multiply,
    Operation,
    Upsample,
)

jnp, lax = jax.numpy, jax.lax

Tensor = Any
"""A `jax.Array`, or what stands for one while a function is traced."""


def _activation(operation: Activation, x: Tensor) -> Tensor:
    match operation.function:
        case "relu6":
            return _relu6(x)
        case "leaky_relu":
            return jnp.where(x > 0, x, operation.slope * x)
        case "elu":
            # Where it is not taken it must not overflow: its gradient would be infinity times 0.
            return jnp.where(x > 0, x, jnp.expm1(jnp.where(x > 0, 0, x)))
        case "silu":
            return x * jax.nn.sigmoid(x)
        case "sigmoid":
            return jax.nn.sigmoid(x)


def _relu6(x: Tensor) -> Tensor:
    """Return min(max(x, 0), 6) with gradient 0 at both kinks, where `clip` has a half."""
    return jnp.where(x > 0, jnp.where(x < 6, x, 6), 0)


def _affine(operation: Affine, x: Tensor) -> Tensor:
    return x * jnp.array(operation.scale, x.dtype) + jnp.array(operation.shift, x.dtype)


def _max_pool2d(operation: MaxPool2D, x: Tensor) -> Tensor:
    """Return the largest number of each window; the gradient goes to the first of equal ones."""
    return _windows(operation, x, -jnp.inf, lax.max)


def _average_pool2d(operation: AveragePool2D, x: Tensor) -> Tensor:
    """Return the sum of each window's pixels divided by their number."""
    count = _windows(operation, jnp.ones((1, *x.shape[1:3], 1), x.dtype), 0.0, lax.add)
    return _windows(operation, x, 0.0, lax.add) / count


def _windows(operation: MaxPool2D | AveragePool2D, x: Tensor, start: float, reduce: Any) -> Tensor:
    kernel, strides = (1, *operation.kernel_size, 1), (1, operation.stride, operation.stride, 1)
    pads = ((0, 0), *operation.pads, (0, 0))
    return lax.reduce_window(x, np.array(start, x.dtype), reduce, kernel, strides, pads)


def _global_mean(_: GlobalMean, x: Tensor) -> Tensor:
    """Return (N, 1, 1, C); rows are added first, so that float32 keeps its digits."""
    return jnp.mean(jnp.mean(x, axis=2, keepdims=True), axis=1, keepdims=True)


def _upsample(operation: Upsample, x: Tensor) -> Tensor:
    if operation.method == "nearest":
        return jnp.repeat(jnp.repeat(x, operation.factor, axis=1), operation.factor, axis=2)
    return _stretched(_stretched(x, operation.factor, axis=1), operation.factor, axis=2)


def _stretched(x: Tensor, factor: int, axis: int) -> Tensor:
    """Interpolate linearly along one axis, one phase of the output at a time."""
    length = x.shape[axis]
    padded = jnp.pad(x, [(1, 1) if number == axis else (0, 0) for number in range(x.ndim)], mode="edge")
    phases = []
    for first, share in phases_of(factor):
        below = lax.slice_in_dim(padded, 1 + first, 1 + first + length, axis=axis)
        above = lax.slice_in_dim(padded, 2 + first, 2 + first + length, axis=axis)
        phases.append(below * (1 - share) + above * share)
    shape = [*x.shape]
    shape[axis] *= factor
    return jnp.stack(phases, axis=axis + 1).reshape(shape)


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
