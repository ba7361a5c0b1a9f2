"""What a file's header says besides the image: how its pixels are coded, and whose image it is.

Promises: a value for any data set, however wrong its header is; nothing here raises. Whether the
image can be read is for `data.dicom` to say.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from pydicom.dataset import Dataset
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
    return hmac.new(key, message.encode("utf-8", "backslashreplace"), hashlib.sha256).hexdigest()


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
        return "" if value is None else str(value).strip(" \0")
    except Exception:  # as above
        return ""
