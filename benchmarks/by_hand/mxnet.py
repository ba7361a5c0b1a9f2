"""Training loop in MXNet's Gluon: one hybridised block with the loss and static memory, and a Trainer."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
from paired_timings import Turn

from by_hand.batches import LEARNING_RATE, batches
from by_hand.networks import NETWORKS

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

    def head(self, x: Any, stride: int) -> Any:
        if stride == 1:
            return self._layer(lambda: nn.Conv2D(1, 1), x)
        # Conv2DTranspose with one filter fails in backward (1.9.1). Four interleaved phases are the same.
        y = self._layer(lambda: nn.Conv2D(4, 2, 1, 1), x)
        if self._operators is None:
            return y
        y = self._operators.slice(y, begin=(None, None, 1, 1), end=(None, None, None, None))
        return self._operators.depth_to_space(y, block_size=2)

    def concat(self, x: Any, skip: Any) -> Any:
        return None if self._operators is None else self._operators.concat(x, skip, dim=1)

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


def train(turn: Turn, network: str, batch_size: int, size: int, device: str) -> None:
    """Train until there are no more turns."""
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
