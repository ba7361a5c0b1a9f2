"""What a file's header says besides the image: how its pixels are coded, whose image it is, and its scale.

Promises: a value for any data set, however wrong its header is; nothing here raises. Whether the
image can be read is for `data.radiographs.dicom` to say.
"""

from __future__ import annotations

import hmac
import math
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

UNKNOWN = "unknown"
"""The transfer syntax of a file that names none (it has no meta header) or cannot be parsed."""


class Coding(NamedTuple):
    """How a file's pixels are coded.

    Attributes:
        syntax: Name of the transfer syntax (PS3.6 A), its UID where that has no name, or `UNKNOWN`.
        bits: Bits Stored (0028,0101), PS3.3 C.7.6.3; 0 if it is not a number above zero.
    """

    syntax: str = UNKNOWN
    bits: int = 0


def coding(dataset: Dataset) -> Coding:
    """How a data set's pixels are coded, as its header has it."""
    return Coding(_syntax(dataset), _bits(dataset))


def _syntax(dataset: Dataset) -> str:
    try:
        uid = str(dataset.file_meta.TransferSyntaxUID)
        return UID(uid).name or UNKNOWN
    except Exception:  # hostile files make the parser raise anything, when a value is first looked at
        return UNKNOWN


def _bits(dataset: Dataset) -> int:
    try:
        return max(int(dataset.BitsStored), 0)
    except Exception:  # as above
        return 0


class Geometry(NamedTuple):
    """How large a pixel is, and which way the image lies.

    Attributes:
        spacing: Height and width of a pixel in mm; None where that is not known.
        at: Where that holds, as the name of the attribute that says so: "PixelSpacing" (0028,0030), which a
            modality may have calibrated, or "ImagerPixelSpacing" (0018,1164), at the detector, where
            everything appears magnified (PS3.3 10.7).
        left, right: The side of the patient, "L" or "R", at the left and the right edge of the image, by
            Patient Orientation (0020,0020); "" where that is not known.
    """

    spacing: tuple[float, float] | None = None
    at: str = ""
    left: str = ""
    right: str = ""


UNKNOWN_GEOMETRY = Geometry()


def geometry(dataset: Dataset) -> Geometry:
    """Size of the pixels and orientation of an image, as its header has it."""
    right = _text(dataset, "PatientOrientation", first=True)[:1]
    right = right if right in ("L", "R") else ""
    left = {"L": "R", "R": "L"}.get(right, "")
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            rows, columns = map(float, dataset[keyword].value)
        except Exception:  # as above
            continue
        if 0 < rows < math.inf and 0 < columns < math.inf:
            return Geometry((rows, columns), keyword, left, right)
    return Geometry(left=left, right=right)


def patient_hash(dataset: Dataset, key: bytes) -> str:
    """A name for the patient that tells nothing without the key.

    Args:
        dataset: What was read of a file.
        key: Of the hash; without it, an identifier that can be guessed cannot be checked.

    Returns:
        64 hexadecimal digits: HMAC-SHA256 of the Patient ID (0010,0020), without spaces around it. Where
        there is an Issuer of Patient ID (0010,0021), of both, joined by a backslash, which neither may
        contain (PS3.5 6.2, VR LO). "" if there is no Patient ID.
    """
    patient, issuer = (_text(dataset, keyword) for keyword in ("PatientID", "IssuerOfPatientID"))
    if not patient:
        return ""
    message = f"{patient}\\{issuer}" if issuer else patient
    return hmac.digest(key, message.encode("utf-8", "backslashreplace"), "sha256").hex()


def _text(dataset: Dataset, keyword: str, *, first: bool = False) -> str:
    """A text, or the first of several; "" if there is none."""
    try:
        value = dataset.get(keyword)
        if first and isinstance(value, MultiValue):
            value = value[0]
        return "" if value is None else str(value).strip(" \0")
    except Exception:  # as above
        return ""
