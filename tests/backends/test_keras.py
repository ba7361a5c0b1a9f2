"""Tests against Keras: its SAME, its batch normalisation, its Adam, and a network written by hand.

Only `tf` is compared. Parity extends the result to every other backend.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selected import BACKENDS

from backends.reference import operations
from core.backend.contract import Implementation
from core.backend.process import BackendProcess
from core.backend.state import initial_state
from core.backend.training_rules import step_scalars
from core.experiment.configuration import load_configuration
from core.network.lowering import lower
from core.network.padding import same_crops, same_pads
from core.network.plan import Conv2D, ConvTranspose2D, Tensor

pytestmark = pytest.mark.skipif("tf" not in BACKENDS, reason="tf is deselected by PNEUMOSEG_BACKENDS")
Arrays = list[NDArray[Any]]


@pytest.fixture(scope="module")
def tf() -> Iterator[BackendProcess]:
    with BackendProcess("tf") as process:
        yield process


def same_convolutions(_: Implementation, x: Arrays, k: Arrays, strides: list[int], up: bool) -> Arrays:
    import tensorflow as tf

    results = []
    for image, kernel, stride in zip(x, k, strides, strict=True):
        if up:
            shape = (len(image), image.shape[1] * stride, image.shape[2] * stride, kernel.shape[2])
            results.append(tf.nn.conv2d_transpose(image, kernel, shape, stride, "SAME").numpy())
        else:
            results.append(tf.nn.conv2d(image, kernel, stride, "SAME").numpy())
    return results


@pytest.mark.parametrize("up", [False, True], ids=["convolution", "transposed"])
def test_same_is_tensorflows_same_at_every_size(tf: BackendProcess, up: bool) -> None:
    rng = np.random.default_rng(0)
    # TensorFlow refuses a transposed convolution whose kernel is smaller than the stride.
    cases = [
        ((height, width), kernel, stride)
        for height, width in ((5, 8), (6, 7), (9, 4), (1, 3))
        for kernel in range(1, 8)
        for stride in range(1, 5)
        if kernel >= stride or not up
    ]
    x = [rng.normal(size=(2, *size, 3)) for size, _, _ in cases]
    k = [rng.normal(size=(kernel, kernel, 2, 3) if up else (kernel, kernel, 3, 2)) for _, kernel, _ in cases]
    theirs = tf.call(same_convolutions, x, k, [stride for _, _, stride in cases], up)
    for ((height, width), kernel, stride), image, weights, expected in zip(cases, x, k, theirs, strict=True):
        rule = same_crops if up else same_pads
        (rows, row_pads), (columns, column_pads) = (rule(size, kernel, stride) for size in (height, width))
        kind = ConvTranspose2D if up else Conv2D
        output = Tensor("y", rows, columns, 2)
        operation = kind("y", ("x",), output, "k", (kernel, kernel), stride, (row_pads, column_pads))
        apply: Any = operations.conv_transpose2d if up else operations.conv2d
        np.testing.assert_allclose(apply(operation, image, weights), expected, rtol=1e-12, atol=1e-12)


def hand_written(
    _: Implementation,
    frozen: list[str],
    state: dict[str, NDArray[Any]],
    batches: list[Arrays],
    images: NDArray[Any],
) -> tuple[list[float], dict[str, NDArray[Any]], NDArray[Any]]:
    """Train the default network with Keras's own layers and Adam, and a loss in plain TensorFlow."""
    import keras
    import tensorflow as tf

    keras.backend.set_floatx("float64")
    layers, inputs = keras.layers, keras.Input((32, 48, 1))
    x = inputs
    trained: dict[str, Any] = {}
    for name, kind, filters in (
        ("conv1", layers.Conv2D, 4), ("conv2", layers.Conv2D, 6), ("conv3", layers.Conv2D, 5),
        ("bottleneck", None, 5), ("up1", layers.Conv2DTranspose, 3), ("up2", layers.Conv2DTranspose, 4),
    ):  # fmt: skip
        convolution = kind(filters, 3, 2, "same") if kind else layers.Conv2D(filters, 1)
        normalise = layers.BatchNormalization(
            momentum=float(np.float32(0.99)), epsilon=float(np.float32(1e-3))
        )
        convolution.trainable = normalise.trainable = name not in frozen
        x = normalise(layers.ReLU()(convolution(x)))
        parts = ("kernel", "bias"), ("gamma", "beta", "moving_mean", "moving_variance")
        for layer, names in zip((convolution, normalise), parts, strict=True):
            trained |= {f"{name}/{part}": getattr(layer, part) for part in names}
    last = layers.Conv2DTranspose(1, 3, 2, "same")
    logits = last(x)
    trained |= {"mask/kernel": last.kernel, "mask/bias": last.bias}
    model = keras.Model(inputs, logits)
    for name, variable in trained.items():
        variable.assign(state[name])
    adam = keras.optimizers.Adam(
        1e-2, beta_1=float(np.float32(0.9)), beta_2=float(np.float32(0.999)), epsilon=float(np.float32(1e-7))
    )
    losses = []
    for x, z in batches:
        with tf.GradientTape() as tape:
            raw = model(x, training=True)
            p = tf.sigmoid(raw)
            bce = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(z, raw))
            overlap = 2 * tf.reduce_sum(p * z) + 1
            loss = bce + 1 - overlap / (tf.reduce_sum(p) + tf.reduce_sum(z) + 1)
        variables = model.trainable_variables
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        losses.append(float(loss))
    after = {name: np.asarray(variable) for name, variable in trained.items()}
    return losses, after, tf.sigmoid(model(images, training=False)).numpy()


