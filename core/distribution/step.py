"""One update from a batch in shards, by one worker or by several together: see `core.distribution.shards`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Array, Derivatives, DropoutMasks, Model, Precision, State, array_type
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.training_rules import StepScalars
from core.distribution.exchange import Exchange
from core.distribution.shards import Node, Shards
from core.network.plan import Plan

Flat = NDArray[Any]
"""The gradients, the statistics and the loss of some shards in one array: see `_FlatDerivatives`."""


class ShardedUpdate:
    """Makes updates of a model from batches in shards.

    Args:
        model: The model. Each worker has one, of any backend, in the same state.
        plan: The plan that it was compiled from.
        precision: Its precision.
        shards: How batches are divided.
        exchange: The connection with the other workers.
        seed: Seed of the dropout masks; None if the backend draws them.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        precision: Precision,
        shards: Shards,
        exchange: Exchange,
        seed: int | None,
    ) -> None:
        self._model, self._plan, self._shards, self._exchange = model, plan, shards, exchange
        self._seed = seed
        self._flat = _FlatDerivatives(plan, np.dtype(array_type(precision)))

    def __call__(self, images: Array, masks: Array, count: int, scalars: StepScalars) -> SupportsFloat:
        """Make one update and return the loss of the whole batch before it.

        Args:
            images: (n, H, W, 1), this worker's images (`Shards.rows_of_worker`).
            masks: (n, H, W, 1), their masks.
            count: Number of images in the whole batch.
            scalars: The numbers of this step.
        """
        if self._shards.count == 1:
            return self._model.train_step(images, masks, scalars, self._masks(scalars.step, range(count)))
        own = self._shards.rows_of_worker(self._exchange.worker, count)

        def part(node: Node) -> Flat | None:
            if node.level > 0:
                return None
            rows = self._shards.rows(node.first, count)
            here = slice(rows.start - own.start, rows.stop - own.start)
            found = self._model.differentiate(
                images[here],
                masks[here],
                self._masks(scalars.step, rows),
                self._shards.draw(scalars.step, node.first),
            )
            return self._flat.weighted(found, len(rows) / count)

        pieces = {}
        for node in self._shards.pieces(self._exchange.worker, count):
            if (flat := self._shards.total(node, count, part, _add)) is not None:
                pieces[node] = flat
        total = self._flat.parted(self._sum(pieces, count))
        self._model.update(total.gradients, total.statistics, scalars)
        return total.loss

    def _masks(self, step: int, rows: range) -> DropoutMasks | None:
        """Return the dropout masks of some places of the batch; None if the backend draws them."""
        if self._seed is None:
            return None
        return draw_dropout_masks(self._plan, self._seed, step, len(rows), rows.start)

    def _sum(self, pieces: Mapping[Node, Flat], count: int) -> Flat:
        """Return the sum over all workers.

        Each worker adds one part of the array, of the pieces of all workers, and gets the other parts from
        the others: a reduce-scatter, then an all-gather. So a worker whose shards are one node of the tree
        sends twice the size of the array at most, whatever the number of workers.
        """
        shards, exchange = self._shards, self._exchange
        if shards.workers == 1:
            return pieces[shards.root]
        bounds = [self._flat.size * number // shards.workers for number in range(shards.workers + 1)]
        lengths = [end - start for start, end in itertools.pairwise(bounds)]
        nodes = [shards.pieces(worker, count) for worker in range(shards.workers)]
        own, mine = nodes[exchange.worker], lengths[exchange.worker]
        received: dict[Node, Flat] = {}
        for turn in range(max(map(len, nodes))):
            sends = turn < len(own)
            found = exchange.scatter(
                pieces[own[turn]] if sends else self._flat.empty(),
                lengths if sends else [0] * shards.workers,
                [mine if turn < len(of_worker) else 0 for of_worker in nodes],
            )
            received |= {
                of_worker[turn]: part
                for of_worker, part in zip(nodes, found, strict=True)
                if turn < len(of_worker)
            }
        total = shards.total(shards.root, count, received.get, _add)
        assert total is not None  # a batch has an image
        return exchange.join(total, lengths)


class _FlatDerivatives:
    """`Derivatives` in one array: gradients and statistics in the order of the plan, then the loss."""

    def __init__(self, plan: Plan, dtype: np.dtype[Any]) -> None:
        self._gradients = {parameter.name: parameter.shape for parameter in plan.parameters}
        self._statistics = {statistic.name: statistic.shape for statistic in plan.statistics}
        self._dtype = dtype
        shapes = [*self._gradients.values(), *self._statistics.values()]
        self.size = 1 + sum(int(np.prod(shape)) for shape in shapes)

    def empty(self) -> Flat:
        """Return an array of length 0."""
        return np.empty(0, self._dtype)

    def weighted(self, found: Derivatives, weight: float) -> Flat:
        """Return derivatives, times a weight."""
        flat, place = np.empty(self.size, self._dtype), 0
        arrays = [found.gradients[name] for name in self._gradients]
        arrays += [found.statistics[name] for name in self._statistics]
        for array in [*arrays, np.array([found.loss])]:
            flat[place : place + array.size] = array.reshape(-1)
            place += array.size
        flat *= self._dtype.type(weight)
        return flat

    def parted(self, flat: Flat) -> Derivatives:
        """Return the derivatives in an array; they share its memory."""
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
        return Derivatives(float(flat[-1]), gradients, statistics)


def _add(left: Flat, right: Flat) -> Flat:
    left += right
    return left
