"""What a file's header says besides the image: how its pixels are coded.

Promises: a value for any data set, however wrong its header is; nothing here raises. Whether the
image can be read is for `data.dicom` to say.
"""

from __future__ import annotations

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
