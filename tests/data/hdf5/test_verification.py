"""Checking a file in full: whole files pass, and every fault of a broken one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from store_files import COUNT, HEIGHT, WIDTH, content, write_store
from test_file_format import no_scale, replace

from core.base.errors import UserError
from data.annotations import rle
from data.hdf5 import verification
from data.hdf5.file_writing import ImageMetadata, write
from data.hdf5.verification import verify

Breaking = Callable[[h5py.File], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Seven images in three datasets, with sizes and the attributes that `preprocess` gives."""
    path = tmp_path / "a.h5"
    write_store(path)
    with h5py.File(path, "r+") as file:
        file.attrs["annotations_sha256"] = np.bytes_("0123456789abcdef" * 4)
        file.attrs["positives"] = 6
    return path


def break_file(path: Path, *changes: Breaking) -> None:
    with h5py.File(path, "r+") as file:
        for change in changes:
            change(file)


def put(name: str, where: object, value: object) -> Breaking:
    def breaking(file: h5py.File) -> None:
        file[name][where] = value

    return breaking


def say(name: str, value: object) -> Breaking:
    stored = np.bytes_(value) if isinstance(value, str) else value
    return lambda file: file.attrs.__setitem__(name, stored)


def without(*columns: str) -> Breaking:
    def breaking(file: h5py.File) -> None:
        for key in [key for key in file if key.split("_")[0] in columns]:
            del file[key]

    return breaking


def add(name: str, values: object) -> Breaking:
    return lambda file: file.__setitem__(name, values)


