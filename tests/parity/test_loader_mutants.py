"""The checks of shuffling and sampling must detect loaders with one deliberate error each.

The test run ends with the list of mutants and what detected them (tests/conftest.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from shuffling import COUNT, SAMPLING, badly_sampled, unshuffled, write_store

from core.base.randomness import permutation, uniform
from data.batches.loader import Loader
from data.batches.sampling import sampled
from data.hdf5.store import Store


class FirstBatchAlone(Loader):
    """Only the first batch is shuffled; the others are in the file's order."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        order, first = self._indices.copy(), self.batch_size
        order[:first] = order[permutation(self.seed or 0, "order", epoch, count=first)]
        return order


class WithinBatches(Loader):
    """Each batch is shuffled in itself, so the same images are always together."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        parts = np.split(self._indices, range(self.batch_size, self.images, self.batch_size))
        return np.concatenate([part[permutation(epoch, count=len(part))] for part in parts])


class OnceForAll(Loader):
    """All epochs have the order of the first one."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        return super().order(0)


class Rotated(Loader):
    """Every epoch has the file's order with another beginning."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        return np.roll(self._indices, -int(permutation(epoch, count=self.images)[0]))


@pytest.mark.parametrize("kind", [FirstBatchAlone, WithinBatches, OnceForAll, Rotated])
def test_an_order_that_is_not_random_is_caught(
    kind: type[Loader], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    write_store(tmp_path / "a.h5")
    with Store.open(tmp_path / "a.h5") as store:
        reason = unshuffled(kind(store, np.arange(COUNT), 3, seed=1))
        assert unshuffled(Loader(store, np.arange(COUNT), 3, seed=1)) is None
    assert reason is not None
    assert kind.__doc__ is not None
    name = kind.__doc__.splitlines()[0].rstrip(".")
    record_property("mutant", f"shuffling: {name}: {reason}")


class Unmixed(Loader):
    """The positives of a batch always come first."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        order = super().order(epoch)
        batch = np.arange(self.images) // self.batch_size
        return order[np.lexsort((~self.store.positive[order], batch))]


class Independent(Loader):
    """Images are drawn with replacement."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        order = super().order(epoch)
        lots = uniform(epoch, shape=(self.images,))
        for label in (True, False):
            members = self._indices[self.store.positive == label]
            places = np.flatnonzero(self.store.positive[order] == label)
            order[places] = members[(lots[places] * len(members)).astype(int)]
        return order


class DealtAnew(Loader):
    """Every epoch begins with new packs."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        return self._indices[sampled(self._positive, self.batch_size, SAMPLING, epoch, 1)]


class SamePacks(Loader):
    """The packs are shuffled only once."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        order = super().order(epoch)
        for label in (True, False):
            members = np.flatnonzero(self.store.positive == label)
            places = np.flatnonzero(self.store.positive[order] == label)
            order[places] = members[(4 * (epoch - 1) + np.arange(len(places))) % len(members)]
        return order


class RoundedBatchByBatch(Loader):
    """Each batch rounds its share of positives by itself."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        sizes = [3, 3, 2]
        parts = [
            sampled(self._positive, 3, SAMPLING, epoch, number)[:size] for number, size in enumerate(sizes)
        ]
        return np.concatenate(parts)


@pytest.mark.parametrize("kind", [Unmixed, Independent, DealtAnew, SamePacks, RoundedBatchByBatch])
def test_sampling_that_is_not_as_promised_is_caught(
    kind: type[Loader], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    write_store(tmp_path / "a.h5")
    with Store.open(tmp_path / "a.h5") as store:
        assert badly_sampled(Loader(store, np.arange(COUNT), 3, 1, SAMPLING)) is None
        reason = badly_sampled(kind(store, np.arange(COUNT), 3, 1, SAMPLING))
    assert reason is not None
    name = (kind.__doc__ or "").splitlines()[0].rstrip(".")
    record_property("mutant", f"sampling: {name}: {reason}")
