"""Rows of HDF5 datasets in every kind of storage, compared with h5py's own reading."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data.hdf5 import row_reader
from data.hdf5.row_reader import RowReader

ROWS = np.random.default_rng(0).integers(0, 256, (5, 3, 7, 1))


def external(file: h5py.File, folder: Path) -> h5py.Dataset:
    """Store the rows in another file."""
    where = [(str(folder / "elsewhere"), 0, h5py.h5f.UNLIMITED)]
    dataset = file.create_dataset("x", ROWS.shape, np.uint8, external=where)
    dataset[:] = ROWS
    return dataset


STORED: dict[str, Callable[[h5py.File, Path], h5py.Dataset]] = {
    "as it is": lambda file, _: file.create_dataset("x", data=ROWS.astype(np.uint8)),
    "float32": lambda file, _: file.create_dataset("x", data=ROWS.astype(np.float32)),
    "chunked": lambda file, _: file.create_dataset("x", data=ROWS.astype(np.uint8), chunks=(2, 3, 7, 1)),
    "compressed": lambda file, _: file.create_dataset("x", data=ROWS.astype(np.uint8), compression="gzip"),
    "the other byte order": lambda file, _: file.create_dataset("x", data=ROWS.astype(">f4")),
    "never written": lambda file, _: file.create_dataset("x", ROWS.shape, np.uint8, fillvalue=9),
    "external": external,
}


@pytest.mark.parametrize("userblock", [0, 512])
@pytest.mark.parametrize("name", STORED)
def test_rows_are_what_h5py_reads(tmp_path: Path, name: str, userblock: int) -> None:
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=userblock) as file:
        STORED[name](file, tmp_path)
    with h5py.File(tmp_path / "x.h5") as file, (tmp_path / "x.h5").open("rb") as raw:
        dataset = file["x"]
        expected = dataset[:]
        column, without = RowReader(dataset, raw.fileno()), RowReader(dataset, None)
        assert len(column) == len(ROWS)
        for index in (3, 0, 4):
            for one in (column, without):
                found = np.full(ROWS.shape[1:], 77, expected.dtype.newbyteorder("="))
                one.read(index, found)
                np.testing.assert_array_equal(found, expected[index])


def test_only_what_lies_in_the_file_as_in_memory_is_read_past_h5py(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def preadv(*arguments: Any) -> int:
        read.append(name)
        return real(*arguments)

    real = os.preadv
    monkeypatch.setattr(row_reader.os, "preadv", preadv)
    for name in STORED:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            STORED[name](file, tmp_path)
        with h5py.File(tmp_path / "x.h5") as file, (tmp_path / "x.h5").open("rb") as raw:
            dataset = file["x"]
            RowReader(dataset, raw.fileno()).read(
                1, np.empty(ROWS.shape[1:], dataset.dtype.newbyteorder("="))
            )
    assert read == ["as it is", "float32"]


def test_a_row_beyond_the_dataset_or_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=ROWS.astype(np.uint8))
        begin = file["x"].id.get_offset()
    with h5py.File(path) as file, path.open("rb") as raw:
        column, out = RowReader(file["x"], raw.fileno()), np.empty(ROWS.shape[1:], np.uint8)
        for index in (-1, 5):
            with pytest.raises(IndexError, match=f"row {index} of 5"):
                column.read(index, out)
        os.truncate(path, begin + 2 * out.size + 3)
        column.read(1, out)
        with pytest.raises(OSError, match="the file ends within row 2"):
            column.read(2, out)


def test_a_read_that_gives_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=ROWS.astype(np.uint8))
    real = os.preadv
    monkeypatch.setattr(row_reader.os, "preadv", lambda file, views, at: real(file, [views[0][:4]], at))
    with h5py.File(tmp_path / "x.h5") as file, (tmp_path / "x.h5").open("rb") as raw:
        out = np.empty(ROWS.shape[1:], np.uint8)
        RowReader(file["x"], raw.fileno()).read(3, out)
    np.testing.assert_array_equal(out, ROWS[3])