@pytest.mark.parametrize("block", [1, 50, 10**6])
def test_a_whole_file_has_no_fault(path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(verification, "_BLOCK_BYTES", block)
    seen: list[tuple[int, int]] = []
    verdict = verify(path, lambda done, total: seen.append((done, total)))
    assert verdict.faults == ()
    assert seen == [(3, 7), (6, 7), (7, 7)]
    facts = {name.strip(): value for name, value in verdict.facts}
    images, masks = content()
    assert (facts["images"], facts["datasets of images"], facts["storage"]) == ("7", "3", "float32")
    assert facts["height and width"] == "5 x 4"
    assert facts["with a pneumothorax"] == "6 (85.7%)"
    assert facts["too small for this size"] == "1"
    assert facts["mean share of the image"] == f"{masks.sum() / 5 / 20:.2%}"
    assert images.min() >= 0


def test_images_of_a_single_value_are_counted(path: Path) -> None:
    def said() -> str:
        return dict(verify(path).facts)["images of a single value"]

    assert said() == "0"
    break_file(path, put("images_0", 1, 0.25), put("images_2", 0, 0), put("ann_1", 0, 0))
    assert said() == "2"


def test_other_whole_files(tmp_path: Path) -> None:
    write_store(tmp_path / "small.h5", "uint8", per_dataset=7)
    break_file(
        tmp_path / "small.h5",
        without("sizes", "ids", "positive", "runs"),
        say("annotations_sha256", "a" * 64),
    )
    with h5py.File(tmp_path / "small.h5", "r+") as file:
        for name in list(file.attrs):
            del file.attrs[name]
    assert verify(tmp_path / "small.h5").faults == ()  # images and masks are all that others need
    rows = ImageMetadata(
        [*"abcdefg"], np.full((COUNT, 2), 3, np.int32), None, ["0", "", "1", "0", "1", "2", ""]
    )
    blocks = iter([(content()[0],)])
    write(
        tmp_path / "test.h5", rows, (HEIGHT, WIDTH), blocks, per_dataset=4, storage="float32", attributes={}
    )
    verdict = verify(tmp_path / "test.h5")
    assert verdict.faults == ()
    assert ("annotations", "none") in verdict.facts
    assert ("patients", "3") in verdict.facts


COUNTS = ["attribute images: found 7", "attribute positives: found 6"]
"""What else is said where a dataset cannot be counted."""


@pytest.mark.parametrize(
    ("breaking", "says"),
    [
        (replace("ann_1"), ["ann_1: missing"]),
        (replace("images_1"), ["images_1: missing", *COUNTS]),
        (replace("sizes_0"), ["sizes_0: missing"]),
        (replace("runs_1"), ["runs_1: missing"]),
        (replace("runs_1", data=np.zeros((0, 2), np.int64)), ["runs_1", "(0, 2)", "(any, 3)"]),
        (put("runs_0", (0, 1), -1), ["runs_0: overlapping runs, or pixels outside in image 0"]),
        (put("positive_0", 2, 1), ["runs_0: not what positive_0 says in image 2", "attribute positives"]),
        (put("runs_0", (-1, 0), 3), ["runs_0: images that are not ascending from 0 to 2"]),
        (put("runs_2", np.s_[:, 0], 1), ["runs_2: images that are not ascending from 0 to 0"]),
        (put("ann_1", (0, 4, 3, 0), 1 - content()[1][3, 4, 3]), ["runs_1: not the mask of ann_1 in image 0"]),
        (add("positive_3", np.ones(1, np.uint8)), ["positive_3: there is no images_3"]),
        (add("patients_1", np.array([b"a", b"b", b""])), ["patients_0: missing", "patients_2: missing"]),
        (without("ids"), ["ids_0: missing", "ids_1: missing", "ids_2: missing"]),
        (replace("ann_1", data=np.zeros((2, 5, 4, 1), np.uint8)), ["ann_1", "(2, 5, 4, 1)"]),
        (replace("ann_2", data=np.zeros((1, 5, 4, 1), np.int32)), ["ann_2: type int32, expected uint8"]),
        (replace("images_1", data=np.zeros((3, 5, 4, 1))), ["images_1", "float64", "float32"]),
        (no_scale, ["images_1", "without a scale", "attribute storage"]),
        (replace("images_1", data=np.zeros((3, 9, 4, 1), np.float32)), ["images_1", "(3, 9, 4, 1)", *COUNTS]),
        (
            replace("images_0", shape=(3, 5, 4, 1), dtype="f4"),
            ["images_0: 0 of 240 bytes were written", *COUNTS],
        ),
        (put("images_1", (2, 3, 1, 0), 1.5), ["images_1: values outside [0, 1] in image 2"]),
        (put("images_1", (0, 3, 1, 0), np.nan), ["images_1: values outside [0, 1] in image 0"]),
        (
            put("images_0", np.s_[1:, 0, 0, 0], -0.1),
            ["images_0: values outside [0, 1] in image 1 and 1 more"],
        ),
        (
            put("ann_2", (0, 4, 3, 0), 255),
            ["ann_2: values other than 0 and 1 in image 0", "runs_2: not the mask"],
        ),
        (
            put("positive_1", 0, 0),
            ["positive_1: 0, but a mask in ann_1 in image 0", "runs_1: not what positive_1", COUNTS[1]],
        ),
        (put("positive_1", 1, 3), ["positive_1: a value other than 0 and 1 in image 1", COUNTS[1]]),
        (
            replace("positive_2", data=np.ones(1, np.int8)),
            ["positive_2: type int8, expected uint8", COUNTS[1]],
        ),
        (put("sizes_1", (2, 1), 0), ["sizes_1: a height or width below 1 in image 2"]),
        (replace("sizes_1", data=np.ones((3, 2), np.int64)), ["sizes_1: type int64, expected int32"]),
        (replace("ids_1", data=np.arange(3)), ["ids_1: type int64, expected strings"]),
        (
            replace("ids_1", data=np.array([b"q", b"", b"q"])),
            ["2 images have the id 'q'", "ids_1[1]: an empty id"],
        ),
        (
            replace("ids_1", data=np.array([b"q", b"q", b"q"])),
            ["ids_1[0], ids_1[1], ids_1[2]: 3 images have the id 'q'"],
        ),
        (replace("ids_1", data=np.array([b"q", b"\xff", b"r"])), ["ids_1: cannot be read"]),
        (say("images", 8), ["attribute images: found 8, expected 7"]),
        (say("width", 5), ["attribute width: found 5, expected 4"]),
        (say("storage", "uint8"), ["attribute storage: found 'uint8', expected float32"]),
        (say("format", "other"), ["attribute format: found 'other', expected pneumoseg-data"]),
        (say("format_version", 99), ["attribute format_version: found 99"]),
        (say("positives", 5), ["attribute positives: found 5, expected 6"]),
        (say("annotations_sha256", "abc"), ["attribute annotations_sha256: found 'abc'"]),
        (say("height", np.arange(3)), ["attribute height"]),
        (say("clahe_limit", 2.0), ["clahe_tiles: found [2.0, None], expected a whole number"]),
        (say("clahe_tiles", 4), ["clahe_tiles: found [None, 4], expected a number from 1 to 256"]),
        (lambda file: file.attrs.__delitem__("annotated"), ["attribute annotated: found nothing"]),
        (say("annotated", False), ["ann_0: there, but 'annotated' is false", "there, but", COUNTS[1]]),
    ],
)
def test_a_fault_is_named(path: Path, breaking: Breaking, says: list[str]) -> None:
    break_file(path, breaking)
    faults = verify(path).faults
    for text in says:
        assert any(text in fault for fault in faults), faults
    for fault in faults:  # one mistake is not told as several
        assert any(text in fault for text in says), faults
        assert str(path) not in fault


def faults_of(folder: Path, truth: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[str, ...]:
    """Return the faults of a file of one image with these masks at the original and at the stored size."""
    rows = ImageMetadata(
        ids=["a"],
        sizes=np.array([truth.shape], np.int32),
        positive=np.array([truth.any()]),
        runs=[rle.runs(rle.encode(truth))],
    )
    pixels = np.random.default_rng(3).random((1, *mask.shape), np.float32)
    folder.mkdir()
    size, blocks = (len(mask), len(mask[0])), iter([(pixels, mask[None])])
    write(folder / "a.h5", rows, size, blocks, per_dataset=1, storage="float32", attributes={})
    return verify(folder / "a.h5").faults


NOT_THE_MASK = ("runs_0: not the mask of ann_0 in image 0",)


def test_masks_are_held_against_the_rule_itself(tmp_path: Path) -> None:
    """8 -> 3: a pixel has 64 parts; of those in the middle row, the first four input rows are 32."""
    truth = np.zeros((8, 8), np.uint8)
    truth[:4] = 1
    assert faults_of(tmp_path / "a", truth, np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0]], np.uint8)) == ()
    less = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]], np.uint8)
    assert faults_of(tmp_path / "b", truth, less) == NOT_THE_MASK
    truth[2, 2] = 0  # two parts of pixel (1, 0), and one of pixel (1, 1)
    assert faults_of(tmp_path / "c", truth, np.array([[1, 1, 1], [0, 0, 1], [0, 0, 0]], np.uint8)) == ()
    more = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 0]], np.uint8)
    assert faults_of(tmp_path / "d", truth, more) == NOT_THE_MASK


