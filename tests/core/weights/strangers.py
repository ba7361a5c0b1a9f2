"""Networks of other programs, with random weights: what their own code computes, and their files.

Each function runs in the process of its framework. It writes a file of weights, and returns the feature maps
of an image in float64: those of the stages that a decoder would join, smallest last. The weights are float32
numbers, so that nothing is rounded on the way; running statistics are as lively as kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = list[NDArray[np.float64]]
MEAN, STD = 0.5, 0.25  # of the input: exact in float32


def image(height: int, width: int) -> NDArray[np.float32]:
    """Return (1, height, width, 1) in [0, 1]."""
    return np.random.default_rng(height).random((1, height, width, 1), np.float32)


def _scaled(height: int, width: int) -> NDArray[np.float64]:
    """Return the image as the networks get it: (1, height, width, 3)."""
    return np.repeat((image(height, width).astype(np.float64) - MEAN) / STD, 3, axis=-1)


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return an array for a parameter, by the end of its name."""
    if len(shape) > 1:
        fan_in = np.prod(shape[1:]) if shape[-1] in (1, 3, 5, 7) and len(shape) == 4 else np.prod(shape[:-1])
        values = rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)
    elif name.endswith("var") or name.endswith("variance"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith(("gamma", "weight")):
        values = rng.uniform(0.6, 1.2, shape)
    else:
        values = 0.2 * rng.standard_normal(shape)
    return values.astype(np.float32).astype(np.float64)


def keras(implementation: object, kind: str, path: Path, height: int, width: int) -> Features:
    """Return the features of a network of `keras.applications`; `path` may be .h5, .weights.h5 or .keras."""
    del implementation
    import keras as framework

    framework.backend.set_floatx("float64")
    try:
        stages = {
            "ResNet50": (
                "conv1_relu",
                *(f"conv{n}_block{last}_out" for n, last in enumerate((3, 4, 6, 3), 2)),
            ),
            "MobileNetV2": (
                "expanded_conv_project_BN",
                *(f"block_{number}_add" for number in (2, 5, 12)),
                "out_relu",
            ),
        }[kind]
        build = getattr(framework.applications, kind)
        model = build(weights=None, include_top=False, input_shape=(height, width, 3))
        rng = np.random.default_rng(7)
        for layer in model.layers:
            layer.set_weights([_drawn(one.path, tuple(one.shape), rng) for one in layer.weights])
        model.save_weights(path) if path.name.endswith(".weights.h5") else model.save(path)
        outputs = [model.get_layer(name).output for name in stages]
        found = framework.Model(model.input, outputs)(_scaled(height, width), training=False)
        return [np.asarray(one, np.float64) for one in found]
    finally:
        framework.backend.set_floatx("float32")


def gluon(implementation: object, kind: str, path: Path, height: int, width: int) -> Features:
    """Return the features of a network of Gluon's model zoo."""
    del implementation
    import mxnet as mx
    from mxnet.gluon.model_zoo import vision

    network = getattr(vision, kind)()
    network.initialize()
    network.cast("float64")
    x = mx.nd.array(np.moveaxis(_scaled(height, width), -1, 1), dtype="float64")
    network.features(x)  # so that every shape is known
    network.output(mx.nd.zeros((1, 512, 14, 14), dtype="float64")) if kind == "squeezenet1_0" else None
    rng = np.random.default_rng(8)
    for name, parameter in network.collect_params().items():
        if not kind.startswith("squeezenet") and "dense" in name:
            parameter.shape = tuple(size or 512 for size in parameter.shape)
        parameter.set_data(mx.nd.array(_drawn(name, parameter.shape, rng), dtype="float64"))
    network.save_parameters(str(path))
    found: Features = []
    layers = list(network.features)
    ends = {"squeezenet1_0": (1, 5, 10, 12)}.get(kind, (2, 4, 5, 6, 7))
    for place, layer in enumerate(layers[: ends[-1] + 1]):
        x = layer(x)
        if place in ends:
            found.append(np.moveaxis(x.asnumpy(), 1, -1))
    return found


def torch(implementation: object, kind: str, path: Path, height: int, width: int) -> Features:
    """Return the features of a module of `torch_modules`."""
    del implementation
    import torch as framework
    from torch_modules import MODULES

    network = MODULES[kind]().double().eval()
    rng = np.random.default_rng(9)
    state = {
        name: framework.from_numpy(_drawn(name, tuple(one.shape), rng))
        if one.dtype.is_floating_point
        else one
        for name, one in network.state_dict().items()
    }
    network.load_state_dict(state)
    framework.save(
        {name: one.float() if one.is_floating_point() else one for name, one in state.items()}, path
    )
    return _torch_features(network, _scaled(height, width))


def lite0(implementation: object, weights: Path, height: int, width: int) -> Features:
    """Return the features of EfficientNet-lite0 with the real weights of a file."""
    del implementation
    import torch as framework
    from torch_modules import MODULES

    network = MODULES["efficientnet_lite0"]().double().eval()
    network.load_state_dict(framework.load(weights, weights_only=True))
    return _torch_features(network, _scaled(height, width))


def _torch_features(network: Any, x: NDArray[np.float64]) -> Features:
    import torch as framework

    with framework.no_grad():
        found = network.stages(framework.from_numpy(np.moveaxis(x, -1, 1).copy()))
    return [np.moveaxis(one.numpy(), 1, -1) for one in found]


STRANGERS: Mapping[str, tuple[str, Callable[..., Features], str]] = {
    "keras ResNet50": ("tf", keras, "ResNet50"),
    "keras MobileNetV2": ("tf", keras, "MobileNetV2"),
    "gluon resnet18_v1": ("mxnet", gluon, "resnet18_v1"),
    "gluon resnet34_v1": ("mxnet", gluon, "resnet34_v1"),
    "gluon resnet50_v1": ("mxnet", gluon, "resnet50_v1"),
    "gluon squeezenet1_0": ("mxnet", gluon, "squeezenet1_0"),
    "torch resnet34": ("torch", torch, "resnet34"),
    "torch se_resnext50": ("torch", torch, "se_resnext50"),
    "torch efficientnet_lite0": ("torch", torch, "efficientnet_lite0"),
}
"""Name -> the backend in whose process it runs, its function and its kind."""
