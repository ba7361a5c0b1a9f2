"""Tests of pixel size, orientation and patient in valid and invalid headers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import make_dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from data.radiographs.headers import (
    UNKNOWN,
    Coding,
    Examination,
    Geometry,
    coding,
    examination,
    geometry,
    patient_hash,
)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, Geometry()),
        ({"PixelSpacing": [0.2, 0.3]}, Geometry((0.2, 0.3), "PixelSpacing")),
        ({"ImagerPixelSpacing": [0.2, 0.3]}, Geometry((0.2, 0.3), "ImagerPixelSpacing")),
        (
            {"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [0.4, 0.4]},
            Geometry((0.2, 0.3), "PixelSpacing"),
        ),
        ({"PixelSpacing": [0, 0.3], "ImagerPixelSpacing": [1, 2]}, Geometry((1, 2), "ImagerPixelSpacing")),
        ({"PixelSpacing": [-0.2, -0.3]}, Geometry()),
        ({"PixelSpacing": [0.2, "inf"]}, Geometry()),
        ({"PixelSpacing": ["inf", 0.2]}, Geometry()),
        ({"PixelSpacing": ["nan", "nan"]}, Geometry()),
        ({"PixelSpacing": "0.2"}, Geometry()),
        ({"PixelSpacing": None}, Geometry()),
        ({"PatientOrientation": ["L", "F"]}, Geometry(left="R", right="L")),
        ({"PatientOrientation": ["R", "F"]}, Geometry(left="L", right="R")),
        ({"PatientOrientation": ["LF", "FR"]}, Geometry(left="R", right="L")),
        ({"PatientOrientation": ["A", "F"]}, Geometry()),
        ({"PatientOrientation": "L"}, Geometry(left="R", right="L")),
        ({"PatientOrientation": ""}, Geometry()),
    ],
    ids=str,
)
def test_geometry(elements: dict[str, Any], expected: Geometry) -> None:
    dataset = make_dataset(np.zeros((4, 5), np.uint8))
    with pydicom.config.disable_value_validation():
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
    assert geometry(dataset) == expected


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, Examination()),
        (
            {"ViewPosition": "AP", "PatientSex": "F", "PatientAge": "057Y"},
            Examination("AP", "F", 57),
        ),
        ({"ViewPosition": "pa ", "PatientSex": "m"}, Examination("PA", "M")),
        ({"ViewPosition": "SITTING", "PatientSex": "?"}, Examination()),
        *(
            ({"PatientAge": written}, Examination(age=age))
            for written, age in {
                "51": 51,  # as in the competition's files
                "018M": 1,
                "011M": 0,
                "100W": 1,
                "800D": 2,
                "089Y": 89,
                "090Y": 90,
                "104Y": 90,
                "148": -1,
                "413": -1,
                "-5": -1,
                "Y": -1,
                "": -1,
            }.items()
        ),
    ],
    ids=str,
)
def test_examination(elements: dict[str, Any], expected: Examination) -> None:
    dataset = make_dataset(np.zeros((4, 5), np.uint8))
    for keyword in ("ViewPosition", "PatientSex", "PatientAge"):
        if keyword in dataset:
            del dataset[keyword]
    with pydicom.config.disable_value_validation():
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
    assert examination(dataset) == expected


def test_an_element_that_cannot_be_parsed_is_as_if_it_were_not_there() -> None:
    """An image is not refused because of other elements."""
    dataset = make_dataset(np.zeros((4, 5), np.uint8))
    dataset.PixelSpacing = [0.2, 0.3]
    for keyword in ("PatientOrientation", "PatientID", "IssuerOfPatientID", "ViewPosition", "PatientAge"):
        tag = Tag(keyword)
        dataset[tag] = RawDataElement(tag, "ZZ", 4, b"L\\F ", 0, False, True)
    with pytest.raises(NotImplementedError, match="Unknown Value Representation"):
        dataset.get("PatientID")
    assert geometry(dataset) == Geometry((0.2, 0.3), "PixelSpacing")
    assert examination(dataset)[::2] == ("", -1)
    assert patient_hash(dataset, b"key") == ""


def test_patients_whose_ids_differ_after_a_backslash_are_two() -> None:
    """A backslash separates values. It is forbidden in an id, but occurs."""
    names = set()
    for patient in ("7", "7\\8", "7\\9", "8\\7"):
        dataset = make_dataset(np.zeros((4, 5), np.uint8))
        dataset.PatientID = patient
        names.add(patient_hash(dataset, b"key"))
    assert len(names) == 4


def test_how_pixels_are_coded() -> None:
    dataset = make_dataset(np.zeros((4, 5), np.uint16), stored=12)
    assert coding(dataset) == Coding("Explicit VR Little Endian", 12)
    for value in ("x", None, ["8", "9"]):
        with pydicom.config.disable_value_validation():
            dataset.add_new("BitsStored", "CS", value)
        assert coding(dataset) == Coding("Explicit VR Little Endian", 0)
    del dataset.file_meta
    assert coding(dataset) == Coding(UNKNOWN, 0)
