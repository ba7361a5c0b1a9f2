"""Tests of reading a folder: images equal those of a data file, and every file gives one reading."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.hdf5.store import Store
from data.preprocessing.preprocessing import preprocess
from data.preprocessing.settings import PreprocessingSettings
from data.radiographs import dicom, reading
from data.radiographs.reading import ImageFile, read_all

WriteDicom = Callable[..., Path]


def test_images_are_those_of_a_data_file_to_the_bit(write_dicom: WriteDicom, tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    sizes = {"a": (128, 128), "b": (33, 70), "c": (41, 19), "d": (24, 24), "e": (61, 300)}
    for name, size in sizes.items():
        pixels = random.integers(0, 255, size).astype(np.uint8)
        write_dicom(pixels, f"images/{name}.dcm", PhotometricInterpretation="MONOCHROME1")
    deep = random.integers(0, 4095, (77, 90)).astype(np.uint16)
    write_dicom(deep, "images/f.dcm", stored=12, RescaleSlope=2, RescaleIntercept=-5)
    write_dicom(deep, "images/g.dcm", stored=12, WindowCenter=1800, WindowWidth=900)
    folder = tmp_path / "images"
    preprocess(PreprocessingSettings(folder, None, tmp_path / "data.h5", size=24, workers=1))
    found = list(read_all(folder, dicom.find(folder), 24, 24, workers=1))
    with Store.open(tmp_path / "data.h5") as store:
        stored = np.empty((store.count, 24, 24, 1), np.float32)
        store.read(np.arange(store.count), stored, None)
        assert [one.source.image_id for one in found] == list(store.ids) == list("abcdefg")
        assert [(one.source.height, one.source.width) for one in found] == [*map(tuple, store.sizes)]
    for one, image in zip(found, stored[..., 0], strict=True):
        assert one.image is not None
        np.testing.assert_array_equal(one.image, image)


def test_what_cannot_be_read_has_a_reason(write_dicom: WriteDicom, tmp_path: Path) -> None:
    write_dicom(np.eye(9, dtype=np.uint8), "images/1/x.dcm", PatientOrientation=["R", "F"])
    write_dicom(np.eye(9, dtype=np.uint8), "images/2/x.dcm", SOPInstanceUID="1.2.9", NumberOfFrames=1)
    (tmp_path / "images" / "torn.dcm").write_text("no image")
    folder = tmp_path / "images"
    first, second, torn = read_all(folder, dicom.find(folder), 4, 5, workers=1)
    assert (first.source.image_id, first.source.uid, first.source.name) == ("1.2.3.4", "1.2.3.4", "1/x.dcm")
    assert first.source.geometry.left == "L"
    assert first.image is not None
    assert first.image.shape == (4, 5)
    assert second.source.image_id == "1.2.9"
    assert (torn.image, torn.source.image_id) == (None, "torn")
    assert (torn.source.height, torn.source.width) == (0, 0)
    assert torn.source.reason


def die(_file: Path) -> reading.Reading:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_file_that_kills_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_read", die)
    (one,) = read_all(tmp_path, [tmp_path / "x.dcm"], 4, 5, workers=1)
    reason = "reading it killed the process (a decoder's defect, or out of memory)"
    assert one.source == ImageFile(tmp_path / "x.dcm", "x.dcm", "x", reason=reason)
    assert one.image is None
