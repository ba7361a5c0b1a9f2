"""Single elements of a data set, read so that each has one meaning or is refused by its name.

Promises: an element that is absent, empty or blank is None (or the default). One that cannot be parsed, has
several values where one is meant, or is out of range raises `Refusal`, whose text names the element, what it
holds and what was expected. No other exception leaves this module.
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


AGAIN = "get the file again from its source"
"""What to do about a file that is damaged."""


class Refusal(ValueError):  # noqa: N818  it is what a reader is told, not a defect
    """Why a file is no radiograph that can be read; the text is a whole reason, for a person to act on."""


def joined(*notes: str) -> str:
    """Notes in one line, without those that are empty."""
    return "; ".join(filter(None, notes))


def named(keyword: str) -> str:
    """An element's name and tag: `BitsStored` gives "Bits Stored (0028,0101)"."""
    tag = _tag(keyword)
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


@functools.cache
def _tag(keyword: str) -> BaseTag:
    found = tag_for_keyword(keyword)
    assert found is not None, keyword
    return BaseTag(found)


def raw(dataset: Dataset, keyword: str) -> Any:
    """An element's value as pydicom gives it; None if it is absent, empty or blank.

    Raises:
        Refusal: It cannot be parsed as what it is.
    """
    tag = _tag(keyword)
    if tag not in dataset:
        return None
    try:
        value = dataset[tag].value
    except Exception as error:  # pydicom parses a value when it is first looked at, and then raises anything
        raise Refusal(f"{named(keyword)} holds {_stored(dataset, keyword)}, which cannot be read") from error
    if _is_blank(value):
        return None
    if isinstance(value, MultiValue | list | tuple | bytes) and len(value) == 0:
        return None
    return value


def whole(dataset: Dataset, keyword: str, least: int, most: int, default: int | None = None) -> int:
    """A whole number.

    Args:
        dataset: Where it is.
        keyword: Its element.
        least: The smallest that is accepted.
        most: The greatest.
        default: What an absent, empty or blank element stands for; None refuses it.

    Raises:
        Refusal: It is missing, or is not such a number.
    """
    value = raw(dataset, keyword)
    if type(value) is int and least <= value <= most:  # nearly all
        return value
    value = _single(dataset, keyword)
    expected = f"a whole number from {least} to {most} was expected"
    if value is None:
        if default is None:
            raise Refusal(f"{named(keyword)} is missing; {expected}")
        return default
    found = _number(value)
    if found is None or found != int(found) or not least <= found <= most:
        raise Refusal(f"{named(keyword)} holds {quoted(value)}; {expected}")
    return int(found)


def number(dataset: Dataset, keyword: str) -> float | None:
    """A finite number; several values count if they are all the same. None if there is none.

    Raises:
        Refusal: It is no finite number, or there are several.
    """
    value = _single(dataset, keyword)
    return None if value is None else _finite(value, keyword)


def numbers(dataset: Dataset, keyword: str) -> list[float | None]:
    """One or more finite numbers, as of windows; None in the place of a blank one.

    Raises:
        Refusal: One is no finite number.
    """
    return [None if _is_blank(value) else _finite(value, keyword) for value in _several(dataset, keyword)]


def term(dataset: Dataset, keyword: str) -> str:
    """A defined term, in capitals and without blanks around it; "" if there is none.

    Raises:
        Refusal: There are several.
    """
    value = _single(dataset, keyword)
    return "" if value is None else str(value).strip(_BLANKS).upper()


def terms(dataset: Dataset, keyword: str) -> list[str]:
    """One or more defined terms, as of windows; "" in the place of a blank one."""
    return [str(value or "").strip(_BLANKS).upper() for value in _several(dataset, keyword)]


def quoted(value: Any) -> str:
    """A value in a message: as it would be written, not too long, in characters that can be printed."""
    if isinstance(value, MultiValue | list | tuple):
        text = printable("\\".join(map(str, value)))
    elif isinstance(value, str | bytes):
        text = ascii(value.decode("latin-1") if isinstance(value, bytes) else str(value))
    else:
        text = str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _several(dataset: Dataset, keyword: str) -> list[Any]:
    value = raw(dataset, keyword)
    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip(_BLANKS))


def _single(dataset: Dataset, keyword: str) -> Any:
    """The value of an element that has one; several that are all the same are one, and blanks are none."""
    found = _several(dataset, keyword)
    values = [value for value in found if not _is_blank(value)]
    if any(one != values[0] for one in values[1:]):
        raise Refusal(f"{named(keyword)} has {len(found)} values, {quoted(found)}; one was expected")
    return values[0] if values else None


def _finite(value: Any, keyword: str) -> float:
    found = _number(value)
    if found is None:
        raise Refusal(f"{named(keyword)} holds {quoted(value)}; a finite number was expected")
    return found


def _number(value: Any) -> float | None:
    """A value as a number; None if it is none, or not finite."""
    if isinstance(value, str):
        value = value.strip(_BLANKS)
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _stored(dataset: Dataset, keyword: str) -> str:
    """The bytes of an element that pydicom cannot parse."""
    try:
        return quoted(dataset.get_item(keyword).value)
    except Exception:  # as above
        return "a value"
