"""Training loop in JAX: each step is one `jax.jit` of `jax.value_and_grad` and Adam, with donated arrays."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from paired_timings import Turn

from by_hand.batches import LEARNING_RATE, LOSS_SCALE, batches
from by_hand.networks import NETWORKS, Scale, Unit

LAYOUT = ("NHWC", "HWIO", "NHWC")

Arrays = list[Any]


class Layers:
    """Pure functions of arrays. The first pass makes the arrays; the others use them in the same order.

    NumPy makes them: JAX would compile each operation of the first pass by itself.
    """

    def __init__(
        self, parameters: Arrays | None = None, running: Arrays | None = None, dtype: Any = np.float32
    ) -> None:
        self._dtype = dtype
        self.parameters: Arrays = [] if parameters is None else parameters
        self.running: Arrays = [] if running is None else running
        self._makes = parameters is None
        self._next = 0
        self.found: Arrays = []

    def conv(self, x: Any, filters: int, stride: int = 1, kernel: int = 3) -> Any:
        w = self._kernel((kernel, kernel, x.shape[-1], filters), kernel * kernel * x.shape[-1])
        y = lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=LAYOUT)
        return self._finish(y, filters)

    def up(self, x: Any, filters: int) -> Any:
        return self._finish(self._transposed(x, filters), filters)

    def head(self, x: Any, stride: int, kernel: int = 1) -> Any:
        if stride == 2:
            y = self._transposed(x, 1)
        else:
            w = self._kernel((kernel, kernel, x.shape[-1], 1), kernel * kernel * x.shape[-1])
            y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=LAYOUT)
        return y + self._array(lambda: np.zeros(1, np.float32)).astype(self._dtype)

    def concat(self, x: Any, skip: Any) -> Any:
        return jnp.concatenate([x, skip], axis=-1)

    def three(self, x: Any, scale: Scale) -> Any:
        return (x - jnp.array(scale.mean, x.dtype)) / jnp.array(scale.std, x.dtype)

    def unit(self, x: Any, unit: Unit) -> Any:
        channels, area, strides = x.shape[-1], unit.kernel**2, (unit.stride, unit.stride)
        into, groups = (1, channels) if unit.depthwise else (channels, 1)
        w = self._kernel((unit.kernel, unit.kernel, into, unit.filters), area * into)
        pads = [unit.pads(length) for length in x.shape[1:3]]
        y = lax.conv_general_dilated(
            x, w, strides, pads, dimension_numbers=LAYOUT, feature_group_count=groups
        )
        y = self._normalise(y, unit.filters, unit.epsilon)
        activation = {"relu": jax.nn.relu, "relu6": jax.nn.relu6, "none": lambda y: y}
        return activation[unit.activation](y)

    def pool(self, x: Any) -> Any:
        pads = ((0, 0), (1, 1), (1, 1), (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)

    def add(self, x: Any, y: Any, *, relu: bool) -> Any:
        return jax.nn.relu(x + y) if relu else x + y

    def nearest(self, x: Any) -> Any:
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)

    def _transposed(self, x: Any, filters: int) -> Any:
        w = self._kernel((3, 3, x.shape[-1], filters), 9 * x.shape[-1])
        return lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=LAYOUT)

    def _finish(self, y: Any, filters: int) -> Any:
        y = jax.nn.relu(y + self._array(lambda: np.zeros(filters, np.float32)).astype(self._dtype))
        return self._normalise(y, filters, 1e-3)

    def _normalise(self, y: Any, filters: int, epsilon: float) -> Any:
        gamma, beta = (
            self._array(lambda: np.ones(filters, np.float32)),
            self._array(lambda: np.zeros(filters, np.float32)),
        )
        if self._makes:
            self.running += [np.zeros(filters, np.float32), np.ones(filters, np.float32)]
        y = y.astype(np.float32)
        mean, variance = jnp.mean(y, axis=(0, 1, 2)), jnp.var(y, axis=(0, 1, 2))
        self.found += [mean, variance]
        return ((y - mean) * (lax.rsqrt(variance + epsilon) * gamma) + beta).astype(self._dtype)

    def _kernel(self, shape: tuple[int, ...], fan_in: int) -> Any:
        rng = np.random.default_rng(self._next)
        deviation = np.float32((2 / fan_in) ** 0.5)
        drawn = self._array(lambda: rng.standard_normal(shape, np.float32) * deviation)
        return drawn.astype(self._dtype)

    def _array(self, make: Any) -> Any:
        if self._makes:
            self.parameters.append(make())
        self._next += 1
        return self.parameters[self._next - 1]


def loss_of(
    parameters: Arrays, running: Arrays, images: Any, masks: Any, network: str, dtype: str = "float32"
) -> Any:
    """Return BCE and soft Dice of logits, and the new running statistics."""
    layers = Layers(parameters, running, jnp.dtype(dtype))
    logits = NETWORKS[network](layers, images.astype(dtype)).astype(np.float32)
    p = jax.nn.sigmoid(logits)
    bce = jnp.mean(jax.nn.softplus(logits) - logits * masks)
    overlap = 2 * jnp.sum(p * masks) + 1
    loss = bce + 1 - overlap / (jnp.sum(p) + jnp.sum(masks) + 1)
    return loss, [0.99 * old + 0.01 * new for old, new in zip(running, layers.found, strict=True)]


def loss_with(network: str, arrays: Arrays, images: Any, masks: Any) -> float:
    """Return the training loss with these parameters, whose kernels are (height, width, in, out)."""
    _, running, *_ = first_state(network, images.shape[1])
    loss, _ = jax.jit(loss_of, static_argnums=4)(arrays, running, images, masks, network)
    return float(loss)


def _scaled_loss(*arguments: Any) -> Any:
    """Return the loss times the scale; then the loss, and the new running statistics."""
    loss, running = loss_of(*arguments)
    return loss * _scale(arguments[-1]), (loss, running)


def _scale(dtype: str) -> float:
    return LOSS_SCALE if dtype == "float16" else 1.0


@functools.partial(jax.jit, donate_argnums=0, static_argnums=(3, 4))
def step(
    state: tuple[Any, ...], images: Any, masks: Any, network: str, dtype: str = "float32"
) -> tuple[tuple[Any, ...], Any]:
    """Make one update by Adam."""
    parameters, running, m, v, t = state
    found = jax.value_and_grad(_scaled_loss, has_aux=True)(parameters, running, images, masks, network, dtype)
    (_, (loss, running)), gradients = found
    if _scale(dtype) != 1:
        gradients = [gradient / _scale(dtype) for gradient in gradients]
    t = t + 1
    size = LEARNING_RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    m = [0.9 * a + 0.1 * g for a, g in zip(m, gradients, strict=True)]
    v = [0.999 * a + 0.001 * g * g for a, g in zip(v, gradients, strict=True)]
    parameters = [w - size * a / (jnp.sqrt(b) + 1e-7) for w, a, b in zip(parameters, m, v, strict=True)]
    return (parameters, running, m, v, t), loss


def train(
    turn: Turn, network: str, batch_size: int, size: int, device: str, precision: str = "float32"
) -> None:
    """Train until there are no more turns."""
    products = {"float32": "highest", "tf32": "tensorfloat32"}.get(precision)
    jax.config.update("jax_default_matmul_precision", products)
    dtype = "float32" if precision == "tf32" else precision.removeprefix("mixed_")
    where = jax.local_devices(backend=device)[0]
    state, data = jax.device_put(first_state(network, size), where), batches(batch_size, size)
    turn.ready(version=jax.__version__)
    loss = previous = None
    for images, masks in itertools.cycle(data):
        previous = loss
        state, loss = step(state, *jax.device_put((images, masks), where), network, dtype)
        if previous is not None:
            float(previous)
        turn.step_done(lambda loss=loss: float(loss))


def compile_step(turn: Turn, network: str, batch_size: int, size: int, device: str) -> None:
    """Compile the step with `jax.jit`, as its first call does, but do not make it."""
    where = jax.local_devices(backend=device)[0]
    state = jax.device_put(first_state(network, size), where)
    batch = jax.device_put(batches(batch_size, size, count=1)[0], where)
    turn.ready(version=jax.__version__)
    compiled = step.lower(state, *batch, network).compile()
    turn.step_done(lambda: compiled)


def first_state(network: str, size: int) -> tuple[Any, ...]:
    """Return parameters, running statistics, Adam's moments and the number of steps made."""
    layers, image = Layers(), jax.ShapeDtypeStruct((1, size, size, 1), np.float32)
    jax.eval_shape(lambda x: NETWORKS[network](layers, x), image)
    m, v = ([np.zeros_like(w) for w in layers.parameters] for _ in range(2))
    return layers.parameters, layers.running, m, v, np.float32(0)
