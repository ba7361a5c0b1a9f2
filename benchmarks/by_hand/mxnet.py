"""Training loop in MXNet's Gluon: one hybridised block with the loss and static memory, and a Trainer."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
from paired_timings import Turn

from by_hand.batches import LEARNING_RATE, batches
from by_hand.networks import NETWORKS, Scale, Unit

# By default MXNet uses half of the cores.
os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
# Names that MXNet 1.9.1 reads at its import and that NumPy has removed.
_GONE = (
    "bool PZERO NZERO NAN NaN PINF NINF Inf alltrue in1d mirr msort npv pmt ppmt pv rate trapz "
    "sometrue round_ product"
)
for _name in _GONE.split():
    vars(np).setdefault(_name, bool)

import mxnet as mx  # noqa: E402  reads the variable above
from mxnet.gluon import nn  # noqa: E402


class Layers:
    """Gluon's layers: the first pass through the network makes them, others use them in the same order."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self._next: Any = None
        self._operators: Any = None

    def walk(self, network: str, operators: Any, x: Any) -> Any:
        self._next = iter(self.made) if self.made else None
        self._operators = operators
        return NETWORKS[network](self, x)

    def conv(self, x: Any, filters: int, stride: int = 1, kernel: int = 3) -> Any:
        y = self._layer(lambda: nn.Conv2D(filters, kernel, stride, kernel // 2, activation="relu"), x)
        return self._layer(nn.BatchNorm, y)

    def up(self, x: Any, filters: int) -> Any:
        y = self._layer(lambda: nn.Conv2DTranspose(filters, 3, 2, 1, 1, activation="relu"), x)
        return self._layer(nn.BatchNorm, y)

    def head(self, x: Any, stride: int, kernel: int = 1) -> Any:
        if stride == 1:
            return self._layer(lambda: nn.Conv2D(1, kernel, 1, kernel // 2), x)
        # Conv2DTranspose with one filter fails in backward (1.9.1). Four interleaved phases are the same.
        y = self._layer(lambda: nn.Conv2D(4, 2, 1, 1), x)
        if self._operators is None:
            return y
        y = self._operators.slice(y, begin=(None, None, 1, 1), end=(None, None, None, None))
        return self._operators.depth_to_space(y, block_size=2)

    def concat(self, x: Any, skip: Any) -> Any:
        return None if self._operators is None else self._operators.concat(x, skip, dim=1)

    def three(self, x: Any, scale: Scale) -> Any:
        if self._operators is None:
            return None
        scaled = [(x - mean) / std for mean, std in zip(*scale, strict=True)]
        return self._operators.concat(*scaled, dim=1)

    def unit(self, x: Any, unit: Unit) -> Any:
        groups = unit.filters if unit.depthwise else 1
        pad = unit.kernel // 2
        if unit.padding == "same" and unit.stride == 2:  # sizes are even
            begin, end = unit.pads(2 * unit.kernel)
            pad = 0
            if self._operators is not None:
                widths = (0, 0, 0, 0, begin, end, begin, end)
                x = self._operators.pad(x, mode="constant", pad_width=widths)
        x = self._layer(
            lambda: nn.Conv2D(unit.filters, unit.kernel, unit.stride, pad, groups=groups, use_bias=False), x
        )
        x = self._layer(lambda: nn.BatchNorm(momentum=unit.momentum, epsilon=unit.epsilon), x)
        if self._operators is None or unit.activation == "none":
            return x
        if unit.activation == "relu6":
            return self._operators.clip(x, 0, 6)
        return self._operators.Activation(x, act_type="relu")

    def pool(self, x: Any) -> Any:
        return self._layer(lambda: nn.MaxPool2D(3, 2, 1), x)

    def add(self, x: Any, y: Any, *, relu: bool) -> Any:
        if self._operators is None:
            return None
        return self._operators.Activation(x + y, act_type="relu") if relu else x + y

    def nearest(self, x: Any) -> Any:
        if self._operators is None:
            return None
        return self._operators.UpSampling(x, scale=2, sample_type="nearest")

    def _layer(self, make: Any, x: Any) -> Any:
        if self._next is not None:
            return next(self._next)(x)
        self.made.append(make())
        return None


class Loss(mx.gluon.HybridBlock):
    """The network and its loss."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self._network, self._layers = network, Layers()
        self._layers.walk(network, None, None)
        for number, layer in enumerate(self._layers.made):
            setattr(self, f"layer{number}", layer)

    def hybrid_forward(self, F: Any, images: Any, masks: Any) -> Any:  # noqa: N803  Gluon's name
        logits = self._layers.walk(self._network, F, images)
        p = F.sigmoid(logits)
        bce = F.mean(F.Activation(logits, act_type="softrelu") - logits * masks)
        overlap = 2 * F.sum(p * masks) + 1
        return bce + 1 - overlap / (F.sum(p) + F.sum(masks) + 1)


def loss_with(network: str, arrays: list[Any], images: Any, masks: Any) -> float:
    """Return the training loss with these parameters, whose kernels are (height, width, in, out)."""
    block = Loss(network)
    block.initialize(mx.init.Xavier())
    images, masks = (mx.nd.array(array.transpose(0, 3, 1, 2)) for array in (images, masks))
    block(images, masks)
    parameters = [one for one in block.collect_params().values() if one.grad_req != "null"]
    for parameter, array in zip(parameters, arrays, strict=True):
        parameter.set_data(mx.nd.array(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array))
    with mx.autograd.record():
        return float(block(images, masks).asscalar())


def train(
    turn: Turn, network: str, batch_size: int, size: int, device: str, precision: str = "float32"
) -> None:
    """Train until there are no more turns."""
    if precision != "float32":
        raise ValueError(f"the loop by hand in MXNet has float32 alone; received: {precision}")
    context = mx.cpu() if device == "cpu" else mx.gpu()
    block = Loss(network)
    block.initialize(mx.init.Xavier(), ctx=context)
    block.hybridize(static_alloc=True, static_shape=True)
    trainer = mx.gluon.Trainer(block.collect_params(), "adam", {"learning_rate": LEARNING_RATE})
    data = [
        tuple(np.ascontiguousarray(array.transpose(0, 3, 1, 2)) for array in batch)
        for batch in batches(batch_size, size)
    ]
    turn.ready(version=mx.__version__)
    loss = previous = None
    for images, masks in itertools.cycle(data):
        with mx.autograd.record():
            previous, loss = loss, block(mx.nd.array(images, context), mx.nd.array(masks, context))
        loss.backward()
        trainer.step(1)
        if previous is not None:
            previous.asscalar()
        turn.step_done(lambda: mx.nd.waitall())
