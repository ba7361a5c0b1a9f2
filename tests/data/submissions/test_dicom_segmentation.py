"""Segmentation objects: readable by other libraries, valid by the standard, never with invented values."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import make_dataset
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from data.phantoms.data_set import PhantomSettings, write_phantoms
from data.radiographs import dicom
from data.submissions.dicom_segmentation import Algorithm, NoSegmentation, write_segmentation

ALGORITHM = Algorithm("pneumoseg", "0.1.0", "0123456789abcdef", "pixel 0.5, area 0, score 0.5")
UIDS = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2"}


def mask_of(height: int, width: int) -> NDArray[np.uint8]:
    """Return an asymmetric mask that reaches the last pixel."""
    mask = np.zeros((height, width), np.uint8)
    mask[1 : height // 2, 2 : width // 3] = 1
    mask[-1, -1] = 1
    return mask


def source(height: int = 37, width: int = 53, **elements: Any) -> Dataset:
    """Return a radiograph with UIDs and the given elements only; None removes an element."""
    dataset = make_dataset(np.zeros((height, width), np.uint8))
    for keyword, value in {**UIDS, **elements}.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    return dataset


def written(tmp_path: Path, dataset: Dataset, **changes: Any) -> Path:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.dcm"
    mask = changes.pop("mask", mask_of(int(dataset.Rows), int(dataset.Columns)))
    write_segmentation(path, dataset, mask, changes.pop("algorithm", ALGORITHM))
    return path


def assert_valid(path: Path) -> None:
    """Debian's checker of DICOM objects finds no error."""
    checker = shutil.which("dciodvfy")
    if checker is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools): the rest of this test passed")
    done = subprocess.run([checker, str(path)], capture_output=True, text=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).splitlines()
    assert "Segmentation" in said, said  # it knew what it was looking at
    assert not [line for line in said if line.startswith("Error")], said


def assert_reads_back(path: Path, dataset: Dataset) -> None:
    """Check that highdicom and pydicom read the mask and the reference to its image."""
    mask = mask_of(int(dataset.Rows), int(dataset.Columns))
    found = highdicom.seg.segread(path)
    np.testing.assert_array_equal(
        found.get_pixels_by_source_instance([dataset.SOPInstanceUID])[0, ..., 0], mask
    )
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, mask)
    description = found.get_segment_description(1)
    assert description.segmented_property_category.value == "49755003"
    assert description.segmented_property_type.value == "36118008"
    assert description.algorithm_type == highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC
    (algorithm,) = description.algorithm_identification
    assert algorithm.AlgorithmName == "pneumoseg"
    assert algorithm.AlgorithmVersion == "0.1.0, model 0123456789abcdef"
    assert algorithm.AlgorithmParameters == "thresholds=pixel 0.5, area 0, score 0.5"
    (series,) = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == dataset.SeriesInstanceUID
    (instance,) = series.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == dataset.SOPInstanceUID
    assert instance.ReferencedSOPClassUID == dataset.SOPClassUID
    assert found.StudyInstanceUID == dataset.StudyInstanceUID
    assert found.SeriesInstanceUID != dataset.SeriesInstanceUID


def test_a_bare_source_gives_a_valid_object(tmp_path: Path) -> None:
    dataset = source()
    path = written(tmp_path, dataset)
    assert_reads_back(path, dataset)
    made = pydicom.dcmread(path)
    for keyword in ("PatientID", "PatientName", "PatientSex", "StudyDate", "StudyID", "AccessionNumber"):
        assert keyword in made
        assert not made[keyword].value
    assert_valid(path)


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [
        (ComputedRadiographyImageStorage, "CR"),
        (DigitalXRayImageStorageForPresentation, "DX"),
        (SecondaryCaptureImageStorage, None),
        ("1.2.3.4.5.6", "XX"),  # a maker's own
    ],
)
def test_what_the_source_says_of_patient_and_study_is_kept(
    tmp_path: Path, sop_class: str, modality: str | None
) -> None:
    told = {
        "PatientID": "7 - 11",
        "PatientName": "Müller^Jürgen",
        "PatientBirthDate": "19510203",
        "PatientSex": "M",
        "PatientAge": "070Y",
        "StudyDate": "20200101",
        "StudyTime": "101112",
        "StudyID": "s",
        "StudyDescription": "Thorax p.a., 柱",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "山田^太郎=やまだ^たろう",
    }
    extra = {"PatientOrientation": ["L", "F"], "Manufacturer": "Maker", "PixelSpacing": [0.2, 0.3]}
    modal = {} if modality is None else {"Modality": modality}
    dataset = source(SpecificCharacterSet="ISO_IR 192", SOPClassUID=sop_class, **told, **extra, **modal)
    path = written(tmp_path, dataset)
    assert_reads_back(path, dataset)
    made = pydicom.dcmread(path)
    assert made.Modality == "SEG"
    assert {keyword: str(made[keyword].value) for keyword in told} == told
    assert list(made.PatientOrientation) == ["L", "F"]
    assert_valid(path)


