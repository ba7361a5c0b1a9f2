"""The HDF5 contract: what is written, what is read back, what is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from store_files import COUNT, HEIGHT, SIZES, WIDTH, content, truths, write_store

from core.base.errors import UserError
from data.hdf5.row_layout import RowFile
from data.hdf5.store import ImageMetadata, Store, check_room, finish, lay_out, write


def read_all(store: Store, indices: list[int]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    shape = (len(indices), store.height, store.width, 1)
    images, masks = np.full(shape, 9, np.float32), np.full(shape, 9, np.uint8)
    store.read(np.array(indices), images, masks)
    return images, masks


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
def test_rows_may_be_there_before_the_file_is_one(tmp_path: Path, storage: str) -> None:
    """Put in any order, by several; and finishing may be interrupted, and done again."""
    images, masks = content()
    stored = np.rint(images * 255).astype(np.uint8) if storage == "uint8" else images
    path = tmp_path / "rows"
    layout = lay_out(tmp_path / "scratch", COUNT, (HEIGHT, WIDTH), [storage, "uint8"], 3)
    path.touch()
    several = RowFile(path, layout), RowFile(path, layout)
    for row in (3, 6, 0, 5, 8, 1, 4, 2):  # the eighth is none of the file's
        several[row % 2].put(row, (stored[row % COUNT], masks[row % COUNT]))
    rows = ImageMetadata([f"{n}" for n in range(COUNT)], SIZES, masks.any(axis=(1, 2)), runs=[])
    with pytest.raises(UnicodeEncodeError):
        finish(path, rows, layout, {"attribute": "\udcff"})
    for attempt in range(2):
        for row in range(COUNT):
            found = several[0].get(row)
            np.testing.assert_array_equal(found[0], stored[row])
            np.testing.assert_array_equal(found[1], masks[row])
        assert finish(path, rows, layout, {"attribute": attempt}) == 3
    for file in several:
        file.close()
    with Store.open(path) as store:
        found_images, found_masks = read_all(store, list(range(COUNT)))
        np.testing.assert_array_equal(found_images[..., 0], images)
        np.testing.assert_array_equal(found_masks[..., 0], masks)
        assert store.attributes["attribute"] == 1
    write(tmp_path / "a.h5", rows, (HEIGHT, WIDTH), iter([(stored, masks)]), per_dataset=3, storage=storage,
          attributes={"attribute": 1})  # fmt: skip
    assert path.read_bytes() == (tmp_path / "a.h5").read_bytes()


def test_the_layout_is_the_contract(tmp_path: Path) -> None:
    write_store(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert [len(file[f"images_{n}"]) for n in range(3)] == [3, 3, 1]
        for number in range(3):
            images, masks = file[f"images_{number}"], file[f"ann_{number}"]
            assert images.shape == masks.shape == (len(images), HEIGHT, WIDTH, 1)
            assert (images.dtype, masks.dtype) == (np.float32, np.uint8)
            assert images.chunks is None
            assert masks.chunks is None
        assert len(file) == 18


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


def replace(name: str, **options: Any) -> Callable[[h5py.File], None]:
    def breaking(file: h5py.File) -> None:
        del file[name]
        if options:
            file.create_dataset(name, **options)

    return breaking


def no_scale(file: h5py.File) -> None:
    images = np.zeros((3, HEIGHT, WIDTH, 1), np.uint8)
    replace("images_1", data=images)(file)


def no_images(file: h5py.File) -> None:
    for number in range(3):
        del file[f"images_{number}"]


def mask_of_255(file: h5py.File) -> None:
    for number in range(3):
        del file[f"positive_{number}"]
    file["ann_1"][1, 2, 3] = 255


@pytest.mark.parametrize(
    ("breaking", "says"),
    [
        (no_images, ["images_0", "ann_0", "no such dataset"]),
        (replace("ann_0"), ["ann_0", "no such dataset", "(3, 5, 4, 1)"]),
        (replace("images_1"), ["images_1", "no such dataset"]),
        (replace("images_2"), ["images_2", "no such dataset"]),
        (replace("ann_1", shape=(2, 5, 4, 1), dtype="u1"), ["ann_1", "(2, 5, 4, 1)", "(3, 5, 4"]),
        (replace("images_0", shape=(3, 5, 4), dtype="f4"), ["images_0", "(3, 5, 4)"]),
        (replace("images_0", shape=(3, 5, 4, 3), dtype="f4"), ["images_0", "(3, 5, 4, 3)"]),
        (replace("images_0", shape=(0, 5, 4, 1), dtype="f4"), ["images_0", "(0, 5, 4, 1)"]),
        (replace("images_1", shape=(3, 9, 4, 1), dtype="f4"), ["images_1", "(3, 9, 4, 1)"]),
        (replace("images_1", shape=(3, 5, 4, 1), dtype="f8"), ["images_1", "float64", "float32"]),
        (replace("ann_2", shape=(1, 5, 4, 1), dtype="i4"), ["ann_2", "int32", "uint8"]),
        (replace("ids_1"), ["ids_1"]),
        (replace("ids_1", shape=(3,), dtype="i4"), ["ids_1", "int32", "strings"]),
        (replace("sizes_2", shape=(1, 3), dtype="i4"), ["sizes_2", "(1, 3)"]),
        (replace("positive_0", shape=(2,), dtype="u1"), ["positive_0", "(2,)"]),
        (no_scale, ["images_1", "scale"]),
        (mask_of_255, ["ann_1", "255"]),
    ],
)
def test_a_broken_contract_is_named(
    tmp_path: Path, breaking: Callable[[h5py.File], None], says: list[str]
) -> None:
    path = tmp_path / "a.h5"
    write_store(path)
    with h5py.File(path, "r+") as file:
        breaking(file)
    with pytest.raises(UserError) as caught:
        Store.open(path)
    for part in [str(path), "expected", "Make one with", *says]:
        assert part in str(caught.value)
    path.unlink()  # nothing holds it


@pytest.mark.parametrize("kept", [0, 7, 700, 5000])
def test_files_cut_off(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.h5"
    write_store(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="not a whole HDF5 file"):
        Store.open(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Store.open(tmp_path / "a.h5")
    with pytest.raises(UserError, match="folder"):
        Store.open(tmp_path)


def test_the_truth_at_the_original_size(tmp_path: Path) -> None:
    write_store(tmp_path / "a.h5")
    with Store.open(tmp_path / "a.h5") as store:
        for index, truth in enumerate(truths()):
            np.testing.assert_array_equal(store.truth(index), truth)
        with pytest.raises(IndexError, match="index 7 of 7"):
            store.truth(7)


def test_the_truth_of_a_file_without_runs(tmp_path: Path) -> None:
    """Known where an image was not resized; a guess from the stored mask is not the truth."""
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
    """A filter finds a checksum wrong; that is h5py's own error, and names no file."""
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


