"""One update from a batch in shards, by one worker or by several together: see `core.distribution.shards`.

`ShardedUpdate` decides what is added and exchanged, and in which order. An engine
(`core.backend.contract.Engine`) does it: on the host and by MPI (`core.distribution.host_engine`), or on the
devices by a framework's own means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import SupportsFloat

from core.backend.contract import Array, DropoutMasks, Engine, Flat, Model
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.training_rules import StepScalars
from core.distribution.shards import Node, Shards
from core.network.plan import Plan


class ShardedUpdate:
    """Makes updates of a model from batches in shards.

    Args:
        model: The model. Each worker has one in the same state.
        plan: The plan that it was compiled from.
        shards: How batches are divided.
        engine: Adds and exchanges the derivatives of the model.
        worker: The number of this worker.
        seed: Seed of the dropout masks; None if the backend draws them.
    """

    def __init__(
        self, model: Model, plan: Plan, shards: Shards, engine: Engine, worker: int, seed: int | None
    ) -> None:
        self._model, self._plan, self._shards, self._engine = model, plan, shards, engine
        self._worker, self._seed = worker, seed

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
        own = self._shards.rows_of_worker(self._worker, count)

        def part(node: Node) -> Flat | None:
            if node.level > 0:
                return None
            rows = self._shards.rows(node.first, count)
            here = slice(rows.start - own.start, rows.stop - own.start)
            return self._engine.derivatives(
                images[here],
                masks[here],
                self._masks(scalars.step, rows),
                self._shards.draw(scalars.step, node.first),
                len(rows) / count,
            )

        pieces = {}
        for node in self._shards.pieces(self._worker, count):
            if (flat := self._shards.total(node, count, part, self._engine.add)) is not None:
                pieces[node] = flat
        return self._engine.update(self._sum(pieces, count), scalars)

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
        shards, engine = self._shards, self._engine
        if shards.workers == 1:
            return pieces[shards.root]
        nodes = [shards.pieces(worker, count) for worker in range(shards.workers)]
        received: dict[Node, Flat] = {}
        for turn in range(max(map(len, nodes))):
            senders = [worker for worker, own in enumerate(nodes) if turn < len(own)]
            sent = pieces[nodes[self._worker][turn]] if self._worker in senders else None
            parts = engine.scatter(sent, senders)
            received |= {nodes[sender][turn]: part for sender, part in zip(senders, parts, strict=True)}
        total = shards.total(shards.root, count, received.get, engine.add)
        assert total is not None  # a batch has an image
        return engine.gather(total)