def test_what_the_standard_forbids_is_not_copied(tmp_path: Path) -> None:
    dataset = source()
    wrong = {
        "PatientAge": ("AS", "62"),
        "PatientSex": ("CS", "male"),
        "PatientBirthDate": ("DA", "1951-02-03"),
        "StudyTime": ("TM", "noon"),
        "AccessionNumber": ("SH", "far too long a number"),
        "StudyDescription": ("LO", "x" * 90),
        "PatientOrientation": ("CS", ["left", "f"]),
    }
    with pydicom.config.disable_value_validation():
        for keyword, (vr, value) in wrong.items():
            dataset.add_new(keyword, vr, value)
        dataset.save_as(tmp_path / "source.dcm", enforce_file_format=True)
    dataset = dicom.read_dataset(tmp_path / "source.dcm")
    path = written(tmp_path, dataset)
    made = pydicom.dcmread(path)
    assert not [keyword for keyword in wrong if made.get(keyword)]
    assert_valid(path)


def test_the_first_frame_of_several_is_the_one_referenced(tmp_path: Path) -> None:
    dataset = source(SOPClassUID=MultiFrameGrayscaleByteSecondaryCaptureImageStorage, NumberOfFrames=3)
    path = written(tmp_path, dataset)
    assert_reads_back(path, dataset)
    (frame,) = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    assert frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 1
    assert_valid(path)


@pytest.mark.parametrize(
    ("elements", "says"),
    [
        ({"StudyInstanceUID": None}, "its header has no StudyInstanceUID"),
        ({"SeriesInstanceUID": ""}, "its header has no SeriesInstanceUID"),
        ({"SOPInstanceUID": None}, "its header has no SOPInstanceUID"),
        ({"SOPClassUID": None}, "its header has no SOPClassUID"),
        ({"StudyInstanceUID": "1.2.x"}, "no valid StudyInstanceUID: 1.2.x"),
        ({"SeriesInstanceUID": "1." + "2" * 63}, "no valid SeriesInstanceUID: 1.22"),  # 64 are allowed
    ],
    ids=str,
)
def test_nothing_is_made_up(tmp_path: Path, elements: dict[str, Any], says: str) -> None:
    with pydicom.config.disable_value_validation():
        dataset = source(**elements)
    with pytest.raises(NoSegmentation, match=says.replace(".", r"\.")):
        written(tmp_path, dataset)
    assert not list(tmp_path.iterdir())


def test_the_same_answer_is_the_same_object_and_another_is_not(tmp_path: Path) -> None:
    first = pydicom.dcmread(written(tmp_path, source()))
    again = pydicom.dcmread(written(tmp_path, source()))
    other_mask = mask_of(37, 53)
    other_mask[20, 30] = 1
    others = [
        written(tmp_path, source(), mask=other_mask),
        written(tmp_path, source(), algorithm=Algorithm("pneumoseg", "0.1.0", "fedcba9876543210")),
        written(tmp_path, source(SOPInstanceUID="1.2.3.9")),
    ]
    uids = [first, again, *map(pydicom.dcmread, others)]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        found = [str(made[keyword].value) for made in uids]
        assert found[0] == found[1]
        assert len(set(found)) == len(found) - 1
        assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in found)
    assert first.SOPInstanceUID != first.SeriesInstanceUID
    assert first.PixelData == again.PixelData


def test_phantoms(tmp_path: Path) -> None:
    write_phantoms(PhantomSettings(tmp_path / "p", count=2, size=64, positive_fraction=0.5, workers=1))
    for file in dicom.find(tmp_path / "p"):
        dataset = dicom.read_dataset(file)
        path = written(tmp_path, dataset)
        assert_reads_back(path, dataset)
        assert pydicom.dcmread(path).LossyImageCompression == "01"
        assert_valid(path)


def test_real_radiographs(real_data: Path, tmp_path: Path) -> None:
    files = dicom.find(real_data / "dicom")
    assert files
    for file in files:
        dataset = dicom.read_dataset(file)
        path = written(tmp_path, dataset)
        assert_reads_back(path, dataset)
        assert_valid(path)
    for file in dicom.find(real_data / "lungs-mini"):
        with pytest.raises(NoSegmentation, match="has no SeriesInstanceUID"):
            written(tmp_path, dicom.read_dataset(file))
