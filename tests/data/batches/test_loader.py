"""Batches: their content, their order, and a consumer that stops early."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from store_files import COUNT, content, write_store

from core.base.byte_images import as_numbers
from core.base.errors import UserError
from data.batches import loader as loader_module
from data.batches.augmentation import AugmentationSettings, augment
from data.batches.crops import CropSettings
from data.batches.loader import Batch, Loader
from data.batches.sampling import SamplingSchedule, sampled
from data.hdf5.store import Store

ALTERED = AugmentationSettings(0.5, 0.2, 0.2, 30, 1, 0.2, 0.2, 0.5, 1, 0.1)
MIXED = SamplingSchedule(0.8, 0.3, 4)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    write_store(tmp_path / "a.h5")
    with Store.open(tmp_path / "a.h5") as opened:
        yield opened
    names = [thread.name for thread in threading.enumerate()]
    assert "read-ahead" not in names, "a reader outlived its generator"
    assert not [name for name in names if name.startswith("augmentation")], "a helper outlived its reader"


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
@pytest.mark.parametrize("sampling", [None, MIXED])
@pytest.mark.parametrize("augmentation", [None, ALTERED])
def test_an_epoch_entered_in_the_middle(
    store: Store, start: int, sampling: SamplingSchedule | None, augmentation: AugmentationSettings | None
) -> None:
    loader = Loader(store, np.arange(COUNT), 2, 3, sampling, augmentation)
    whole = list(loader.epoch(1))
    assert everything(list(loader.epoch(1, start))) == everything(whole[start:])


def test_the_share_of_positives_is_of_the_chosen_images(store: Store) -> None:
    chosen = np.array([6, 2, 4, 3, 0])  # the third image of the file alone is negative
    loader = Loader(store, chosen, 2, 3, MIXED)
    for epoch in (1, 2, 5):
        expected = chosen[sampled(store.positive[chosen], 2, MIXED, 3, epoch)]
        np.testing.assert_array_equal(loader.order(epoch), expected)
        found = [index for batch in loader.epoch(epoch) for index in batch.indices.tolist()]
        assert found == expected.tolist()


def test_every_place_of_an_epoch_is_altered_by_its_own_lot(store: Store) -> None:
    loader = Loader(store, np.arange(COUNT), 3, 3, SamplingSchedule(0.9, 0.9, 1), ALTERED)
    images, masks = content()
    place, seen = 0, set()
    for batch in loader.epoch(2):
        for row, index in enumerate(batch.indices):
            image, mask = images[index].copy(), masks[index].copy()
            augment(image, mask, ALTERED, 3, 2, place)
            np.testing.assert_array_equal(batch.images[row, ..., 0], image)
            np.testing.assert_array_equal(batch.masks[row, ..., 0], mask)
            seen.add(image.tobytes())
            place += 1
    assert len(seen) == place == COUNT, "an image that comes twice is not the same twice"


def test_the_number_of_threads_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for cores in (1, 2, 7):
        monkeypatch.setattr(loader_module, "available_cores", lambda cores=cores: cores)
        loader = Loader(store, np.arange(COUNT), 5, 3, augmentation=ALTERED)
        found.add(everything(list(loader.epoch(1))))
    assert len(found) == 1


def test_settings_that_alter_nothing_are_as_none(store: Store) -> None:
    plain, zero = (Loader(store, np.arange(COUNT), 3, 3, None, how) for how in (None, AugmentationSettings()))
    assert everything(list(zero.epoch(1))) == everything(list(plain.epoch(1)))


@pytest.mark.parametrize("crops", [None, CropSettings(4, 0.5)])
def test_a_file_of_bytes_gives_batches_of_bytes(tmp_path: Path, crops: CropSettings | None) -> None:
    write_store(tmp_path / "bytes.h5", "uint8")
    with Store.open(tmp_path / "bytes.h5") as store:
        loader = Loader(store, np.arange(COUNT), 3, 5, MIXED, crops=crops)
        numbers, of_bytes = list(loader.epoch(2)), list(loader.in_bytes().epoch(2))
        assert len(numbers) == len(of_bytes) == 3
        for batch, other in zip(numbers, of_bytes, strict=True):
            assert (batch.images.dtype, other.images.dtype) == (np.float32, np.uint8)
            assert other.images.max() > 1
            assert as_numbers(other.images).tobytes() == batch.images.tobytes()
            assert everything([other._replace(images=batch.images)]) == everything([batch])


def test_only_images_that_are_still_bytes_are_given_as_bytes(store: Store, tmp_path: Path) -> None:
    write_store(tmp_path / "bytes.h5", "uint8")
    with Store.open(tmp_path / "bytes.h5") as of_bytes:
        reduced = of_bytes.at_size(of_bytes.height - 2, of_bytes.width - 2)
        augmented = Loader(of_bytes, np.arange(COUNT), 2, 1, augmentation=ALTERED)
        for loader in (Loader(store, np.arange(COUNT), 2), Loader(reduced, np.arange(COUNT), 2), augmented):
            assert loader.in_bytes() is loader
        for other in (store, reduced):
            shape = (1, other.height, other.width, 1)
            with pytest.raises(ValueError, match="not bytes"):
                other.read(np.array([0]), np.empty(shape, np.uint8), None)


def test_bytes_in_another_scale_are_given_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "bytes.h5"
    write_store(path, "uint8")
    with h5py.File(path, "r+") as file:
        file["images_1"].attrs["scale"] = 256.0
    with Store.open(path) as store:
        loader = Loader(store, np.arange(COUNT), 2)
        assert loader.in_bytes() is loader


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
        """Read like the store, up to the fourth image."""
        if 3 in indices:
            raise UserError("the disk is gone")
        super().read(indices, images_out, masks_out)


def test_errors_of_the_reader_reach_the_consumer(store: Store) -> None:
    store.__class__ = Failing
    batches = Loader(store, np.arange(COUNT), 2).epoch(0)
    assert next(batches).indices.tolist() == [0, 1]
    with pytest.raises(UserError, match="the disk is gone"):
        next(batches)


def test_errors_of_the_helpers_reach_the_consumer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object) -> None:
        if arguments[-1] == 3:
            raise MemoryError("no room for the fourth image")

    monkeypatch.setattr(loader_module, "augment", failing)
    batches = Loader(store, np.arange(COUNT), 2, 1, augmentation=ALTERED).epoch(1)
    next(batches)
    with pytest.raises(MemoryError, match="fourth image"):
        next(batches)


@pytest.mark.parametrize(
    "drawn", [{"sampling": MIXED}, {"augmentation": ALTERED}, {"crops": CropSettings(2, 1)}]
)
def test_what_is_drawn_needs_a_seed(store: Store, drawn: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="drawn by a seed"):
        Loader(store, np.arange(COUNT), 2, **drawn)


@pytest.mark.parametrize(("count", "size"), [(0, 2), (3, 0)])
def test_nothing_to_load_is_refused(store: Store, count: int, size: int) -> None:
    with pytest.raises(ValueError, match="Received"):
        Loader(store, np.arange(count), size)


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_memory_is_used_again_only_when_nobody_holds_it(
    store: Store, left_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds where Python counts fewer references, as 3.14 does, than the Python that runs this."""
    count = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda array: count(array) - left_out)
    loader = Loader(store, np.arange(store.count), 2, seed=1)
    expected = [batch.images.copy() for batch in Loader(store, np.arange(store.count), 2, seed=1).epoch(1)]
    # Of each batch no more than a view of a part is held: that is enough.
    held = [batch.images[:1, 1:, ::2] for batch in loader.epoch(1)]
    for view, images in zip(held, expected, strict=True):
        np.testing.assert_array_equal(view, images[:1, 1:, ::2])
    del held, view
    for _ in range(3):
        for batch, images in zip(loader.epoch(1), expected, strict=True):
            np.testing.assert_array_equal(batch.images, images)
    assert all(len(recycled._owners) <= loader_module._MOST_RECYCLED for recycled in loader._memory)
    before = {owner.ctypes.data for owner in loader._memory[0]._owners}
    assert any(batch.images.ctypes.data in before for batch in loader.epoch(2))
