"""`preprocess.py verify`: the table, the faults, the overlays, and the exit status."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import content, prepare, refused, run_here, succeed
from PIL import Image

from core.files.names import file_name
from core.pictures.radiographs import outline
from data.hdf5.store import Store

VERIFY = {"program": "preprocess.py", "how": run_here}


def test_a_whole_file_passes_and_is_drawn(folder: Path) -> None:
    before = (folder / "data.h5").read_bytes()
    words = ["verify", "data.h5", "--overlays", "look/here", "--count", "6"]
    said = succeed(*words, cwd=folder, program="preprocess.py")
    assert "no faults" in said
    assert "8 (33.3%)" in said
    assert "6 images drawn in look/here" in said
    drawn = {path.stem: np.asarray(Image.open(path)) for path in (folder / "look/here").iterdir()}
    assert len(drawn) == 6
    with Store.open(folder / "data.h5") as store:
        assert sum(bool(store.positive[store.ids.index(name)]) for name in drawn) == 5
        for name, picture in drawn.items():
            row = np.array([store.ids.index(name)])
            image, mask = np.empty((1, 32, 32, 1), np.float32), np.empty((1, 32, 32, 1), np.uint8)
            store.read(row, image, mask)
            assert picture.shape == (8 * 32, 8 * (2 * 32 + 4), 3)
            plain, marked = picture[::8, : 8 * 32 : 8], picture[::8, 8 * 36 :: 8]
            assert np.abs(plain[..., 0] / 255.0 - image[0, ..., 0]).max() <= 0.5 / 255 + 1e-6
            edge = outline(mask[0, ..., 0])
            np.testing.assert_array_equal((marked == (0, 255, 0)).all(axis=-1), edge)
            np.testing.assert_array_equal(marked[~edge], plain[~edge])
    assert (folder / "data.h5").read_bytes() == before


def test_another_seed_draws_others(folder: Path) -> None:
    for seed in ("0", "1"):
        words = ["--overlays", seed, "--count", "4", "--seed", seed]
        succeed("verify", "data.h5", *words, cwd=folder, **VERIFY)
    assert sorted(content(folder / "0")) != sorted(content(folder / "1"))


def test_every_fault_is_a_line_and_the_status_says_so(folder: Path) -> None:
    with h5py.File(folder / "data.h5", "r+") as file:
        file["images_1"][3, 0, 0, 0] = np.inf
        file["sizes_2"][1] = 0
        del file["ann_2"]
    done = run_here("verify", "data.h5", "--overlays", "look", cwd=folder, program="preprocess.py")
    assert (done.returncode, done.stderr) == (3, "")
    for line in (
        "fault: images_1: values outside [0, 1] in image 3",
        "fault: sizes_2: a height or width below 1 in image 1",
        "fault: ann_2: missing",
        "3 faults",
        "no overlays: data.h5, dataset ann_2: found no such dataset",
    ):
        assert line in done.stdout
    assert not (folder / "look").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.h5"], ["the data file nowhere.h5 does not exist"]),
        ([], ["the data file pneumothorax.h5 does not exist"]),
        (["network.yaml"], ["network.yaml is not a whole HDF5 file"]),
        (["data.h5", "--overlays", "look", "--count", "0"], ["--count must be at least 1. Received: 0"]),
    ],
)
def test_what_cannot_be_checked_is_one_clear_error(folder: Path, words: list[str], says: list[str]) -> None:
    refused("verify", *words, cwd=folder, says=says, **VERIFY)


def test_a_folder_for_pictures_that_is_a_file(folder: Path) -> None:
    done = run_here("verify", "data.h5", "--overlays", "network.yaml", cwd=folder, program="preprocess.py")
    assert done.returncode == 1
    assert "error: --overlays network.yaml is not a folder" in done.stderr


@pytest.mark.parametrize(
    "image_id", ["../../etc/passwd", "a/b", "a\\b", "", ".", "NUL", "é", "x" * 300, "a\nb", ".x"]
)
def test_any_id_becomes_the_name_of_a_file(tmp_path: Path, image_id: str) -> None:
    name = file_name(image_id)
    (tmp_path / f"{name}.png").touch()
    assert [path.name for path in tmp_path.rglob("*")] == [f"{name}.png"]
    assert name != file_name(f"{image_id}?")
    assert name.isascii()
    assert file_name("1.2.276.0-a_B") == "1.2.276.0-a_B"


def test_strange_ids_are_drawn_in_the_folder(tmp_path: Path) -> None:
    prepare(tmp_path, images=2)
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        del file["ids_0"]
        file["ids_0"] = np.array([b"../up", b"a/b"])
    succeed("verify", "data.h5", "--overlays", "look", "--count", "8", cwd=tmp_path, **VERIFY)
    assert len(content(tmp_path / "look")) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"data.h5", "network.yaml", "look"}
