"""From stored values to what is shown: modality, then values of interest (DICOM PS3.4 N.2).

Promises: `shown` gives values from 0 on and the greatest that there can be, by the data set's modality LUT or
rescale (PS3.3 C.11.1) and its VOI LUT or window (C.11.2), or refuses by name what has no one meaning.

pydicom does the same but for these, which is why nothing here is left to it: its index into a table of 8-bit
entries has 8 bits itself, so 12-bit pixels wrap round (seen in 3.0.2); it takes the first value of a table as
the VR has it, though the VR of implicit files is a guess; and it scales to the bits that a table's descriptor
says, which may only be 8 or 16 where entries have 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from data.elements import Refusal, first_number, named, number, raw, term
from data.frames import Frame

_LEAST_BITS, _MOST_BITS = 8, 16
_WORD = 1 << 16
_ROUNDING = 1e-6  # of a product in float64; slopes have fewer digits
_SLACK = 0.25  # of the range: how far a window or a table may reach beyond it and still be meant for it


class Shown(NamedTuple):
    """What is shown, but for the inversion of MONOCHROME1.

    Attributes:
        values: uint8, uint16 or float32 in [0, full].
        full: The value that the scale ends with.
        note: What was corrected, or "".
    """

    values: NDArray[Any]
    full: float
    note: str = ""


def shown(frame: Frame, dataset: Dataset, *, own_bits: bool = False) -> Shown:
    """The values of a frame, through what the data set says of them.

    Args:
        frame: The stored values.
        dataset: Its modality and VOI elements count.
        own_bits: The frame has other bits than the header says. A window or a table that reaches far beyond
            these is then meant for other values, and refused.

    Raises:
        Refusal: An element has no one meaning, or all values are the same.
    """
    values, low, high, modality_note = _modality(frame, dataset, own_bits=own_bits)
    table = _table(dataset, "VOILUTSequence", signed=min(low, high) < 0)
    window = None if table is not None else _window(dataset)
    if table is not None:
        if own_bits:
            _check_reach(table.last, low, high, "VOILUTSequence")
        return Shown(table.looked_up(values), table.full, _joined(modality_note, table.note))
    if window is not None:
        if own_bits:
            _check_reach(window.center + window.width / 2, low, high, "WindowCenter")
        return Shown(window.applied(values), 1.0, modality_note)
    return Shown(*_scaled(values, min(low, high), max(low, high)), modality_note)


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _check_reach(end: float, low: float, high: float, keyword: str) -> None:
    if end > max(low, high) + _SLACK * abs(high - low):
        raise Refusal(
            f"its compressed stream has values from {low:g} to {high:g}, not those of its header's bits, but "
            f"{named(keyword)} is for values up to {end:g}"
        )


def _scaled(values: NDArray[Any], low: float, high: float) -> tuple[NDArray[Any], float]:
    """Values from `low` to `high`, from 0 on; of whole numbers from 0 on nothing is rounded yet."""
    if not math.isfinite(high - low) or low == high:
        raise Refusal(
            f"its rescaled values span {low} to {high} ({named('RescaleSlope')}, {named('RescaleIntercept')})"
        )
    if low == 0 and values.dtype.kind == "u":  # nearly every file
        whole = high == np.iinfo(values.dtype).max
        return values if whole else np.minimum(values, values.dtype.type(high)), high
    scaled = np.subtract(values, low, dtype=np.float64)
    scaled /= high - low
    return np.clip(scaled, 0, 1, out=scaled).astype(np.float32), 1.0


def _modality(frame: Frame, dataset: Dataset, *, own_bits: bool) -> tuple[NDArray[Any], float, float, str]:
    """Modality LUT or rescale; also what the smallest and the greatest stored value become, and a note."""
    signed = frame.values.dtype.kind == "i"
    low = -(2.0 ** (frame.bits - 1)) if signed else 0.0
    high = low + 2.0**frame.bits - 1
    slope, intercept, note = _rescale(dataset)
    identity = (slope, intercept) == (1, 0)
    table = _table(dataset, "ModalityLUTSequence", signed=signed)
    if table is not None:
        if not identity:
            raise Refusal(
                f"it has both {named('ModalityLUTSequence')} and a {named('RescaleSlope')} or "
                f"{named('RescaleIntercept')}; one of them was expected"
            )
        if own_bits:
            _check_reach(table.last, low, high, "ModalityLUTSequence")
        return table.looked_up(frame.values), 0.0, table.full, _joined(note, table.note)
    if identity:  # spared: it would change nothing but the type, and so cost exactness and time
        return frame.values, low, high, note
    return frame.values * slope + intercept, low * slope + intercept, high * slope + intercept, note


def _rescale(dataset: Dataset) -> tuple[float, float, str]:
    """Slope and intercept, which count together or not at all (PS3.3 C.11.1), and a note if one is alone."""
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if slope is not None and intercept is not None:
        return slope, intercept, ""
    for keyword, value, neutral in (("RescaleSlope", slope, 1), ("RescaleIntercept", intercept, 0)):
        if value not in (None, neutral):
            other = "RescaleIntercept" if keyword == "RescaleSlope" else "RescaleSlope"
            return 1.0, 0.0, f"its {named(keyword)} does not count, as it has no {named(other)}"
    return 1.0, 0.0, ""


@dataclass(frozen=True)
class _Window:
    """A window (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    center: float
    width: float
    function: str

    def applied(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values in [0, 1]."""
        place: NDArray[np.float64] = np.subtract(values, self.center, dtype=np.float64)
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0, far below the centre
                return np.asarray(1 / (1 + np.exp(place * (-4 / self.width))), np.float32)
        if self.function == "LINEAR":
            if self.width == 1:
                return np.asarray(place > -0.5, np.float32)
            place += 0.5
            place /= self.width - 1
        else:
            place /= self.width
        place += 0.5
        return np.asarray(np.clip(place, 0, 1, out=place), np.float32)


def _window(dataset: Dataset) -> _Window | None:
    """The first window; None where one of its two elements is absent or blank."""
    center, width = first_number(dataset, "WindowCenter"), first_number(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    function = term(dataset, "VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise Refusal(
            f"{named('VOILUTFunction')} is {function[:40]}; LINEAR, LINEAR_EXACT or SIGMOID was expected"
        )
    least = "at least 1" if function == "LINEAR" else "above 0"
    if width < 1 if function == "LINEAR" else width <= 0:
        raise Refusal(f"{named('WindowWidth')} is {width:g}; for {function} {least} was expected")
    return _Window(center, width, function)


@dataclass(frozen=True)
class _Table:
    """A look-up table (PS3.3 C.11.1.1.1, C.11.2.1.1)."""

    keyword: str
    entries: NDArray[np.uint16]
    first: int
    count: int
    full: float
    note: str

    @property
    def last(self) -> int:
        """The value that its last entry stands for."""
        return self.first + self.count - 1

    def looked_up(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Entries for values; the first and the last also stand for what is beyond them.

        Raises:
            Refusal: One is needed that the table does not have.
        """
        # In float64, which holds all of these exactly: the difference may need 17 bits and a sign. The whole
        # part counts of fractions, which only a rescale makes; a product's rounding must not take one off.
        places = np.subtract(values, self.first - _ROUNDING, dtype=np.float64)
        places = np.clip(places, 0, self.count - 1, out=places).astype(np.int64)
        if len(self.entries) < self.count and places.max() >= len(self.entries):
            raise Refusal(
                f"its {named(self.keyword)} has {len(self.entries)} entries, its descriptor says "
                f"{self.count}, and its pixels need more than there are"
            )
        found: NDArray[np.uint16] = self.entries[places]
        return found


def _table(dataset: Dataset, keyword: str, *, signed: bool) -> _Table | None:
    """The first table of a sequence; None where there is none, or an item with nothing of a table in it.

    Args:
        dataset: Where the sequence is.
        keyword: Its element.
        signed: Whether what is looked up may be below 0. Then the first value that is mapped is signed too,
            whatever its VR.
    """
    sequence = raw(dataset, keyword)
    if sequence is None or len(sequence) == 0:
        return None
    item: Dataset = sequence[0]
    descriptor, data = raw(item, "LUTDescriptor"), raw(item, "LUTData")
    if descriptor is None and data is None:
        return None
    if descriptor is None or data is None:
        missing = named("LUTDescriptor" if descriptor is None else "LUTData")
        raise Refusal(f"its {named(keyword)} has no {missing}")
    little = dataset.original_encoding[1] is not False
    if isinstance(descriptor, bytes):  # of an item whose VR pydicom cannot tell
        descriptor = np.frombuffer(
            descriptor[: len(descriptor) // 2 * 2], "<u2" if little else ">u2"
        ).tolist()
    try:
        count, first, bits = (int(value) % _WORD for value in descriptor)
    except (TypeError, ValueError) as error:
        raise Refusal(f"{named('LUTDescriptor')} of its {named(keyword)} has not three numbers") from error
    if not _LEAST_BITS <= bits <= _MOST_BITS:
        raise Refusal(
            f"its {named(keyword)} has entries of {bits} bits ({named('LUTDescriptor')}); "
            f"{_LEAST_BITS} to {_MOST_BITS} were expected"
        )
    count = count or _WORD
    first -= _WORD if signed and first >= _WORD // 2 else 0
    entries = _entries(data, count, little=little)
    if len(entries) == 0:
        raise Refusal(f"{named('LUTData')} of its {named(keyword)} is empty")
    # Of a table that is cut off nobody knows how far its entries reach.
    found = int(entries.max()).bit_length() if len(entries) >= count else bits
    if found in (0, bits):
        return _Table(keyword, entries, first, count, 2.0**bits - 1, "")
    note = f"the entries of its {named(keyword)} have {found} bits, its descriptor says {bits}"
    return _Table(keyword, entries, first, count, 2.0**found - 1, f"{note}; the entries count")


def _entries(data: Any, count: int, *, little: bool) -> NDArray[np.uint16]:
    """The entries of LUT Data: words, or bytes packed into words, the first in the lower half."""
    if isinstance(data, bytes):
        odd = len(data) % 2
        words = np.frombuffer(data + b"\0" * odd, "<u2" if little else ">u2")
        packed = len(data) in (count, count + 1)
    else:
        words = np.array(data, dtype=np.int64, ndmin=1).astype(np.uint16)
        packed = len(words) == (count + 1) // 2 and count > 1
    if packed:
        return words.astype("<u2").view(np.uint8)[:count].astype(np.uint16)
    return words[:count].astype(np.uint16)
