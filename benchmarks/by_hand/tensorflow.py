"""Training loop in TensorFlow without Keras: each step is one `tf.function`."""

from __future__ import annotations

import itertools
import os
from typing import Any

from paired_timings import Turn

from by_hand.batches import LEARNING_RATE, LOSS_SCALE, batches
from by_hand.networks import NETWORKS, Scale, Unit

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf


class Layers:
    """Variables, made by the first pass through the network and used in the same order by the next."""

    def __init__(self, network: str, dtype: Any = tf.float32) -> None:
        self._network, self._dtype = network, dtype
        self._made: list[tf.Variable] = []
        self._next = 0

    def __call__(self, images: Any) -> Any:
        self._next = 0
        return tf.cast(NETWORKS[self._network](self, tf.cast(images, self._dtype)), tf.float32)

    @property
    def trained(self) -> list[tf.Variable]:
        return [variable for variable in self._made if variable.trainable]

    def conv(self, x: Any, filters: int, stride: int = 1, kernel: int = 3) -> Any:
        w = self._kernel((kernel, kernel, x.shape[-1], filters), kernel * kernel * x.shape[-1])
        return self._finish(tf.nn.conv2d(x, w, stride, "SAME"), filters)

    def up(self, x: Any, filters: int) -> Any:
        return self._finish(self._transposed(x, filters), filters)

    def head(self, x: Any, stride: int, kernel: int = 1) -> Any:
        if stride == 2:
            y = self._transposed(x, 1)
        else:
            w = self._kernel((kernel, kernel, x.shape[-1], 1), kernel * kernel * x.shape[-1])
            y = tf.nn.conv2d(x, w, 1, "SAME")
        return tf.nn.bias_add(y, tf.cast(self._variable(tf.zeros([1])), self._dtype))

    def concat(self, x: Any, skip: Any) -> Any:
        return tf.concat([x, skip], -1)

    def three(self, x: Any, scale: Scale) -> Any:
        return (x - tf.constant(scale.mean, x.dtype)) / tf.constant(scale.std, x.dtype)

    def unit(self, x: Any, unit: Unit) -> Any:
        channels, stride, padding = x.shape[-1], unit.stride, "SAME"
        if unit.padding == "symmetric" and unit.kernel > 1 < stride:  # as Keras' networks pad
            x = tf.pad(x, [[0, 0], *([*unit.pads(length)] for length in x.shape[1:3]), [0, 0]])
            padding = "VALID"
        area, filters = unit.kernel**2, unit.filters
        if unit.depthwise:
            w = self._kernel((unit.kernel, unit.kernel, channels, 1), area)
            y = tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], padding)
        else:
            w = self._kernel((unit.kernel, unit.kernel, channels, filters), area * channels)
            y = tf.nn.conv2d(x, w, stride, padding)
        y = self._normalise(y, filters, unit.epsilon, unit.momentum)
        activation = {"relu": tf.nn.relu, "relu6": tf.nn.relu6, "none": tf.identity}
        return activation[unit.activation](y)

    def pool(self, x: Any) -> Any:
        # The numbers are those behind a ReLU, so zeros are as good as minus infinity.
        return tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")

    def add(self, x: Any, y: Any, *, relu: bool) -> Any:
        return tf.nn.relu(x + y) if relu else x + y

    def nearest(self, x: Any) -> Any:
        return tf.raw_ops.ResizeNearestNeighbor(images=x, size=[2 * x.shape[1], 2 * x.shape[2]])

    def _transposed(self, x: Any, filters: int) -> Any:
        w = self._kernel((3, 3, filters, x.shape[-1]), 9 * x.shape[-1])
        shape = tf.stack([tf.shape(x)[0], 2 * x.shape[1], 2 * x.shape[2], filters])
        return tf.nn.conv2d_transpose(x, w, shape, 2, "SAME")

    def _finish(self, y: Any, filters: int) -> Any:
        y = tf.nn.relu(tf.nn.bias_add(y, tf.cast(self._variable(tf.zeros([filters])), self._dtype)))
        return self._normalise(y, filters, 1e-3, 0.99)

    def _normalise(self, y: Any, filters: int, epsilon: float, momentum: float) -> Any:
        gamma, beta = self._variable(tf.ones([filters])), self._variable(tf.zeros([filters]))
        mean = self._variable(tf.zeros([filters]), trainable=False)
        variance = self._variable(tf.ones([filters]), trainable=False)
        y, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(y, gamma, beta, epsilon=epsilon)
        mean.assign(momentum * mean + (1 - momentum) * batch_mean)
        variance.assign(momentum * variance + (1 - momentum) * batch_variance)
        return y

    def _kernel(self, shape: tuple[int, ...], fan_in: int) -> Any:
        drawn = tf.random.stateless_normal(shape, [0, self._next])
        return tf.cast(self._variable(drawn * (2 / fan_in) ** 0.5), self._dtype)

    def _variable(self, value: Any, *, trainable: bool = True) -> Any:
        if self._next == len(self._made):
            self._made.append(tf.Variable(value, trainable=trainable))
        self._next += 1
        return self._made[self._next - 1]