def test_what_was_once_rounded_off_is_no_fault(tmp_path: Path) -> None:
    """2027 -> 1013: an output row has 2027 parts, and older files differ by one part."""
    truth = (np.random.default_rng(3).random((2027, 1)) < 0.5).astype(np.uint8)
    parts = np.repeat(truth[:, 0], 1013).reshape(1013, 2027).sum(axis=1, dtype=int)
    mask = (2 * parts >= 2027).astype(np.uint8)[:, None]
    assert faults_of(tmp_path / "whole", truth, mask) == ()
    for beyond, faults in ((-1, ()), (1, ()), (-13, NOT_THE_MASK), (9, NOT_THE_MASK)):
        changed = mask.copy()
        changed[2 * parts - 2027 == beyond] ^= 1
        assert (changed != mask).any()
        assert faults_of(tmp_path / str(beyond), truth, changed) == faults


def test_all_faults_are_named_at_once(path: Path) -> None:
    one_and_another = [
        (put("images_0", (1, 0, 0, 0), 2), "images_0"),
        (replace("ann_1"), "ann_1"),
        (put("sizes_2", (0, 0), -1), "sizes_2"),
        (replace("ids_0", data=np.arange(3)), "ids_0"),
        (say("width", 9), "attribute width"),
    ]
    break_file(path, *(breaking for breaking, _ in one_and_another))
    faults = verify(path).faults
    assert len(faults) == len(one_and_another)
    for _, name in one_and_another:
        assert sum(fault.startswith(name) for fault in faults) == 1


def test_datasets_of_uneven_length(tmp_path: Path) -> None:
    images, masks = content()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number, part in enumerate((np.s_[:2], np.s_[2:3], np.s_[3:5], np.s_[5:])):
            file[f"images_{number}"], file[f"ann_{number}"] = images[part, ..., None], masks[part, ..., None]
    assert verify(tmp_path / "a.h5").faults == ("images_1: 1 images, but others have 2",)


def test_huge_claims_are_refused_before_anything_is_read(path: Path) -> None:
    claim = {"shape": (3, 60_000, 60_000, 1), "dtype": "f4", "chunks": (1, 1000, 1000, 1)}
    break_file(path, replace("images_0", **claim))
    assert any("60000x60000; the limit is 8192" in fault for fault in verify(path).faults)


def test_damage_inside(tmp_path: Path) -> None:
    """Invert bytes of a compressed dataset: its checksum is wrong when it is read."""
    images, masks = content()
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images_0", data=images[..., None], chunks=(2, 5, 4, 1), fletcher32=True)
        file["ann_0"] = masks[..., None]
    raw = path.read_bytes()
    place = raw.index(images[4].tobytes())
    path.write_bytes(raw[:place] + b"\x55\x55" + raw[place + 2 :])
    faults = verify(path).faults
    assert len(faults) == 1
    assert faults[0].startswith("images_0: cannot be read from image 0 on")


@pytest.mark.parametrize("kept", [0, 700, 5000])
def test_what_is_no_data_file_is_an_error(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="not a whole HDF5 file"):
        verify(path)
    with h5py.File(path, "w") as file:
        file["pixels"] = np.arange(4)
    with pytest.raises(UserError, match="images_0: found no such dataset"):
        verify(path)


def test_bits_turned_over_anywhere_end_as_a_verdict_or_an_error(path: Path) -> None:
    random = np.random.default_rng(4)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    outcomes = set()
    for _ in range(150):
        changed = whole.copy()
        changed[random.integers(0, len(whole), 4)] ^= 1 << random.integers(0, 8, 4).astype(np.uint8)
        path.write_bytes(changed.tobytes())
        try:
            outcomes.add(bool(verify(path).faults))
        except UserError:
            outcomes.add(None)
    assert outcomes >= {True, False}
