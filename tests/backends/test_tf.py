"""The kernels that TensorFlow's training on a CPU chooses by hand, against its own in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selected import BACKENDS

from core.comparison import difference
from core.contract import Implementation
from core.isolation import Isolated

pytestmark = pytest.mark.skipif("tf" not in BACKENDS, reason="tf is deselected by PNEUMOSEG_BACKENDS")
Array = NDArray[Any]


@pytest.fixture(scope="module")
def tf() -> Iterator[Isolated]:
    with Isolated("tf") as process:
        yield process


def moments(_: Implementation, x: Array) -> list[Array]:
    from backends.tf import cpu

    return [found.numpy() for found in cpu.moments(cpu.tf.constant(x))]


def both_ways(_: Implementation, name: str, x: Array, parameter: Array, dy: Array) -> list[list[Array]]:
    """Result and gradients of what is chosen by hand, in float32, and of TensorFlow's own, in float64."""
    from backends.tf import cpu

    tf = cpu.tf
    shape = dy.shape
    pads = [[0, 0], [0, 1], [0, 1], [0, 0]]
    ways = {
        "bias": (cpu.bias, tf.nn.bias_add),
        "pointwise": (cpu.pointwise, lambda x, w: tf.nn.conv2d(x, w, 1, "SAME")),
        "transposed to one channel": (
            lambda x, w: cpu.transposed_to_one_channel(x, w, shape, 2, pads),
            lambda x, w: tf.nn.conv2d_transpose(x, w, shape, 2, "SAME"),
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
        ("pointwise", (1, 1, 5, 7), (3, 18, 14, 5), (3, 18, 14, 7)),
        ("pointwise", (1, 1, 1, 3), (2, 60, 90, 1), (2, 60, 90, 3)),
        ("transposed to one channel", (3, 3, 1, 6), (3, 9, 7, 6), (3, 18, 14, 1)),
    ],
)
def test_the_chosen_kernels_compute_the_same(
    tf: Isolated, name: str, parameter: tuple[int, ...], received: tuple[int, ...], given: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(1)
    x, w, dy = rng.random(received) - 0.2, rng.standard_normal(parameter), rng.standard_normal(given)
    for found, expected in zip(*tf.call(both_ways, name, x, w, dy), strict=True):
        assert difference(found, expected) < 1e-6


@pytest.mark.parametrize("shape", [(5, 37, 23, 3), (4, 180, 210, 2), (2, 16, 96, 5), (1, 6, 4, 3)])
def test_the_moments_keep_their_digits(tf: Isolated, shape: tuple[int, ...]) -> None:
    # Bright, and a gradient down the image: the parts into which it is cut have means of their own.
    x = 0.8 + 0.2 * np.random.default_rng(2).random(shape)
    x += np.linspace(0, 1, shape[1])[:, None, None] * np.arange(1, shape[3] + 1)
    x = x.astype(np.float32)
    exact = x.astype(np.float64)
    mean, variance = tf.call(moments, x)
    assert difference(mean, exact.mean((0, 1, 2))) < 4e-7
    assert difference(variance, exact.var((0, 1, 2))) < 4e-7