def loss_of(logits: Any, masks: Any) -> Any:
    """Return BCE and soft Dice of logits."""
    p = tf.sigmoid(logits)
    bce = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(masks, logits))
    overlap = 2 * tf.reduce_sum(p * masks) + 1
    return bce + 1 - overlap / (tf.reduce_sum(p) + tf.reduce_sum(masks) + 1)


def loss_with(network: str, arrays: list[Any], images: Any, masks: Any) -> float:
    """Return the training loss with these parameters, whose kernels are (height, width, in, out)."""
    layers = Layers(network)
    layers(tf.constant(images))
    for variable, array in zip(layers.trained, arrays, strict=True):
        variable.assign(tf.reshape(array, variable.shape))
    return float(loss_of(layers(tf.constant(images)), tf.constant(masks)))


def train(
    turn: Turn, network: str, batch_size: int, size: int, device: str, precision: str = "float32"
) -> None:
    """Train until there are no more turns."""
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    dtype = tf.as_dtype("float32" if precision == "tf32" else precision.removeprefix("mixed_"))
    scale = LOSS_SCALE if dtype == tf.float16 else 1.0
    spec = tf.TensorSpec((None, size, size, 1), tf.float32)

    with tf.device("/CPU:0" if device == "cpu" else "/GPU:0"):
        layers = Layers(network, dtype)
        layers(tf.zeros((1, size, size, 1)))
        moments = [(tf.Variable(w * 0), tf.Variable(w * 0)) for w in layers.trained]
        steps = tf.Variable(0.0)

        @tf.function(input_signature=[spec, spec])
        def step(images: Any, masks: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = loss_of(layers(images), masks)
                scaled = loss if scale == 1 else loss * scale
            gradients = tape.gradient(scaled, layers.trained)
            if scale != 1:
                gradients = [gradient / scale for gradient in gradients]
            t = steps.assign_add(1.0)
            for w, (m, v), gradient in zip(layers.trained, moments, gradients, strict=True):
                tf.raw_ops.ResourceApplyAdam(
                    var=w.handle, m=m.handle, v=v.handle, beta1_power=0.9**t, beta2_power=0.999**t,
                    lr=LEARNING_RATE, beta1=0.9, beta2=0.999, epsilon=1e-7, grad=gradient,
                )  # fmt: skip
            return loss

        turn.ready(version=tf.__version__)
        loss = previous = None
        for images, masks in itertools.cycle(batches(batch_size, size)):
            previous, loss = loss, step(tf.constant(images), tf.constant(masks))
            if previous is not None:
                float(previous)
            turn.step_done(lambda loss=loss: float(loss))
