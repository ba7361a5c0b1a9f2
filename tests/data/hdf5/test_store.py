"""Reading of a data file: the values that were written, without annotations, and damage met while reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from store_files import COUNT, HEIGHT, SIZES, WIDTH, content, read_all, truths, write_store

from core.base.errors import UserError
from data.hdf5.file_writing import ImageMetadata, write
from data.hdf5.store import Store


@pytest.mark.parametrize("storage", ["float32", "uint8"])
@pytest.mark.parametrize(("per_dataset", "block"), [(3, 2), (2, 5), (7, 7), (100, 1), (1, 3)])
def test_what_is_written_is_read(tmp_path: Path, storage: str, per_dataset: int, block: int) -> None:
    write_store(tmp_path / "a.h5", storage, per_dataset, block)
    images, masks = content()
    order = [6, 0, 3, 3, 2, 5, 1, 4]
    with Store.open(tmp_path / "a.h5") as store:
        assert (store.count, store.height, store.width) == (COUNT, HEIGHT, WIDTH)
        found_images, found_masks = read_all(store, order)
        np.testing.assert_array_equal(found_images[..., 0], images[order])
        np.testing.assert_array_equal(found_masks[..., 0], masks[order])
        assert store.ids[:2] == ("é0", "é1x")
        np.testing.assert_array_equal(store.sizes, SIZES)
        assert store.positive.tolist() == [True, True, False, True, True, True, True]
        assert store.attributes["annotations_sha256"] == "abc"
        assert store.attributes["images"] == COUNT


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_images_without_annotations_can_be_predicted_on_alone(tmp_path: Path, storage: str) -> None:
    images, _ = content()
    stored = np.rint(images * 255).astype(np.uint8) if storage == "uint8" else images
    rows = ImageMetadata([f"{n}" for n in range(COUNT)], np.full((COUNT, 2), 9, np.int32), positive=None)
    path = tmp_path / "test.h5"
    options = {"per_dataset": 4, "storage": storage, "attributes": {}}
    write(path, rows, (HEIGHT, WIDTH), iter([(stored[:3],), (stored[3:],)]), **options)
    with h5py.File(path) as file:
        assert sorted(file) == sorted(f"{name}_{n}" for name in ("images", "ids", "sizes") for n in (0, 1))
        assert not file.attrs["annotated"]
    with Store.open(path) as store:
        assert not store.annotated
        found = np.empty((COUNT, HEIGHT, WIDTH, 1), np.float32)
        store.read(np.arange(COUNT)[::-1], found, None)
        np.testing.assert_array_equal(found[::-1, ..., 0], images)
        with pytest.raises(UserError, match="--no-annotations"):
            store.read(np.arange(COUNT), found, np.empty(found.shape, np.uint8))
        with pytest.raises(UserError, match="--no-annotations"):
            _ = store.positive
    with h5py.File(path, "r+") as file:
        file["ann_1"] = np.zeros((3, HEIGHT, WIDTH, 1), np.uint8)
    with pytest.raises(UserError, match="ann_1: found masks, expected none"):
        Store.open(path)


def test_a_file_with_images_and_masks_alone(tmp_path: Path) -> None:
    images, masks = content()
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        for number, part in enumerate((slice(0, 4), slice(4, 7))):
            file[f"images_{number}"] = images[part, ..., None]
            file.create_dataset(f"ann_{number}", data=masks[part, ..., None], compression="gzip")
        file["something else"] = 3
    with Store.open(tmp_path / "foreign.h5") as store:
        assert store.ids == tuple("0123456")
        assert store.positive.tolist() == [bool(mask.any()) for mask in masks]
        np.testing.assert_array_equal(store.sizes[0], [HEIGHT, WIDTH])
        np.testing.assert_array_equal(read_all(store, [5, 1])[0][..., 0], images[[5, 1]])


def test_indices_that_are_not_there(tmp_path: Path) -> None:
    write_store(tmp_path / "a.h5")
    with Store.open(tmp_path / "a.h5") as store:
        for bad in (-1, 7):
            with pytest.raises(IndexError, match=str(bad)):
                read_all(store, [0, bad])


def test_the_truth_at_the_original_size(tmp_path: Path) -> None:
    write_store(tmp_path / "a.h5")
    with Store.open(tmp_path / "a.h5") as store:
        for index, truth in enumerate(truths()):
            np.testing.assert_array_equal(store.truth(index), truth)
        with pytest.raises(IndexError, match="index 7 of 7"):
            store.truth(7)


def test_the_truth_of_a_file_without_runs(tmp_path: Path) -> None:
    """It is known only if the image was not resized: a resized mask is not the original annotation."""
    write_store(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for number in range(3):
            del file[f"runs_{number}"]
    with Store.open(tmp_path / "a.h5") as store:
        np.testing.assert_array_equal(store.truth(0), content()[1][0])
        with pytest.raises(UserError, match="only at 5x4 pixels, but image é1x has 10x8"):
            store.truth(1)


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (np.array([[0, 3, 2]]), "not ascending"),
        (np.array([[0, 0, 21]]), "not ascending within 4x5 pixels"),
        (np.array([[0, 0, 9], [0, 8, 12]]), "not ascending"),
        (np.array([[0, 1, 2]], np.int32), "type int32"),
    ],
)
def test_runs_that_are_no_mask_are_refused(tmp_path: Path, runs: NDArray[Any], says: str) -> None:
    write_store(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["runs_0"]
        file["runs_0"] = runs
    with Store.open(tmp_path / "a.h5") as store, pytest.raises(UserError, match=f"runs_0.*{says}"):
        store.truth(0)


@pytest.mark.parametrize("name", ["images", "ann", "runs"])
def test_damage_met_while_reading_is_told_with_the_file(tmp_path: Path, name: str) -> None:
    """A wrong checksum makes h5py raise its own error, which does not name the file."""
    path = tmp_path / "a.h5"
    write_store(path, per_dataset=7)
    with h5py.File(path, "r+") as file:
        values = file[f"{name}_0"][:]
        del file[f"{name}_0"]
        file.create_dataset(f"{name}_0", data=values, chunks=values.shape, fletcher32=True)
    raw, found = path.read_bytes(), values.tobytes()
    place = raw.rindex(found) + len(found) // 2
    path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
    with Store.open(path) as store:
        read = (lambda: store.truth(0)) if name == "runs" else (lambda: read_all(store, [0, 1, 2]))
        with pytest.raises(UserError, match=r"a\.h5 is damaged"):
            read()


@pytest.mark.parametrize("value", [1.001, -0.25, np.nan, np.inf, -np.inf])
def test_a_grey_value_outside_of_0_to_1_is_refused(tmp_path: Path, value: float) -> None:
    write_store(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["images_1"][1, 2, 1] = value  # one pixel of image 4
    with Store.open(tmp_path / "a.h5") as store:
        read_all(store, [0, 3, 5])
        with pytest.raises(UserError, match="is damaged: images with values from"):
            read_all(store, [0, 4])


def test_a_negative_zero_is_a_zero(tmp_path: Path) -> None:
    write_store(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["images_1"][1, 2, 1] = -0.0
    with Store.open(tmp_path / "a.h5") as store:
        assert read_all(store, [4])[0][0, 2, 1, 0] == 0


def test_a_byte_above_the_scale_and_a_mask_of_2_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "a.h5", "uint8")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["images_0"].attrs["scale"] = 100.0
        file["images_0"][:] = 100
        file["images_0"][2, 0, 0] = 101
        file["ann_1"][0, 1, 1] = 2
    with Store.open(tmp_path / "a.h5") as store:
        assert (read_all(store, [0, 1])[0] == 1).all()
        with pytest.raises(UserError, match="is damaged: images with values from"):
            read_all(store, [2])
        with pytest.raises(UserError, match="is damaged: masks with values from"):
            read_all(store, [3])


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_images_and_masks_at_a_smaller_size(tmp_path: Path, storage: str) -> None:
    """Each reduced pixel against the mean over its area, written out."""
    write_store(tmp_path / "a.h5", storage, 3, 2)
    height, width, order = HEIGHT - 2, WIDTH - 3, [6, 0, 3, 3]

    def means(pixels: NDArray[Any]) -> NDArray[np.float64]:
        fine = np.repeat(np.repeat(pixels.astype(np.float64), height, axis=0), width, axis=1)
        return fine.reshape(height, HEIGHT, width, WIDTH).mean(axis=(1, 3))

    with Store.open(tmp_path / "a.h5") as store:
        images, masks = read_all(store, order)
        reduced = store.at_size(height, width)
        found_images, found_masks = read_all(reduced, order)
        assert found_images.shape == (len(order), height, width, 1)
        for row in range(len(order)):
            expected = means(images[row, ..., 0])
            np.testing.assert_allclose(found_images[row, ..., 0], expected, atol=1e-6)
            covered = means(masks[row, ..., 0])
            np.testing.assert_array_equal(found_masks[row, ..., 0], covered >= 0.5 - 1e-12)
        np.testing.assert_array_equal(reduced.truth(0), store.truth(0))
        assert (reduced.count, reduced.ids) == (store.count, store.ids)
        assert (store.height, store.width) == (HEIGHT, WIDTH)
        with pytest.raises(UserError, match=f"smaller than {HEIGHT + 1}x{WIDTH}"):
            store.at_size(HEIGHT + 1, WIDTH)


def test_equalised_images_keep_their_size(tmp_path: Path) -> None:
    write_store(tmp_path / "a.h5", "uint8", 3, 2)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["clahe_limit"], file.attrs["clahe_tiles"] = 2.0, 4
    with Store.open(tmp_path / "a.h5") as store:
        assert store.at_size(HEIGHT, WIDTH).height == HEIGHT
        with pytest.raises(UserError, match="equalised at"):
            store.at_size(HEIGHT - 1, WIDTH)
