"""The primitive operations of `core.network.plan` as ONNX operators. Values are (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backends.onnx.framework import onnx
from backends.onnx.graph import Graph
from backends.onnx.layers import LAYERS
from core.base.rounding import Half
from core.network.plan import (
    BatchNorm,
    Bias,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Existence,
    GroupedConv2D,
    Plan,
    Relu,
    unknown_operation,
)

OPERATIONS = (
    *(BatchNorm, Bias, Concat, Conv2D, ConvTranspose2D, Dropout, Existence, GroupedConv2D, Relu),
    *LAYERS,
)
"""The operations that `forward` computes: all that may stand before the sigmoid."""

Value = str
"""The name of one of the graph's values."""


class Logits(NamedTuple):
    """The logits of the two heads.

    Attributes:
        masks: (N, 1, H, W).
        existence: (N, 1, 1, 1); None without the existence head.
    """

    masks: Value
    existence: Value | None


def conv2d(graph: Graph, operation: Conv2D, x: Value, kernel: Value, name: str) -> Value:
    """Convolve with explicit pads; the kernel is (out, in, kh, kw)."""
    (top, bottom), (left, right) = operation.pads
    grouped: dict[str, Any] = {}
    if isinstance(operation, GroupedConv2D):
        grouped = {"dilations": (operation.dilation,) * 2, "group": operation.groups}
    return graph.node(
        "Conv",
        x,
        kernel,
        name=name,
        kernel_shape=operation.kernel_size,
        strides=(operation.stride,) * 2,
        **grouped,
        pads=(top, left, bottom, right),
    )


def conv_transpose2d(graph: Graph, operation: ConvTranspose2D, x: Value, kernel: Value, name: str) -> Value:
    """Convolve transposed. The crops are ONNX's pads; pixels missing at an end are ONNX's output padding.

    The kernel is (in, out, kh, kw).
    """
    (top, bottom), (left, right) = operation.crops
    return graph.node(
        "ConvTranspose",
        x,
        kernel,
        name=name,
        kernel_shape=operation.kernel_size,
        strides=(operation.stride,) * 2,
        pads=(top, left, max(bottom, 0), max(right, 0)),
        output_padding=(max(-bottom, 0), max(-right, 0)),
    )


def bias(graph: Graph, operation: Bias, x: Value, b: Value) -> Value:
    """Add b to every pixel, if possible as the third input of the product, which has no other consumer."""
    product = graph.made_by(x)
    if product is not None and product.op_type in ("Conv", "ConvTranspose") and len(product.input) == 2:
        product.input.append(b)
        return x
    channels_first = graph.node("Reshape", b, graph.integers(-1, 1, 1))
    # The plan uses one name for the sum and for the parameter.
    return graph.node("Add", x, channels_first, name=f"{operation.output.name}/sum")


def relu(graph: Graph, operation: Relu, x: Value) -> Value:
    """Replace negative numbers by 0."""
    return graph.node("Relu", x, name=operation.output.name)


def batch_norm(
    graph: Graph, operation: BatchNorm, x: Value, gamma: Value, beta: Value, mean: Value, variance: Value
) -> Value:
    """Normalise by the running statistics."""
    name, epsilon = operation.output.name, operation.epsilon
    return graph.node("BatchNormalization", x, gamma, beta, mean, variance, name=name, epsilon=epsilon)


def concat(graph: Graph, operation: Concat, xs: Sequence[Value]) -> Value:
    """Join along the channels."""
    return graph.node("Concat", *xs, name=operation.output.name, axis=1)


def sigmoid(graph: Graph, x: Value, name: str) -> Value:
    """Return 1 / (1 + exp(-x))."""
    return graph.node("Sigmoid", x, name=name)


def forward(
    plan: Plan, graph: Graph, images: Value, arrays: Mapping[str, NDArray[Any]], half: Half | None
) -> Logits:
    """Return the logits of images (N, 1, H, W); `arrays` are in the neutral layouts.

    Operands and results of the two products are rounded to `half`, as `core.backend.training_rules` states.
    """
    values = {plan.input.name: images}

    def array(name: str) -> Value:
        host = arrays[name]
        return graph.array(name, host.transpose(3, 2, 0, 1) if host.ndim == 4 else host)

    def product(make: Callable[..., Value], op: Conv2D | ConvTranspose2D, x: Value) -> Value:
        if half is None:
            return make(graph, op, x, array(op.kernel), op.output.name)
        x, kernel = _rounded(graph, x, half), _rounded(graph, array(op.kernel), half)
        return _rounded(graph, make(graph, op, x, kernel, op.output.name), half)

    for op in plan.forward:
        x = values[op.input]
        match op:
            case Conv2D():
                y = product(conv2d, op, x)
            case ConvTranspose2D():
                y = product(conv_transpose2d, op, x)
            case Bias():
                y = bias(graph, op, x, array(op.bias))
            case Relu():
                y = relu(graph, op, x)
            case BatchNorm():
                names = (op.gamma, op.beta, op.moving_mean, op.moving_variance)
                if (divisor := _divisor(op, arrays)) is not None:
                    y = graph.node("Div", x, graph.array(f"{op.name}/divisor", divisor), name=op.output.name)
                else:
                    y = batch_norm(graph, op, x, *(array(name) for name in names))
            case Dropout():
                y = x
            case Concat():
                y = concat(graph, op, [values[name] for name in op.inputs])
            case _ if type(op) in LAYERS:
                y = LAYERS[type(op)](graph, op, *(values[name] for name in op.inputs))
            case _:
                raise unknown_operation(op, "onnx")
        values[op.output.name] = y
    return Logits(values[plan.logits], None if plan.existence_logit is None else values[plan.existence_logit])


def _divisor(op: BatchNorm, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """Return the divisor, (C, 1, 1), of a batch norm that only divides; None for any other.

    The division of grey values by the maximum pixel value (`core.prediction.exports`) is such a batch norm.
    As a division it is exact.
    """
    if (arrays[op.gamma] != 1).any() or arrays[op.beta].any() or arrays[op.moving_mean].any():
        return None
    variance = arrays[op.moving_variance].astype(np.float64)
    divisor: NDArray[Any] = np.sqrt(variance + op.epsilon).astype(np.float32).reshape(-1, 1, 1)
    return divisor


def _rounded(graph: Graph, x: Value, half: Half) -> Value:
    """Round to the nearest numbers of 16 bits, as float32."""
    narrow = graph.node("Cast", x, to=getattr(onnx.TensorProto, half.upper()))
    return graph.node("Cast", narrow, to=onnx.TensorProto.FLOAT)
