"""The engine for any backend: `HostEngine` adds NumPy arrays on the host, and MPI exchanges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Array, DropoutMasks, Model, Precision, State, array_type
from core.backend.trained_part import TrainedPart
from core.backend.training_rules import StepScalars
from core.distribution.exchange import Exchange

HostFlat = NDArray[Any]
"""Gradients and statistics of what is trained, in the order of the plan, then the loss, then zeros."""


class HostEngine:
    """`core.backend.contract.Engine` on the host; the workers may have different backends.

    Args:
        model: The model of this worker.
        trained: What is trained of the plan that it was compiled from.
        precision: Its precision.
        exchange: The connection with the other workers.
    """

    def __init__(self, model: Model, trained: TrainedPart, precision: Precision, exchange: Exchange) -> None:
        self._model, self._exchange = model, exchange
        self._dtype = np.dtype(array_type(precision))
        self._gradients = {parameter.name: parameter.shape for parameter in trained.parameters}
        self._statistics = {statistic.name: statistic.shape for statistic in trained.statistics}
        shapes = [*self._gradients.values(), *self._statistics.values()]
        self._workers = len(exchange.hosts)
        self._part = -(-(1 + sum(int(np.prod(shape)) for shape in shapes)) // self._workers)

    @np.errstate(over="ignore", invalid="ignore")  # with a loss scale, gradients may overflow
    def derivatives(
        self, images: Array, masks: Array, keep: DropoutMasks | None, draw: int, weight: float
    ) -> HostFlat:
        """Return the derivatives of a shard, times its weight."""
        found = self._model.differentiate(images, masks, keep, draw)
        flat, place = np.zeros(self._part * self._workers, self._dtype), 0
        arrays = [found.gradients[name] for name in self._gradients]
        arrays += [found.statistics[name] for name in self._statistics]
        for array in [*arrays, np.array([found.loss])]:
            flat[place : place + array.size] = array.reshape(-1)
            place += array.size
        flat *= self._dtype.type(weight)
        return flat

    @np.errstate(over="ignore", invalid="ignore")
    def add(self, left: HostFlat, right: HostFlat) -> HostFlat:
        """Add to the left one."""
        left += right
        return left

    def scatter(self, flat: HostFlat | None, senders: Sequence[int]) -> list[HostFlat]:
        """Send and receive parts by MPI."""
        sends = np.empty(0, self._dtype) if flat is None else flat
        receive = [self._part if worker in senders else 0 for worker in range(self._workers)]
        found = self._exchange.scatter(sends, [sends.size // self._workers] * self._workers, receive)
        return [found[sender] for sender in senders]

    def gather(self, part: HostFlat) -> HostFlat:
        """Join the parts by MPI."""
        return self._exchange.join(part, [self._part] * self._workers)

    def update(self, flat: HostFlat, scalars: StepScalars) -> float:
        """Update the model; return the loss."""
        place = 0

        def views(shapes: Mapping[str, tuple[int, ...]]) -> State:
            nonlocal place
            found = {}
            for name, shape in shapes.items():
                size = int(np.prod(shape))
                found[name] = flat[place : place + size].reshape(shape)
                place += size
            return found

        gradients, statistics = views(self._gradients), views(self._statistics)
        self._model.update(gradients, statistics, scalars)
        return float(flat[place])
