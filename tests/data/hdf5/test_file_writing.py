"""The layout of a written file, rows that are written before the file is complete, and a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from store_files import COUNT, HEIGHT, SIZES, WIDTH, content, read_all, write_store

from data.hdf5.file_writing import ImageMetadata, complete_file, compute_layout, reserve_space, write
from data.hdf5.row_layout import RowFile
from data.hdf5.store import Store


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_rows_may_be_there_before_the_file_is_one(tmp_path: Path, storage: str) -> None:
    """Several writers put rows in any order; completing the file may be interrupted and repeated."""
    images, masks = content()
    stored = np.rint(images * 255).astype(np.uint8) if storage == "uint8" else images
    path = tmp_path / "rows"
    layout = compute_layout(tmp_path / "scratch", COUNT, (HEIGHT, WIDTH), [storage, "uint8"], 3)
    path.touch()
    several = RowFile(path, layout), RowFile(path, layout)
    for row in (3, 6, 0, 5, 8, 1, 4, 2):  # the eighth is none of the file's
        several[row % 2].put(row, (stored[row % COUNT], masks[row % COUNT]))
    rows = ImageMetadata([f"{n}" for n in range(COUNT)], SIZES, masks.any(axis=(1, 2)), runs=[])
    with pytest.raises(UnicodeEncodeError):
        complete_file(path, rows, layout, {"attribute": "\udcff"})
    for attempt in range(2):
        for row in range(COUNT):
            found = several[0].get(row)
            np.testing.assert_array_equal(found[0], stored[row])
            np.testing.assert_array_equal(found[1], masks[row])
        assert complete_file(path, rows, layout, {"attribute": attempt}) == 3
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


def test_room_is_asked_for_where_the_file_system_can_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(number: int) -> Callable[..., None]:
        def fallocate(*_: int) -> None:
            raise OSError(number, os.strerror(number))

        return fallocate

    for number in (errno.EOPNOTSUPP, errno.EINVAL):  # it is no kind of room that it lacks
        monkeypatch.setattr(os, "posix_fallocate", answer(number))
        reserve_space(tmp_path / "a", 1000)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        monkeypatch.setattr(os, "posix_fallocate", answer(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            reserve_space(tmp_path / "a", 1000)