def ours(
    implementation: Implementation,
    overrides: list[str],
    state: dict[str, NDArray[Any]],
    batches: list[Arrays],
    images: NDArray[Any],
) -> tuple[list[float], dict[str, NDArray[Any]], NDArray[Any]]:
    configuration = load_configuration(Path("configs/fcn.yaml"), overrides)
    plan, rules = lower(configuration.network, 32, 48), configuration.training.rules()
    model = implementation.compile(plan, rules, "cpu", "float64")
    model.load_state(state)
    losses = [
        float(model.train_step(x, z.astype(np.uint8), step_scalars(rules, step, 1e-2)))
        for step, (x, z) in enumerate(batches, start=1)
    ]
    return losses, model.state(), model.predict(images)


@pytest.mark.parametrize("frozen", [[], ["conv1", "bottleneck"]], ids=["whole", "frozen"])
def test_training_follows_a_network_written_by_hand_in_keras(tf: BackendProcess, frozen: list[str]) -> None:
    filters = {0: 4, 1: 6, 2: 5, 4: 3, 5: 4}
    overrides = [f"network.blocks.{block}.filters={count}" for block, count in filters.items()]
    overrides.append(f"training.freeze={json.dumps(frozen)}")
    configuration = load_configuration(Path("configs/fcn.yaml"), overrides)
    plan = lower(configuration.network, 32, 48)
    state: dict[str, NDArray[Any]] = dict(initial_state(plan, configuration.training.rules(), 5))
    rng = np.random.default_rng(6)
    batches = [
        [rng.random((size, 32, 48, 1)), (rng.random((size, 32, 48, 1)) < 0.2).astype(np.float64)]
        for size in (3, 3, 2, 3, 1, 3)
    ]
    images = rng.random((2, 32, 48, 1))
    losses, after, predicted = tf.call(ours, overrides, state, batches, images)
    by_hand, expected, expected_prediction = tf.call(hand_written, frozen, state, batches, images)
    np.testing.assert_allclose(losses, by_hand, rtol=1e-7)  # Adam's step size is float32 with us
    for name, array in expected.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-5, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(predicted, expected_prediction, rtol=1e-6)
