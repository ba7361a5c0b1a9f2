"""Header fields besides the image: coding of the pixels, patient, pixel size, orientation, view, sex, age.

Every function returns a value for any data set, however wrong its header is, and never raises.
`data.radiographs.dicom` decides if the image can be read.
"""

from __future__ import annotations

import hmac
import math
import re
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

UNKNOWN = "unknown"
"""The transfer syntax of a file without meta header, or of one that cannot be parsed."""


class Coding(NamedTuple):
    """The coding of a file's pixels.

    Attributes:
        syntax: Name of the transfer syntax (PS3.6 A); its UID if it has no name; or `UNKNOWN`.
        bits: Bits Stored (0028,0101), PS3.3 C.7.6.3; 0 if it is not a positive number.
    """

    syntax: str = UNKNOWN
    bits: int = 0


def coding(dataset: Dataset) -> Coding:
    """Return the coding of a data set's pixels from its header."""
    return Coding(_syntax(dataset), _bits(dataset))


def _syntax(dataset: Dataset) -> str:
    try:
        uid = str(dataset.file_meta.TransferSyntaxUID)
        return UID(uid).name or UNKNOWN
    except Exception:  # parsing happens on first access, and may raise anything
        return UNKNOWN


def _bits(dataset: Dataset) -> int:
    try:
        return max(int(dataset.BitsStored), 0)
    except Exception:  # as in `_syntax`
        return 0


class Geometry(NamedTuple):
    """The size of a pixel and the orientation of the image.

    Attributes:
        spacing: Height and width of a pixel in mm; None if unknown.
        at: The attribute that `spacing` is from: "PixelSpacing" (0028,0030), which may be calibrated to the
            patient, or "ImagerPixelSpacing" (0018,1164), at the detector, where everything appears magnified
            (PS3.3 10.7).
        left, right: The side of the patient, "L" or "R", at the left and the right edge of the image, by
            Patient Orientation (0020,0020); "" if unknown.
    """

    spacing: tuple[float, float] | None = None
    at: str = ""
    left: str = ""
    right: str = ""


UNKNOWN_GEOMETRY = Geometry()


def geometry(dataset: Dataset) -> Geometry:
    """Return the pixel size and the orientation of an image from its header."""
    right = _text(dataset, "PatientOrientation", first=True)[:1]
    right = right if right in ("L", "R") else ""
    left = {"L": "R", "R": "L"}.get(right, "")
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            rows, columns = map(float, dataset[keyword].value)
        except Exception:  # as in `_syntax`
            continue
        if 0 < rows < math.inf and 0 < columns < math.inf:
            return Geometry((rows, columns), keyword, left, right)
    return Geometry(left=left, right=right)


UNKNOWN_AGE = -1
"""The age of a patient of whom it is not known."""

GREATEST_AGE = 90
"""The age that is given for everybody who is older: an age above 89 may identify a person (the "safe harbor"
list of the HIPAA privacy rule, 45 CFR 164.514(b)(2)(i)(C))."""

_VIEWS = ("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO")  # PS3.3 C.8.1.1, defined terms
_SEXES = ("F", "M", "O")
_LONGEST_LIFE = 125
_AGE = re.compile(r"([0-9]{1,3})([DWMY]?)")
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}


class Examination(NamedTuple):
    """The view of an image, and sex and age of the patient.

    Attributes:
        view: View Position (0018,5101), "AP" or "PA" and other defined terms; "" if unknown.
        sex: Patient's Sex (0010,0040), "F", "M" or "O" (other); "" if unknown.
        age: Patient's Age (0010,1010) in whole years, at most `GREATEST_AGE`; `UNKNOWN_AGE` if unknown. A
            number without its unit counts as years, as the competition's files have it.
    """

    view: str = ""
    sex: str = ""
    age: int = UNKNOWN_AGE


def examination(dataset: Dataset) -> Examination:
    """Return view, sex and age from a data set's header."""
    view, sex = (_text(dataset, keyword).upper() for keyword in ("ViewPosition", "PatientSex"))
    return Examination(view if view in _VIEWS else "", sex if sex in _SEXES else "", _age(dataset))


def _age(dataset: Dataset) -> int:
    match = _AGE.fullmatch(_text(dataset, "PatientAge").upper())
    if match is None:
        return UNKNOWN_AGE
    years = int(int(match[1]) / _PER_YEAR[match[2]])
    return min(years, GREATEST_AGE) if years <= _LONGEST_LIFE else UNKNOWN_AGE


def patient_hash(dataset: Dataset, key: bytes) -> str:
    """Return a pseudonym for the patient that cannot be resolved without the key.

    Args:
        dataset: The data set.
        key: The key of the hash; without it, nobody can test a guessed Patient ID.

    Returns:
        64 hexadecimal digits: HMAC-SHA256 of the Patient ID (0010,0020), without spaces around it. If there
        is an Issuer of Patient ID (0010,0021), it follows after a backslash, which neither may contain
        (PS3.5 6.2, VR LO). "" if there is no Patient ID.
    """
    patient, issuer = (_text(dataset, keyword) for keyword in ("PatientID", "IssuerOfPatientID"))
    if not patient:
        return ""
    message = f"{patient}\\{issuer}" if issuer else patient
    return hmac.digest(key, message.encode("utf-8", "backslashreplace"), "sha256").hex()


def _text(dataset: Dataset, keyword: str, *, first: bool = False) -> str:
    """Return an element's text, with `first` the first of several; "" if there is none."""
    try:
        value = dataset.get(keyword)
        if first and isinstance(value, MultiValue):
            value = value[0]
        return "" if value is None else str(value).strip(" \0")
    except Exception:  # as in `_syntax`
        return ""
