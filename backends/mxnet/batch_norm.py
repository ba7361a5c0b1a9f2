"""Batch norm as MXNet symbols, and `scale_and_shift`, which uses its kernel for another purpose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.mxnet.framework import attribute, mx
from backends.mxnet.gradients import Result, Symbol, gradient
from backends.mxnet.sums import (
    batch_mean,
    batch_sum,
    image_sums,
    image_sums_by_rows,
    plain_layout,
    to_float32,
)
from core.backend.kernel_switches import Switch
from core.network.plan import BatchNorm, Operation

_ZEROS, _NEARLY_ONES = "constant/zeros/", "constant/nearly_ones/"  # then the operation, the type and the size
_EPSILON = 2.0**-10  # added to "nearly one", it gives exactly 1

MANY_PIXELS = Switch("a batch norm's gradient has exact sums", "pixels of an image", 1025)
"""MXNet's own gradient takes a quarter of the time, and its sums are off by 3e-6 below this size. With 2,048
pixels they exceed the error budget where a gradient nearly cancels, such as that of the bias before."""


def batch_norm_of_training(
    operation: BatchNorm, x: Symbol, gamma: Symbol, beta: Symbol, dtype: str, exact_sums: bool
) -> tuple[Result, Symbol, Symbol]:
    """Return the input normalised by the batch's mean and biased variance, and these."""
    if exact_sums:
        return _with_exact_sums(operation, x, gamma, beta)
    return _with_mxnets_sums(operation, x, gamma, beta, dtype)


def batch_norm_of_prediction(
    operation: BatchNorm, x: Symbol, gamma: Symbol, beta: Symbol, mean: Symbol, variance: Symbol
) -> Symbol:
    """Return the input normalised by a given mean and variance."""
    return mx.sym.BatchNorm(x, gamma, beta, mean, variance, **_settings(operation))


def frozen_batch_norm(
    operation: BatchNorm,
    x: Symbol,
    gamma: Symbol,
    beta: Symbol,
    mean: Symbol,
    variance: Symbol,
    dtype: str,
) -> Result:
    """Return the input normalised in training by a given mean and variance, which are constants."""
    settings = {**_settings(operation), "use_global_stats": "True"}
    y = mx.sym.BatchNorm(x, gamma, beta, mean, variance, **settings)

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        scale = gamma / mx.sym.sqrt(variance + operation.epsilon)
        if dtype == "float64":
            return (mx.sym.broadcast_mul(dy, mx.sym.reshape(scale, shape=(1, -1, 1, 1))),)
        name = f"{operation.name}/of_gradient"
        return (scale_and_shift(name, operation, dy, scale, mx.sym.zeros_like(scale)),)

    return Result(y, pullback)


def scale_and_shift(name: str, operation: Operation, x: Symbol, scale: Symbol, shift: Symbol) -> Symbol:
    """Multiply every channel by its scale and add its shift: a batch norm with mean 0 and variance 1."""
    return mx.sym.BatchNorm(
        x,
        scale,
        shift,
        *_fixed_statistics(name, operation, "float32"),
        eps=_EPSILON,
        use_global_stats=True,
        fix_gamma=False,
    )


def constants(names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the values of the inputs of a symbol that are constants; other names are ignored."""
    values = {_ZEROS: 0.0, _NEARLY_ONES: 1 - _EPSILON}
    found = {}
    for name in names:
        for prefix, value in values.items():
            if name.startswith(prefix):
                *_, dtype, count = name.split("/")
                found[name] = np.full(int(count), value, dtype)
    return found


def _with_mxnets_sums(
    operation: BatchNorm, x: Symbol, gamma: Symbol, beta: Symbol, dtype: str
) -> tuple[Result, Symbol, Symbol]:
    """Batch norm by MXNet's kernel and its gradient."""
    # MXNet's running statistics are not used: it writes them in backward, and nothing can wait for that.
    inputs = x, gamma, beta, *_fixed_statistics(f"{operation.name}/unused", operation, dtype)
    y, mean, inverse = made = mx.sym.BatchNorm(*inputs, output_mean_var=True, **_settings(operation))
    variance = mx.sym.relu(1 / mx.sym.square(inverse) - operation.epsilon)
    return Result(y, lambda dy: gradient("BatchNorm", made, dy, mean, inverse, *inputs)[:3]), mean, variance


def _with_exact_sums(
    operation: BatchNorm, x: Symbol, gamma: Symbol, beta: Symbol
) -> tuple[Result, Symbol, Symbol]:
    """Batch norm in float32 with a mean and a variance as good as float64's.

    MXNet's kernel adds pixel by pixel: with 100,000 pixels statistics are off by 1e-5, and so is all that
    follows. Here they are computed from float64 arrays of sums over few pixels.
    """
    name, out = operation.name, operation.output
    mean = to_float32(batch_mean(operation, image_sums(operation, x)))
    centred = scale_and_shift(f"{name}/centred", operation, x, mx.sym.ones_like(gamma), -mean)
    pixels = plain_layout(centred)
    variance = batch_mean(operation, image_sums_by_rows(operation, mx.sym.square(pixels)))
    inverse = to_float32(mx.sym.rsqrt(variance + operation.epsilon))
    scale = gamma * inverse
    y = scale_and_shift(name, operation, centred, scale, beta)

    def mxnets_own(dy: Symbol) -> tuple[Symbol, ...]:
        unused = _fixed_statistics(f"{name}/unused", operation, "float32")
        inputs = dy, mean, inverse, x, gamma, beta, *unused
        return gradient("BatchNorm", y, *inputs, use_global_stats="False")[:3]

    def with_exact_sums(dy: Symbol) -> tuple[Symbol, ...]:
        """Return dx = scale * dy + b * x + c, and the gradients of gamma and beta."""
        sums = image_sums(operation, dy)
        slopes = image_sums_by_rows(operation, plain_layout(dy) * pixels)
        b = -scale * mx.sym.square(inverse) * to_float32(batch_mean(operation, slopes))
        c = -scale * to_float32(batch_mean(operation, sums)) - b * mean
        of_dy = scale_and_shift(f"{name}/of_gradient", operation, dy, scale, c)
        of_x = scale_and_shift(f"{name}/of_input", operation, x, b, mx.sym.zeros_like(b))
        dx = mx.sym.elemwise_add(of_dy, of_x)
        return dx, inverse * to_float32(batch_sum(slopes)), to_float32(batch_sum(sums))

    exact = MANY_PIXELS.reached(out.height * out.width)
    return Result(y, with_exact_sums if exact else mxnets_own), mean, to_float32(variance)


def _settings(operation: BatchNorm) -> dict[str, str]:
    """Return the attributes of MXNet's batch norm."""
    return {
        "eps": attribute(operation.epsilon),
        "momentum": "0.0",  # of MXNet's running average; the model computes its own
        "fix_gamma": "False",  # by default gamma is held at 1
        "use_global_stats": "False",
    }


def _fixed_statistics(name: str, operation: Operation, dtype: str) -> tuple[Symbol, Symbol]:
    """Return a mean of 0 and a variance of nearly 1. Each call makes new ones: MXNet may write to them."""
    zeros, nearly_ones = (
        mx.sym.Variable(f"{prefix}{name}/{dtype}/{operation.output.channels}")
        for prefix in (_ZEROS, _NEARLY_ONES)
    )
    return zeros, nearly_ones
