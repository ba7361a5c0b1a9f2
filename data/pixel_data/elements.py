"""Single elements of a data set.

An element that is absent, empty or blank is read as None (or the default). An element that cannot be parsed,
has several values instead of one, or is out of range raises `DicomError`. The message names the element, its
value and the expected value. This module raises no other exception.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from data.annotations.image_ids import printable

_LONGEST_SHOWN = 40
_BLANKS = " \0\t\r\n"


FETCH_AGAIN = "get the file again from its source"
"""Advice for a damaged file, used in messages."""


class DicomError(ValueError):
    """A DICOM file cannot be read as a radiograph; the message is the complete reason, for the user."""


def join_notes(*notes: str) -> str:
    """Join notes in one line, without empty ones."""
    return "; ".join(filter(None, notes))


def label(keyword: str) -> str:
    """Return an element's name and tag: `BitsStored` gives "Bits Stored (0028,0101)"."""
    tag = _tag(keyword)
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


@functools.cache
def _tag(keyword: str) -> BaseTag:
    found = tag_for_keyword(keyword)
    assert found is not None, keyword
    return BaseTag(found)


def raw_value(dataset: Dataset, keyword: str) -> Any:
    """Return an element's value as pydicom returns it; None if it is absent, empty or blank.

    Raises:
        DicomError: The value cannot be parsed.
    """
    tag = _tag(keyword)
    if tag not in dataset:
        return None
    try:
        value = dataset[tag].value
    except Exception as error:  # parsing happens on first access, and may raise anything
        raise DicomError(
            f"{label(keyword)} holds {_stored(dataset, keyword)}, which cannot be read"
        ) from error
    if _is_blank(value):
        return None
    if isinstance(value, MultiValue | list | tuple | bytes) and len(value) == 0:
        return None
    return value


def integer(dataset: Dataset, keyword: str, least: int, most: int, default: int | None = None) -> int:
    """Read a whole number.

    Args:
        dataset: The data set.
        keyword: The element's keyword.
        least: The smallest accepted value.
        most: The greatest accepted value.
        default: The value for an absent, empty or blank element; None refuses it.

    Raises:
        DicomError: The element is missing, or is not such a number.
    """
    value = raw_value(dataset, keyword)
    if type(value) is int and least <= value <= most:  # nearly always
        return value
    value = _single(dataset, keyword)
    expected = f"a whole number from {least} to {most} was expected"
    if value is None:
        if default is None:
            raise DicomError(f"{label(keyword)} is missing; {expected}")
        return default
    found = _number(value)
    if found is None or found != int(found) or not least <= found <= most:
        raise DicomError(f"{label(keyword)} holds {quoted(value)}; {expected}")
    return int(found)


def number(dataset: Dataset, keyword: str) -> float | None:
    """Read a finite number; several equal values count as one. Return None if the element has no value.

    Raises:
        DicomError: The value is not a finite number, or there are different values.
    """
    value = _single(dataset, keyword)
    return None if value is None else _finite(value, keyword)


def numbers(dataset: Dataset, keyword: str) -> list[float | None]:
    """Read any count of finite numbers, such as those of windows; None for a blank value.

    Raises:
        DicomError: A value is not a finite number.
    """
    return [None if _is_blank(value) else _finite(value, keyword) for value in _several(dataset, keyword)]


def term(dataset: Dataset, keyword: str) -> str:
    """Read a defined term, in capitals and without blanks around it; "" if the element has no value.

    Raises:
        DicomError: There are different values.
    """
    value = _single(dataset, keyword)
    return "" if value is None else str(value).strip(_BLANKS).upper()


def terms(dataset: Dataset, keyword: str) -> list[str]:
    """Read any count of defined terms, such as those of windows; "" for a blank value."""
    return [str(value or "").strip(_BLANKS).upper() for value in _several(dataset, keyword)]


def quoted(value: Any) -> str:
    """Format a value for a message: as written, shortened, in printable characters."""
    if isinstance(value, MultiValue | list | tuple):
        text = printable("\\".join(map(str, value)))
    elif isinstance(value, str | bytes):
        text = ascii(value.decode("latin-1") if isinstance(value, bytes) else str(value))
    else:
        text = str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _several(dataset: Dataset, keyword: str) -> list[Any]:
    value = raw_value(dataset, keyword)
    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip(_BLANKS))


def _single(dataset: Dataset, keyword: str) -> Any:
    """Return the single value of an element, or None; equal values count as one, blanks as none."""
    found = _several(dataset, keyword)
    values = [value for value in found if not _is_blank(value)]
    if any(one != values[0] for one in values[1:]):
        raise DicomError(f"{label(keyword)} has {len(found)} values, {quoted(found)}; one was expected")
    return values[0] if values else None


def _finite(value: Any, keyword: str) -> float:
    found = _number(value)
    if found is None:
        raise DicomError(f"{label(keyword)} holds {quoted(value)}; a finite number was expected")
    return found


def _number(value: Any) -> float | None:
    """Convert a value to a number; None if that is impossible or not finite."""
    if isinstance(value, str):
        value = value.strip(_BLANKS)
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _stored(dataset: Dataset, keyword: str) -> str:
    """Format the bytes of an element that pydicom cannot parse."""
    try:
        return quoted(dataset.get_item(keyword).value)
    except Exception:  # pydicom may raise anything
        return "a value"