def test_no_lock_of_hdf5s_is_asked_for(tmp_path: Path) -> None:
    """HDF5 fails where a file system refuses locks (ENOLCK); one that is taken already shows the same."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "a.h5"
    write_store(path)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with Store.open(path) as store:
            assert store.height > 0


def test_a_lock_that_is_asked_for_is_no_fault_of_the_file(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "a.h5"
    write_store(path)
    code = (
        "import sys; from pathlib import Path; from data.hdf5.store import open_file\n"
        "from core.base.errors import UserError\n"
        "try: open_file(Path(sys.argv[1]))\n"
        "except UserError as error: print(error.message, error.hint)"
    )
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "HDF5_USE_FILE_LOCKING": "TRUE"},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    assert "HDF5 cannot lock it" in done.stdout
    assert "Unset HDF5_USE_FILE_LOCKING" in done.stdout
    assert "not a whole" not in done.stdout


def test_room_is_asked_for_where_the_file_system_can_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(number: int) -> Callable[..., None]:
        def fallocate(*_: int) -> None:
            raise OSError(number, os.strerror(number))

        return fallocate

    for number in (errno.EOPNOTSUPP, errno.EINVAL):  # it is no kind of room that it lacks
        monkeypatch.setattr(os, "posix_fallocate", answer(number))
        check_room(tmp_path / "a", 1000)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        monkeypatch.setattr(os, "posix_fallocate", answer(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            check_room(tmp_path / "a", 1000)
