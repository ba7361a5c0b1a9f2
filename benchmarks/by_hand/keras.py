"""Training with Keras 3 on TensorFlow by `compile` and `fit`, as most people would write it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from paired_timings import Turn

from by_hand.batches import LEARNING_RATE, batches
from by_hand.networks import NETWORKS

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf

MOST_STEPS = 100_000  # of an epoch; the turns end it


class Layers:
    """Keras's layers."""

    def conv(self, x: Any, filters: int, stride: int = 1, kernel: int = 3) -> Any:
        return self._finish(keras.layers.Conv2D(filters, kernel, stride, "same", activation="relu")(x))

    def up(self, x: Any, filters: int) -> Any:
        return self._finish(keras.layers.Conv2DTranspose(filters, 3, 2, "same", activation="relu")(x))

    def head(self, x: Any, stride: int) -> Any:
        layer = keras.layers.Conv2DTranspose(1, 3, 2, "same") if stride == 2 else keras.layers.Conv2D(1, 1)
        return layer(x)

    def concat(self, x: Any, skip: Any) -> Any:
        return keras.layers.Concatenate()([x, skip])

    def _finish(self, x: Any) -> Any:
        return keras.layers.BatchNormalization()(x)


def loss(masks: Any, logits: Any) -> Any:
    """Return BCE and soft Dice of logits."""
    p = tf.sigmoid(logits)
    bce = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(masks, logits))
    overlap = 2 * tf.reduce_sum(p * masks) + 1
    return bce + 1 - overlap / (tf.reduce_sum(p) + tf.reduce_sum(masks) + 1)


class Gate(keras.callbacks.Callback):
    """Callback that reports each step of `fit` to the turn; `fit` has already waited for the loss."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self._turn = turn

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._turn.step_done(lambda: None)


def train(
    turn: Turn, network: str, batch_size: int, size: int, device: str, precision: str = "float32"
) -> None:
    """Train until there are no more turns."""
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    keras.mixed_precision.set_global_policy("float32" if precision == "tf32" else precision)
    with tf.device("/CPU:0" if device == "cpu" else "/GPU:0"):
        inputs = keras.Input((size, size, 1))
        logits = keras.layers.Activation("linear", dtype="float32")(NETWORKS[network](Layers(), inputs))
        model = keras.Model(inputs, logits)
        model.compile(keras.optimizers.Adam(LEARNING_RATE), loss)
        images, masks = (np.concatenate(arrays) for arrays in zip(*batches(batch_size, size), strict=True))
        data = tf.data.Dataset.from_tensor_slices((images, masks))
        data = data.shuffle(len(images)).batch(batch_size).repeat().prefetch(tf.data.AUTOTUNE)
        turn.ready(version=f"{keras.__version__} on TensorFlow {tf.__version__}")
        model.fit(data, steps_per_epoch=MOST_STEPS, verbose=0, callbacks=[Gate(turn)])
