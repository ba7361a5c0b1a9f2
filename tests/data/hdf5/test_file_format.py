"""Files that break the format are refused with the place named; what cannot be opened is named too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store_files import HEIGHT, WIDTH, write_store

from core.base.errors import UserError
from data.hdf5.store import Store


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


def test_no_lock_of_hdf5s_is_asked_for(tmp_path: Path) -> None:
    """HDF5 fails where a file system refuses locks (ENOLCK). A lock that is taken has the same effect."""
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
        "import sys; from pathlib import Path; from data.hdf5.file_format import open_file\n"
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
