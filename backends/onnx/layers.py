"""The parameter-free operations of `core.network.plan` that networks from the literature need, in ONNX.

Values are (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.onnx.graph import Graph
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
    unknown_operation,
)

LAYERS = (Activation, Add, Affine, AveragePool2D, GlobalMean, MaxPool2D, Multiply, Upsample)
"""What `layer` computes."""

Value = str
"""The name of one of the graph's values."""


def layer(graph: Graph, operation: Operation, xs: Sequence[Value]) -> Value:
    """The result of an operation, of its inputs in order."""
    x, name = xs[0], operation.output.name
    match operation:
        case Activation():
            return _activation(graph, operation, x)
        case Add():
            return graph.node("Add", *xs, name=name)
        case Multiply():
            return graph.node("Mul", *xs, name=name)
        case Affine():
            scale, shift = (
                graph.array(f"{name}/{what}", np.array(numbers, np.float32).reshape(-1, 1, 1))
                for what, numbers in (("scale", operation.scale), ("shift", operation.shift))
            )
            return graph.node("Add", graph.node("Mul", x, scale), shift, name=name)
        case MaxPool2D():
            return graph.node("MaxPool", x, name=name, **_windows(operation))
        case AveragePool2D():
            return graph.node("AveragePool", x, name=name, count_include_pad=0, **_windows(operation))
        case GlobalMean():
            return graph.node("GlobalAveragePool", x, name=name)
        case Upsample():
            return _upsample(graph, operation, x)
    raise unknown_operation(operation, "onnx")


def _activation(graph: Graph, operation: Activation, x: Value) -> Value:
    name = operation.output.name
    match operation.function:
        case "relu6":
            return graph.node("Clip", x, graph.number(0.0), graph.number(6.0), name=name)
        case "leaky_relu":
            return graph.node("LeakyRelu", x, name=name, alpha=operation.slope)
        case "elu":
            return graph.node("Elu", x, name=name)
        case "silu":
            return graph.node("Mul", x, graph.node("Sigmoid", x), name=name)
        case "sigmoid":
            return graph.node("Sigmoid", x, name=name)


def _windows(operation: MaxPool2D | AveragePool2D) -> dict[str, Any]:
    (top, bottom), (left, right) = operation.pads
    return {
        "kernel_shape": operation.kernel_size,
        "strides": (operation.stride,) * 2,
        "pads": (top, left, bottom, right),
    }


def _upsample(graph: Graph, operation: Upsample, x: Value) -> Value:
    nearest = operation.method == "nearest"
    factors = np.array((1, 1, operation.factor, operation.factor), np.float32)
    how = {"nearest_mode": "floor"} if nearest else {}
    return graph.node(
        "Resize",
        x,
        "",
        graph.array(f"{operation.output.name}/factors", factors),
        name=operation.output.name,
        mode="nearest" if nearest else "linear",
        coordinate_transformation_mode="asymmetric" if nearest else "half_pixel",
        **how,
    )
