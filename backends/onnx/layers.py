"""The parameter-free operations of `core.network.plan` that networks from the literature need, in ONNX.

Values are (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
)

Value = str
"""The name of one of the graph's values."""


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


def _add(graph: Graph, operation: Add, x: Value, other: Value) -> Value:
    return graph.node("Add", x, other, name=operation.output.name)


def _multiply(graph: Graph, operation: Multiply, x: Value, scale: Value) -> Value:
    return graph.node("Mul", x, scale, name=operation.output.name)


def _affine(graph: Graph, operation: Affine, x: Value) -> Value:
    name = operation.output.name
    scale, shift = (
        graph.array(f"{name}/{what}", np.array(numbers, np.float32).reshape(-1, 1, 1))
        for what, numbers in (("scale", operation.scale), ("shift", operation.shift))
    )
    return graph.node("Add", graph.node("Mul", x, scale), shift, name=name)


def _max_pool2d(graph: Graph, operation: MaxPool2D, x: Value) -> Value:
    return graph.node("MaxPool", x, name=operation.output.name, **_windows(operation))


def _average_pool2d(graph: Graph, operation: AveragePool2D, x: Value) -> Value:
    """Return the mean of each window's pixels that are in the image."""
    name = operation.output.name
    return graph.node("AveragePool", x, name=name, count_include_pad=0, **_windows(operation))


def _global_mean(graph: Graph, operation: GlobalMean, x: Value) -> Value:
    return graph.node("GlobalAveragePool", x, name=operation.output.name)


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


LAYERS: Mapping[type[Operation], Callable[..., Value]] = {
    Activation: _activation,
    Add: _add,
    Affine: _affine,
    AveragePool2D: _average_pool2d,
    GlobalMean: _global_mean,
    MaxPool2D: _max_pool2d,
    Multiply: _multiply,
    Upsample: _upsample,
}
"""The function of each operation: of the graph, the operation and its inputs."""
