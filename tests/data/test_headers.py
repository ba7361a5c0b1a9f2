"""What a header says of an image's scale and orientation, and what it only pretends to say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import make_dataset

from data.headers import Geometry, geometry


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
