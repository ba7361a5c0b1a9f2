"""Tests of the kernels that `backends.tf.cpu` chooses, against TensorFlow's own in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selected import BACKENDS

from core.backend.contract import Implementation
from core.backend.process import BackendProcess
from core.network.padding import same_pads
from core.tolerance.differences import difference

pytestmark = pytest.mark.skipif("tf" not in BACKENDS, reason="tf is deselected by PNEUMOSEG_BACKENDS")
Array = NDArray[Any]


@pytest.fixture(scope="module")
def tf() -> Iterator[BackendProcess]:
    with BackendProcess("tf") as process:
        yield process


def moments(_: Implementation, x: Array) -> list[Array]:
    from backends.tf import cpu

    return [found.numpy() for found in cpu.moments(cpu.tf.constant(x))]


def both_ways(_: Implementation, name: str, x: Array, parameter: Array, dy: Array) -> list[list[Array]]:
    """Return result and gradients of the chosen kernels, in float32, and of TensorFlow's own, in float64."""
    from backends.tf import cpu

    tf, given, made = cpu.tf, x.shape[1:3], dy.shape[1:3]

    def windows(large: tuple[int, ...], small: tuple[int, ...]) -> tuple[cpu.Windows, list[list[int]]]:
        taps, stride = parameter.shape[:2], -(-large[0] // small[0])
        pads = [same_pads(length, tap, stride)[1] for length, tap in zip(large, taps, strict=True)]
        return cpu.Windows(large, small, taps, stride, pads), [[0, 0], *map(list, pads), [0, 0]]

    def own(x: Any, w: Any) -> Any:
        if name.startswith("transposed"):
            _, pads = windows(made, given)
            return tf.nn.conv2d_transpose(x, w, dy.shape, made[0] // given[0], pads)
        _, pads = windows(given, made)
        return tf.nn.conv2d(x, w, -(-given[0] // made[0]), pads)

    ways = {
        "bias": (lambda x, b: cpu.bias(x, b, only_with_relu=False), tf.nn.bias_add),
        "bias with ReLU": (
            lambda x, b: tf.nn.relu(cpu.bias(x, b, only_with_relu=True)),
            lambda x, b: tf.nn.relu(x + b),
        ),
        "convolution": (lambda x, w: cpu.convolution(x, w, *windows(given, made)), own),
        "transposed": (
            lambda x, w: cpu.transposed_convolution(x, w, dy.shape, *windows(made, given)),
            own,
        ),
        "transposed to one channel": (
            lambda x, w: cpu.transposed_to_one_channel(x, w, windows(made, given)[0]),
            own,
        ),
    }
    found = []
    for way, dtype in zip(ways[name], (tf.float32, tf.float64), strict=True):
        inputs = [tf.constant(array, dtype) for array in (x, parameter)]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = way(*inputs)
        gradients = tape.gradient(y, inputs, output_gradients=tf.constant(dy, dtype))
        found.append([array.numpy() for array in (y, *gradients)])
    return found


@pytest.mark.parametrize(
    ("name", "parameter", "received", "given"),
    [
        ("bias", (5,), (3, 18, 14, 5), (3, 18, 14, 5)),
        ("bias with ReLU", (5,), (3, 18, 14, 5), (3, 18, 14, 5)),
        ("convolution", (1, 1, 5, 7), (3, 18, 14, 5), (3, 18, 14, 7)),
        ("convolution", (1, 1, 1, 3), (2, 60, 90, 1), (2, 60, 90, 3)),
        ("convolution", (3, 3, 5, 7), (3, 18, 14, 5), (3, 9, 7, 7)),
        ("convolution", (5, 4, 5, 7), (3, 17, 13, 5), (3, 9, 7, 7)),
        ("convolution", (3, 3, 16, 7), (2, 130, 132, 16), (2, 65, 66, 7)),  # unfolded in several parts
        ("convolution", (2, 2, 5, 7), (3, 18, 14, 5), (3, 9, 7, 7)),  # no window is across the border
        ("convolution", (5, 5, 3, 2), (2, 4, 2, 3), (2, 2, 1, 2)),  # all are
        ("transposed", (3, 3, 5, 7), (3, 9, 7, 7), (3, 18, 14, 5)),
        ("transposed", (5, 4, 5, 7), (3, 9, 7, 7), (3, 27, 21, 5)),
        ("transposed to one channel", (3, 3, 1, 6), (3, 9, 7, 6), (3, 18, 14, 1)),
        ("transposed to one channel", (2, 5, 1, 6), (3, 9, 7, 6), (3, 18, 14, 1)),
        ("transposed to one channel", (7, 3, 1, 6), (3, 4, 5, 6), (3, 12, 15, 1)),
        ("transposed to one channel", (7, 7, 1, 6), (3, 1, 2, 6), (3, 2, 4, 1)),  # taps that meet nothing
    ],
)
def test_the_chosen_kernels_compute_the_same(
    tf: BackendProcess,
    name: str,
    parameter: tuple[int, ...],
    received: tuple[int, ...],
    given: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(1)
    x, w, dy = rng.random(received) - 0.2, rng.standard_normal(parameter), rng.standard_normal(given)
    for found, expected in zip(*tf.call(both_ways, name, x, w, dy), strict=True):
        assert difference(found, expected) < 1e-6


@pytest.mark.parametrize("brightness", [0.0, 0.8, 100.0])  # a variance of squares loses nothing, some, all
@pytest.mark.parametrize("shape", [(5, 37, 23, 3), (4, 180, 210, 2), (2, 16, 96, 5), (1, 6, 4, 3)])
def test_the_moments_keep_their_digits(tf: BackendProcess, shape: tuple[int, ...], brightness: float) -> None:
    # Brightness grows down the image, so that the parts of the rows have different means.
    x = brightness + np.random.default_rng(2).exponential(0.2, shape)
    x += np.linspace(0, 1, shape[1])[:, None, None] * np.arange(1, shape[3] + 1)
    x = x.astype(np.float32)
    exact = x.astype(np.float64)
    mean, variance = tf.call(moments, x)
    assert difference(mean, exact.mean((0, 1, 2))) < 4e-7
    assert difference(variance, exact.var((0, 1, 2))) < 4e-7


def test_the_moments_of_channels_without_variance(tf: BackendProcess) -> None:
    x = np.zeros((2, 8, 6, 3), np.float32)
    x[..., 1] = 0.3
    x[..., 2] = np.random.default_rng(2).random((2, 8, 6))
    mean, variance = tf.call(moments, x)
    assert difference(mean, x.astype(np.float64).mean((0, 1, 2))) < 4e-7
    assert 0 <= variance[:2].min() <= variance[:2].max() < 1e-14
