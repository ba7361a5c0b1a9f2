"""Batches: which, in which order, and what happens when somebody stops early."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_store import COUNT, content, write_store

from core.errors import UserError
from data.loader import Batch, Loader
from data.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    write_store(tmp_path / "a.h5")
    with Store.open(tmp_path / "a.h5") as opened:
        yield opened
    names = [thread.name for thread in threading.enumerate()]
    assert "read-ahead" not in names, "a reader outlived its generator"


def everything(batches: list[Batch]) -> bytes:
    return b"".join(array.tobytes() for batch in batches for array in batch)


def test_in_the_given_order(store: Store) -> None:
    indices = np.array([5, 0, 6, 2, 3])
    loader = Loader(store, indices, 2)
    batches = list(loader.epoch(0))
    assert (loader.images, loader.batches) == (5, 3)
    assert [batch.indices.tolist() for batch in batches] == [[5, 0], [6, 2], [3]]
    images, masks = content()
    for batch in batches:
        assert (batch.images.dtype, batch.masks.dtype) == (np.float32, np.uint8)
        np.testing.assert_array_equal(batch.images[..., 0], images[batch.indices])
        np.testing.assert_array_equal(batch.masks[..., 0], masks[batch.indices])


def test_shuffled_by_seed_and_epoch(store: Store) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        loader = Loader(store, np.arange(COUNT), 3, seed)
        return [index for batch in loader.epoch(epoch) for index in batch.indices.tolist()]

    assert sorted(order(1, 0)) == list(range(COUNT))
    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_the_same_seed_gives_the_same_bytes(store: Store) -> None:
    one, other = (Loader(store, np.arange(COUNT), 2, seed=9) for _ in range(2))
    assert everything(list(one.epoch(4))) == everything(list(other.epoch(4)))


@pytest.mark.parametrize("start", range(5))
def test_an_epoch_entered_in_the_middle(store: Store, start: int) -> None:
    loader = Loader(store, np.arange(COUNT), 2, seed=3)
    whole = list(loader.epoch(1))
    assert everything(list(loader.epoch(1, start))) == everything(whole[start:])


def test_batches_stay_what_they_were(store: Store) -> None:
    loader = Loader(store, np.arange(COUNT), 1, seed=3)
    held = list(loader.epoch(0))
    assert everything(held) == everything(list(loader.epoch(0)))
    assert len({batch.images.ctypes.data for batch in held}) == COUNT


def test_stopping_early_ends_the_reader(store: Store) -> None:
    for taken in (0, 1, 3):
        batches = Loader(store, np.arange(COUNT), 1).epoch(0)
        for _ in range(taken):
            next(batches)
        batches.close()  # the fixture sees that no thread is left


class Failing(Store):
    """A store whose fourth image cannot be read."""

    def read(
        self, indices: NDArray[np.int64], images_out: NDArray[np.float32], masks_out: NDArray[np.uint8]
    ) -> None:
        """As the store's, up to the fourth image."""
        if 3 in indices:
            raise UserError("the disk is gone")
        super().read(indices, images_out, masks_out)


def test_errors_of_the_reader_reach_the_consumer(store: Store) -> None:
    store.__class__ = Failing
    batches = Loader(store, np.arange(COUNT), 2).epoch(0)
    assert next(batches).indices.tolist() == [0, 1]
    with pytest.raises(UserError, match="the disk is gone"):
        next(batches)


@pytest.mark.parametrize(("count", "size"), [(0, 2), (3, 0)])
def test_nothing_to_load_is_refused(store: Store, count: int, size: int) -> None:
    with pytest.raises(ValueError, match="Received"):
        Loader(store, np.arange(count), size)
