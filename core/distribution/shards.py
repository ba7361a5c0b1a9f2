"""The arithmetic of a batch that is divided into shards.

A full batch of B images has S shards (`training.shards`). Image i belongs to shard i*S // B. A short batch
fills the same places, so its last shards may be empty; an empty shard counts for nothing. Each shard has
batch statistics and a loss of its own ("ghost batch norm": Hoffer et al., Train longer, generalize better,
2017).
With g_k for the gradients of shard k, which has n_k of the n images of the batch:

    gradients = sum over k of (n_k / n) * g_k

and likewise for the loss and for the statistics that enter the running ones. The weight n_k / n is rounded
once to the type of the arrays. The sum is added over a fixed tree. Level 0 has the shards. On each level
neighbours are added, 0 + 1, 2 + 3 and so on, and an odd last one moves up as it is. The order of additions
does not depend on who computes a shard. So any number of workers that divides S gives the same bits.

Clipping, decay and the update come after. Masks of dropout and random changes of images are keyed by the
image's place in the batch. With one shard this is the arithmetic of a batch that is not divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from core.base.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """A node of the tree: the sum of the shards from `index * 2**level` on, 2**level of them at most."""

    level: int
    index: int

    @property
    def first(self) -> int:
        """The first shard of the node."""
        return self.index << self.level


@dataclass(frozen=True)
class Shards:
    """The shards of batches of one size, and the workers that compute them.

    Args:
        count: Number of shards in a batch, S.
        batch_size: Number of images in a full batch, B.
        workers: Number of workers, W; each computes S / W shards that follow each other.

    Raises:
        UserError: The workers cannot share the shards equally.
    """

    count: int
    batch_size: int
    workers: int = 1

    def __post_init__(self) -> None:
        if self.count % self.workers:
            raise UserError(
                f"training.shards is {self.count}, which {self.workers} workers cannot share equally",
                f"Set training.shards to a multiple of {self.workers}, "
                f"for example --set training.shards={self.workers}.",
            )

    @property
    def root(self) -> Node:
        """The node with all shards."""
        return Node((self.count - 1).bit_length(), 0)

    def of_worker(self, worker: int) -> range:
        """Return the shards of a worker, numbered from 0."""
        each = self.count // self.workers
        return range(worker * each, (worker + 1) * each)

    def rows(self, shard: int, images: int) -> range:
        """Return the places of a shard's images in a batch of `images` images."""
        first, last = (
            min(-(-number * self.batch_size // self.count), images) for number in (shard, shard + 1)
        )
        return range(first, last)

    def rows_of_worker(self, worker: int, images: int) -> range:
        """Return the places of a worker's images in a batch of `images` images."""
        own = self.of_worker(worker)
        return range(self.rows(own[0], images).start, self.rows(own[-1], images).stop)

    def draw(self, step: int, shard: int) -> int:
        """Return the number of the masks that a backend draws for a shard of update `step` (from 1)."""
        return (step - 1) * self.count + shard + 1

    def is_empty(self, node: Node, images: int) -> bool:
        """Tell whether a node has no image in a batch of `images` images."""
        return not self.rows(node.first, images)

    def pieces(self, worker: int, images: int) -> list[Node]:
        """Return the largest nodes that have only shards of one worker, in order, without empty ones."""
        return [
            node
            for node in self._pieces(self.root, self.of_worker(worker))
            if not self.is_empty(node, images)
        ]

    def total(
        self, node: Node, images: int, part: Callable[[Node], T | None], add: Callable[[T, T], T]
    ) -> T | None:
        """Return the sum of a node, added in the order of the tree; None if it is empty.

        Args:
            node: The node.
            images: Number of images in the batch.
            part: Returns the value of a node; None for a node that is to be added from the two below it. It
                is called in the order of the shards, so that few values exist at a time.
            add: Returns the sum of two values; it may change the first one.
        """
        if self.is_empty(node, images):
            return None
        if (value := part(node)) is not None:
            return value
        found = (self.total(below, images, part, add) for below in self._below(node))
        first, *others = (value for value in found if value is not None)
        return add(first, others[0]) if others else first

    def _below(self, node: Node) -> Iterator[Node]:
        for index in (2 * node.index, 2 * node.index + 1):
            below = Node(node.level - 1, index)
            if below.first < self.count:
                yield below

    def _pieces(self, node: Node, own: range) -> Iterator[Node]:
        last = min(node.first + (1 << node.level), self.count) - 1
        if node.first in own and last in own:
            yield node
        elif node.first < own.stop and last >= own.start:
            for below in self._below(node):
                yield from self._pieces(below, own)
