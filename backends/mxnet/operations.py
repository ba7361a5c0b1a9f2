"""The primitive operations of `core.network.plan` as MXNet symbols, and the network of them.

Convolutions are in `backends.mxnet.convolutions`, batch norm is in `backends.mxnet.batch_norm`.

Arrays are (N, C, H, W) inside. Kernels are (out, in, kh, kw) for convolutions and (in, out, kh, kw) for
transposed ones: in both cases `transpose(3, 2, 0, 1)` of the neutral layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from backends.mxnet import convolutions
from backends.mxnet.batch_norm import batch_norm_of_prediction, batch_norm_of_training, frozen_batch_norm
from backends.mxnet.framework import mx
from backends.mxnet.gradients import Result, Symbol, gradient, identity
from backends.mxnet.layers import LAYERS, max_pool2d_of_cpu
from backends.mxnet.sums import plain_layout
from core.backend.outputs import Outputs
from core.backend.trained_part import TrainedPart
from core.base.rounding import Narrow
from core.network.plan import (
    BatchNorm,
    Bias,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Existence,
    GroupedConv2D,
    MaxPool2D,
    Plan,
    Relu,
    unknown_operation,
)

OPERATIONS = (
    *(BatchNorm, Bias, Concat, Conv2D, ConvTranspose2D, Dropout, Existence, GroupedConv2D, Relu),
    *LAYERS,
)
"""The operations that `forward` computes: all that may stand before the sigmoid."""


def relu(_: Relu, x: Symbol) -> Result:
    """Replace negative numbers by 0."""
    y = mx.sym.Activation(x, act_type="relu")  # unlike `relu` it accepts oneDNN's layout
    return Result(y, lambda dy: gradient("Activation", y, dy, y))


def dropout(operation: Dropout, x: Symbol, keep: Symbol) -> Result:
    """Scale the elements to keep (1) up, and set the others (0) to 0."""
    return Result(x * keep * operation.scale, lambda dy: (dy * keep * operation.scale,))


def concat(_: Concat, xs: Sequence[Symbol], channels: Sequence[int]) -> Result:
    """Join along the channels."""
    ends = list(itertools.accumulate(channels))
    parts = list(zip([0, *ends], ends, strict=False))

    def pullback(dy: Symbol) -> tuple[Symbol, ...]:
        # In oneDNN's layout a slice is slower, and within a block of channels MXNet ends by a division by 0.
        dy = plain_layout(dy)
        return tuple(mx.sym.slice_axis(dy, axis=1, begin=begin, end=end) for begin, end in parts)

    return Result(mx.sym.concat(*xs, dim=1), pullback)


def sigmoid(x: Symbol) -> Symbol:
    """Return 1 / (1 + exp(-x))."""
    return mx.sym.Activation(x, act_type="sigmoid")


def probabilities(logits: Outputs) -> Outputs:
    """Return 1 / (1 + exp(-x)) of the logits of both heads."""
    return logits.mapped(sigmoid)


def forward(
    plan: Plan,
    trained: TrainedPart,
    images: Symbol,
    arrays: Mapping[str, Symbol],
    keep: Mapping[str, Symbol] | None,
    dtype: str,
    on_cpu: bool,
    narrow: Narrow | None,
) -> tuple[Outputs, dict[str, Symbol], Callable[[Outputs], dict[str, Symbol]]]:
    """Return the logits, the batch's statistics, and the function from the logits' gradient to all others.

    Args:
        plan: What to compute.
        trained: What is trained of it.
        images: (N, C, H, W).
        arrays: Parameters and running statistics, by their names.
        keep: Dropout masks by the operation's name; None for a prediction.
        dtype: Of all arrays.
        on_cpu: Whether this is for the CPU. There batch norm of float32 arrays adds as float64 does in
            training; a GPU's own kernel adds well enough, and is slow in float64. And a max pool is MXNet's.
        narrow: The type that operands of products are rounded to; None for no rounding.

    Returns:
        The logits; in training, the batch's statistics by the running ones' names, else none; and a function
        that takes the gradient of the logits and returns those of the trained parameters, by their names.
    """
    exact_sums = on_cpu and dtype == "float32"
    values, tape = {plan.input.name: images}, []
    statistics: dict[str, Symbol] = {}
    tensors = {tensor.name: tensor for tensor in (plan.input, *(op.output for op in plan.operations))}
    biases = {op.input: op.bias for op in plan.operations if isinstance(op, Bias)}
    for op in plan.forward:
        x, input_tensor = values[op.input], tensors[op.input]
        names: tuple[str, ...] = ()
        match op:
            # The convolution adds the bias that follows it, which is much faster than a separate addition.
            case Conv2D() | ConvTranspose2D():
                names = (op.kernel, biases[op.name]) if op.name in biases else (op.kernel,)
                kernel, b = (*(arrays[name] for name in names), None)[:2]
                if narrow is not None:
                    made = convolutions.rounded(op, input_tensor, x, kernel, b, narrow)
                elif isinstance(op, Conv2D):
                    made = convolutions.conv2d(op, input_tensor, x, kernel, b, dtype)
                elif op.input not in trained.tensors or not convolutions.SEVERAL_CHANNELS.reached(
                    op.output.channels
                ):
                    # Deconvolution with one filter fails in backward from 16 input channels on: "could not
                    # create a primitive descriptor for a reorder primitive". And with its kernel's gradient
                    # it computes that of its input, which is not needed for images.
                    made = convolutions.conv_transpose2d_by_phases(op, x, kernel, b, dtype)
                else:
                    made = convolutions.conv_transpose2d(op, input_tensor, x, kernel, b, dtype)
            case Bias():
                made = identity(x)
            case Relu():
                made = relu(op, x)
            case BatchNorm():
                names = op.gamma, op.beta
                gamma, beta = (arrays[name] for name in names)
                running = op.moving_mean, op.moving_variance
                mean, variance = (arrays[name] for name in running)
                if keep is None:
                    made = identity(batch_norm_of_prediction(op, x, gamma, beta, mean, variance))
                elif op.name not in trained.by_batch:
                    made = frozen_batch_norm(op, x, gamma, beta, mean, variance, dtype)
                else:
                    made, *found = batch_norm_of_training(op, x, gamma, beta, dtype, exact_sums)
                    statistics.update(zip(running, found, strict=True))
            case Dropout():
                made = identity(x) if keep is None else dropout(op, x, keep[op.name])
            case Concat():
                made = concat(
                    op, [values[name] for name in op.inputs], [tensors[name].channels for name in op.inputs]
                )
            case MaxPool2D() if on_cpu:
                made = max_pool2d_of_cpu(op, input_tensor, x)
            case _ if type(op) in LAYERS:
                inputs = (values[name] for name in op.inputs)
                made = LAYERS[type(op)](op, input_tensor, dtype, *inputs)
            case _:
                raise unknown_operation(op, "mxnet")
        values[op.output.name] = made.value
        tape.append((op, names, made.pullback))

    def pullback(d_logits: Outputs) -> dict[str, Symbol]:
        parts: dict[str, list[Symbol]] = {plan.logits: [d_logits.masks]}
        if plan.existence_logit is not None:
            parts[plan.existence_logit] = [d_logits.existence]
        gradients: dict[str, Symbol] = {}
        for op, names, pullback_one in reversed(tape):
            found = parts.pop(op.output.name, [])
            if op.output.name not in trained.tensors:
                continue
            results = pullback_one(_sum_of_gradients(found))
            for name, result in zip(op.inputs, results, strict=False):
                parts.setdefault(name, []).append(result)
            gradients.update(zip(names, results[len(op.inputs) :], strict=False))
        return {name: found for name, found in gradients.items() if name in trained.groups}

    return Outputs.of(plan, values), statistics, pullback


def _sum_of_gradients(parts: Sequence[Symbol]) -> Symbol:
    """Sum the gradients from all consumers of a tensor, in the plain layout.

    Those from `concat` come first and are plain already. A sum of arrays in different layouts is slower.
    """
    *joined, last = parts
    return mx.sym.add_n(*joined, plain_layout(last)) if joined else last
