"""The synthetic data set: its layout, its peculiarities, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGBaseline8Bit

from core.base.errors import UserError
from data.annotations.annotation_file import combined_mask, read_annotations
from data.phantoms.anatomy import draw
from data.phantoms.data_set import PhantomReport, PhantomSettings, write_phantoms
from data.radiographs import dicom

SMALL = PhantomSettings(count=14, size=96, seed=11, positive_fraction=0.5, workers=2)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> PhantomReport:
    folder = tmp_path_factory.mktemp("phantoms") / "demo"
    return write_phantoms(dataclasses.replace(SMALL, out=folder))


def test_the_layout_is_the_competitions(written: PhantomReport) -> None:
    paths = dicom.find(written.images)
    assert len(paths) == written.count == 14
    for path in paths:
        dataset = pydicom.dcmread(path)
        expected = Path(dataset.StudyInstanceUID, dataset.SeriesInstanceUID)
        assert path.relative_to(written.images) == expected / f"{dataset.SOPInstanceUID}.dcm"


def test_the_header_has_the_competitions_fields(written: PhantomReport) -> None:
    dataset = pydicom.dcmread(dicom.find(written.images)[0])
    assert dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert dataset.SOPInstanceUID.is_valid
    assert (dataset.Modality, dataset.ConversionType, dataset.ViewPosition) == ("CR", "WSD", "PA")
    assert (dataset.Rows, dataset.Columns, dataset.BitsStored) == (96, 96, 8)
    assert dataset.PatientID.startswith("PHANTOM")
    assert dataset.pixel_array.std() > 20


def test_the_header_is_that_of_a_real_file(written: PhantomReport, real_data: Path) -> None:
    (path,) = (real_data / "dicom").glob("1.2.276*.dcm")
    real, made = pydicom.dcmread(path), pydicom.dcmread(dicom.find(written.images)[0])
    assert [element.tag for element in made] == [element.tag for element in real]


def test_the_annotations_have_the_real_ones_oddities(written: PhantomReport) -> None:
    lines = written.annotations.read_text().splitlines()
    assert lines[0] == "ImageId, EncodedPixels"
    assert all(", " in line for line in lines)
    found = read_annotations(written.annotations)
    ids = {path.stem for path in dicom.find(written.images)}
    assert found.positives == written.positives == 7
    assert found.several == written.several
    assert len(ids - set(found.rows_of)) == written.without_annotation == 1
    assert len(set(found.rows_of) - ids) == 1


def test_some_images_have_several_regions_and_some_overlap() -> None:
    drawn = [draw(11, number, 96, True).regions for number in range(40)]
    several = [regions for regions in drawn if len(regions) == 2]
    assert 4 <= len(several) <= 25
    assert any((one & other).any() for one, other in several)
    assert all(regions for regions in drawn)


def test_a_region_is_dark_and_of_a_size_to_learn_from() -> None:
    for number in range(12):
        phantom = draw(3, number, 128, True)
        region = np.bitwise_or.reduce(phantom.regions) == 1
        assert 0.006 < region.mean() < 0.25
        assert phantom.pixels[region].mean() < np.median(phantom.pixels)
        assert draw(3, number, 128, False).regions == ()


GREY = [
    [6.6, 17.9, 39.7, 109.4, 177.4, 33.5, 6.7, 6.6],
    [118.0, 159.8, 117.1, 147.8, 179.8, 115.7, 128.1, 90.4],
    [147.5, 110.7, 84.2, 126.7, 164.6, 93.4, 74.6, 151.4],
    [148.0, 79.1, 98.9, 142.8, 165.8, 97.7, 64.4, 142.2],
    [136.4, 79.7, 95.6, 161.1, 187.6, 115.3, 62.4, 127.9],
    [117.7, 118.2, 126.5, 177.1, 199.6, 146.4, 75.3, 105.1],
    [171.9, 189.3, 194.0, 209.9, 205.6, 187.4, 159.2, 123.7],
    [183.8, 191.0, 196.1, 213.7, 205.7, 194.8, 189.3, 171.9],
]
"""Mean values of an 8 x 8 grid: dark lungs (columns 1 to 2 and 5 to 6), bright mediastinum and abdomen."""


def test_a_seed_gives_the_picture_that_it_gave_before() -> None:
    """Measurements on phantoms are repeatable: these means depend on everything that is drawn."""
    phantom = draw(3, 5, 192, True)
    means = phantom.pixels.reshape(8, 24, 8, 24).mean(axis=(1, 3))
    np.testing.assert_allclose(means, GREY, atol=0.2)
    assert [int(region.sum()) for region in phantom.regions] == [1296, 1427]
    assert 4 < np.diff(phantom.pixels[150:, 80:130].astype(float)).std() < 9, "the noise of a detector"


def test_the_same_seed_gives_the_same_bytes(written: PhantomReport, tmp_path: Path) -> None:
    again = write_phantoms(dataclasses.replace(SMALL, out=tmp_path / "again", workers=1))
    other = write_phantoms(dataclasses.replace(SMALL, out=tmp_path / "other", seed=12))

    def content(report: PhantomReport) -> dict[str, bytes]:
        files = [*report.images.rglob("*.dcm"), report.annotations]
        return {str(path.relative_to(report.images.parent)): path.read_bytes() for path in files}

    assert content(again) == content(written)
    assert not content(other).keys() & content(written).keys() - {"train-rle.csv"}


def test_every_annotation_fits_its_image(written: PhantomReport) -> None:
    found = read_annotations(written.annotations)
    for rows in found.rows_of.values():
        assert combined_mask(rows, 96, 96).any() == (not rows[0].empty)


def test_small_sets_have_every_annotation(tmp_path: Path) -> None:
    report = write_phantoms(dataclasses.replace(SMALL, out=tmp_path / "few", count=3))
    assert (report.count, report.without_annotation, report.positives) == (3, 0, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 0}, "--count"),
        ({"size": 7}, "--size"),
        ({"positive_fraction": 1.5}, "--positive-fraction"),
        ({"positive_fraction": float("nan")}, "--positive-fraction"),
        ({"workers": 0}, "--workers"),
    ],
)
def test_bad_settings(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        write_phantoms(dataclasses.replace(SMALL, out=tmp_path / "demo", **change))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    settings = dataclasses.replace(SMALL, out=tmp_path, count=2)
    with pytest.raises(UserError, match="--overwrite"):
        write_phantoms(settings)
    for _ in range(2):
        write_phantoms(dataclasses.replace(settings, overwrite=True))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dicom-images-train", "mine.txt", "train-rle.csv"]
    assert len(dicom.find(tmp_path)) == 2


def test_the_command(tmp_path: Path) -> None:
    program = Path(__file__).parents[3] / "preprocess.py"
    words = ["phantoms", "--out", str(tmp_path / "demo"), "--count", "3", "--size", "64"]
    for code, says in ((0, "3 phantoms"), (1, "not empty")):
        done = subprocess.run(
            [sys.executable, str(program), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        assert says in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert len(dicom.find(tmp_path / "demo")) == 3
