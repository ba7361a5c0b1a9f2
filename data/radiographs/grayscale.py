"""Conversion of stored values to display values: modality, then values of interest (DICOM PS3.4 N.2).

`display_values` applies the data set's modality LUT or rescale (PS3.3 C.11.1) and its VOI LUT or window
(C.11.2). It returns values from 0 on, and the greatest possible one. It refuses, by name, an element that is
ambiguous. It computes a few rows at a time, so it needs hardly more memory than the result.

pydicom is not used here, for three reasons. Its index into a table of 8-bit entries has 8 bits, so 12-bit
pixels wrap around (seen in 3.0.2). It reads the first value of a table by the VR, which in implicit files is
a guess. It scales to the bits in a table's descriptor, which can only be 8 or 16 even where entries have 12.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from data.pixel_data.elements import (
    DicomError,
    join_notes,
    label,
    number,
    numbers,
    quoted,
    raw_value,
    terms,
)
from data.pixel_data.stored_bits import Frame

_LEAST_BITS, _MOST_BITS = 8, 16
_WORD = 1 << 16
_LONGEST_SHOWN = 40
_SLACK = 0.25  # how far a window or a table for a range may exceed it, as a share of the range
_LEAST_COVERED = 0.5  # how much of a range a window or a table for it covers at least
_ROUNDING = 1e-6  # bound on the rounding error of a product in float64; slopes have fewer digits
_BLOCK = 1 << 18  # number of pixels at a time; as float64 they fit into a processor's cache

Line = Callable[[NDArray[Any]], NDArray[Any]]
"""A function from some pixels' values to their new values."""


class DisplayValues(NamedTuple):
    """Display values, where bright means dense (MONOCHROME2).

    Attributes:
        values: uint8, uint16 or float32 in [0, full].
        full: The upper end of the scale.
        note: The correction that was made, or "".
    """

    values: NDArray[Any]
    full: float
    note: str = ""


def display_values(
    frame: Frame, dataset: Dataset, *, stream_bits: bool, is_monochrome1: bool
) -> DisplayValues:
    """Convert a frame to display values by the modality and VOI elements of the data set.

    MONOCHROME1 is inverted at the end: its least value is white (PS3.3 C.7.6.3.1.2).

    Args:
        frame: The stored values.
        dataset: The data set; in an enhanced image, the elements of the first frame count.
        stream_bits: Whether the frame has a stream's precision and not Bits Stored. Then a window or a table
            that does not fit this precision is refused, because it is for other values.
        is_monochrome1: Whether the photometric interpretation is MONOCHROME1.

    Raises:
        DicomError: An element is ambiguous, or all values are the same.
    """
    found = _before_inversion(frame, dataset, stream_bits=stream_bits)
    if not is_monochrome1:
        return found
    full = found.values.dtype.type(found.full)
    return found._replace(values=np.subtract(full, found.values))


def _before_inversion(frame: Frame, dataset: Dataset, *, stream_bits: bool) -> DisplayValues:
    """Apply modality, then VOI LUT or window, else the full scale of the stored bits."""
    modality = _modality(frame, _source(dataset, "PixelValueTransformationSequence"), stream_bits=stream_bits)
    low, high = sorted((modality.low, modality.high))
    source = _source(dataset, "FrameVOILUTSequence")
    table = _table(source, "VOILUTSequence", little=_is_little(dataset), signed=low < 0)
    if table is not None:
        if stream_bits:
            _check_fit(table.first, table.last, low, high, "VOILUTSequence")
        values = _in_blocks(frame.values, lambda some: table.looked_up(modality.line(some)), np.uint16)
        return DisplayValues(values, table.full, join_notes(modality.note, table.note))
    window = _window(source)
    if window is not None:
        if stream_bits:
            half = window.width / 2
            _check_fit(window.center - half, window.center + half, low, high, "WindowCenter")
        values = _in_blocks(frame.values, lambda some: window.applied(modality.line(some)), np.float32)
        return DisplayValues(values, 1.0, modality.note)
    if not math.isfinite(high - low) or low == high:
        raise DicomError(
            f"its rescaled values span {low} to {high} ({label('RescaleSlope')}, {label('RescaleIntercept')})"
        )
    if low == 0 and modality.kind.kind == "u":  # nearly every file: whole numbers stay exact
        if modality.line is _unchanged:
            return DisplayValues(frame.values, high, modality.note)
        return DisplayValues(_in_blocks(frame.values, modality.line, modality.kind), high, modality.note)

    def scaled(some: NDArray[Any]) -> NDArray[np.float64]:
        places: NDArray[np.float64] = np.subtract(modality.line(some), low, dtype=np.float64)
        places /= high - low
        return np.clip(places, 0, 1, out=places)

    return DisplayValues(_in_blocks(frame.values, scaled, np.float32), 1.0, modality.note)


def _in_blocks(values: NDArray[Any], line: Line, kind: np.dtype[Any] | type[np.generic]) -> NDArray[Any]:
    """Apply a function to all pixels, some rows at a time."""
    found = np.empty(values.shape, kind)
    step = max(_BLOCK // max(values.shape[1], 1), 1)
    for start in range(0, len(values), step):
        found[start : start + step] = line(values[start : start + step])
    return found


def _unchanged(values: NDArray[Any]) -> NDArray[Any]:
    return values


def _source(dataset: Dataset, keyword: str) -> Dataset:
    """Return the data set; if it is enhanced, the first frame's functional group item (PS3.3 C.7.6.16)."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in (raw_value(dataset, groups) or ())[:1]:
            for item in (raw_value(group, keyword) or ())[:1]:
                found: Dataset = item
                return found
    return dataset


def _is_little(dataset: Dataset) -> bool:
    return dataset.original_encoding[1] is not False


def _check_fit(begin: float, end: float, low: float, high: float, keyword: str) -> None:
    """Refuse a window or a table, from `begin` to `end`, that is not for values from `low` to `high`."""
    span = high - low
    reaches_out = begin < low - _SLACK * span or end > high + _SLACK * span
    if reaches_out or end - begin < _LEAST_COVERED * span:
        raise DicomError(
            f"its compressed stream has values from {low:g} to {high:g}, which its header's bits do not say, "
            f"and {label(keyword)} is for values from {begin:g} to {end:g}"
        )


@dataclass(frozen=True)
class _Modality:
    """A modality LUT or rescale.

    Attributes:
        line: The function of stored values.
        kind: The type of its results.
        low: The result for the smallest stored value; for a table, the low end of its range.
        high: The result for the greatest stored value; for a table, the high end of its range.
        note: The correction that was made, or "".
    """

    line: Line
    kind: np.dtype[Any]
    low: float
    high: float
    note: str


def _modality(frame: Frame, dataset: Dataset, *, stream_bits: bool) -> _Modality:
    signed = frame.values.dtype.kind == "i"
    low = -(2.0 ** (frame.bits - 1)) if signed else 0.0
    high = low + 2.0**frame.bits - 1
    slope, intercept, note = _rescale(dataset)
    identity = (slope, intercept) == (1, 0)
    table = _table(dataset, "ModalityLUTSequence", little=_is_little(dataset), signed=signed)
    if table is not None:
        if not identity:
            raise DicomError(
                f"it has both {label('ModalityLUTSequence')} and a {label('RescaleSlope')} or "
                f"{label('RescaleIntercept')}; one of them was expected"
            )
        if stream_bits:
            _check_fit(table.first, table.last, low, high, "ModalityLUTSequence")
        note = join_notes(note, table.note)
        return _Modality(table.looked_up, np.dtype(np.uint16), 0.0, table.full, note)
    if identity:  # it would only change the type, and lose exactness and time
        return _Modality(_unchanged, frame.values.dtype, low, high, note)

    def rescaled(values: NDArray[Any]) -> NDArray[Any]:
        return values * slope + intercept

    kind = np.dtype(np.float64)
    return _Modality(rescaled, kind, low * slope + intercept, high * slope + intercept, note)


def _rescale(dataset: Dataset) -> tuple[float, float, str]:
    """Return slope and intercept, and a note if one is missing: then neither counts (PS3.3 C.11.1)."""
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if slope is not None and intercept is not None:
        return slope, intercept, ""
    for keyword, value, neutral in (("RescaleSlope", slope, 1), ("RescaleIntercept", intercept, 0)):
        if value not in (None, neutral):
            other = "RescaleIntercept" if keyword == "RescaleSlope" else "RescaleSlope"
            return 1.0, 0.0, f"its {label(keyword)} does not count, as it has no {label(other)}"
    return 1.0, 0.0, ""


@dataclass(frozen=True)
class _Window:
    """A window (PS3.3 C.11.2.1.2, C.11.2.1.3)."""

    center: float
    width: float
    function: str

    def applied(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Apply the window; return values in [0, 1]."""
        place: NDArray[np.float64] = np.subtract(values, self.center, dtype=np.float64)
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0, far below the centre
                return np.asarray(1 / (1 + np.exp(place * (-4 / self.width))))
        if self.function == "LINEAR":
            if self.width == 1:
                return np.asarray(place > -0.5, np.float64)
            place += 0.5
            place /= self.width - 1
        else:
            place /= self.width
        place += 0.5
        return np.clip(place, 0, 1, out=place)

    def problem(self) -> str:
        """Return why the window is not valid, or ""."""
        if self.function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            function = self.function[:_LONGEST_SHOWN]
            return f"{label('VOILUTFunction')} is {function}; LINEAR, LINEAR_EXACT or SIGMOID was expected"
        if self.width < 1 if self.function == "LINEAR" else self.width <= 0:
            least = "at least 1" if self.function == "LINEAR" else "above 0"
            return f"{label('WindowWidth')} is {self.width:g}; for {self.function} {least} was expected"
        return ""


def _window(dataset: Dataset) -> _Window | None:
    """Return the first valid window; None if there is no window, or only blanks.

    Raises:
        DicomError: There are windows, and none is valid.
    """
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    functions = terms(dataset, "VOILUTFunction")
    problem = ""
    for number_, (center, width) in enumerate(zip(centers, widths, strict=False)):
        if center is None or width is None:
            continue
        function = functions[number_] if number_ < len(functions) else "".join(functions[:1])
        window = _Window(center, width, function or "LINEAR")
        if not (found := window.problem()):
            return window
        problem = problem or found
    if problem:
        raise DicomError(problem)
    return None


@dataclass(frozen=True)
class _LookupTable:
    """A look-up table (PS3.3 C.11.1.1.1, C.11.2.1.1).

    Attributes:
        keyword: The sequence that contains it.
        entries: The entries that are there; their number may differ from `count`.
        first: The value that the first entry stands for.
        count: The number of entries in its descriptor.
        full: The upper end of the entries' range.
        note: The correction that was made, or "".
    """

    keyword: str
    entries: NDArray[np.uint16]
    first: int
    count: int
    full: float
    note: str

    @property
    def last(self) -> int:
        """Return the value that the last entry stands for."""
        return self.first + self.count - 1

    def looked_up(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Return the entries for values; the first and the last entry also stand for values beyond them.

        Raises:
            DicomError: The entry for a value depends on the number of entries, which is ambiguous.
        """
        # float64 is exact here: the difference may need 17 bits and a sign. Fractions, which only a rescale
        # makes, are rounded down. A product's rounding error must not lower the result by one.
        places = np.subtract(values, self.first - _ROUNDING, dtype=np.float64)
        whole = np.clip(places, 0, max(self.count, len(self.entries)) - 1, out=places).astype(np.int64)
        if len(self.entries) != self.count and whole.max() >= min(self.count, len(self.entries)):
            more = "more than there are" if len(self.entries) < self.count else "those that are too many"
            raise DicomError(
                f"its {label(self.keyword)} has {len(self.entries)} entries, its descriptor says "
                f"{self.count}, and its pixels need {more}"
            )
        found: NDArray[np.uint16] = self.entries[whole]
        return found


def _table(dataset: Dataset, keyword: str, *, little: bool, signed: bool) -> _LookupTable | None:
    """Return the first table of a sequence; None if there is no table.

    Args:
        dataset: The data set that contains the sequence.
        keyword: The sequence's keyword.
        little: Whether words are stored with their low byte first.
        signed: Whether the values to look up may be below 0. Then the first mapped value is signed, too,
            whatever its VR.
    """
    for item in raw_value(dataset, keyword) or ():
        descriptor, data = raw_value(item, "LUTDescriptor"), raw_value(item, "LUTData")
        if descriptor is None and data is None:
            continue
        if descriptor is None or data is None:
            missing = label("LUTDescriptor" if descriptor is None else "LUTData")
            raise DicomError(f"its {label(keyword)} has no {missing}")
        return _read_table(keyword, descriptor, data, little=little, signed=signed)
    return None


def _read_table(keyword: str, descriptor: Any, data: Any, *, little: bool, signed: bool) -> _LookupTable:
    count, first, bits = _three_words(keyword, descriptor, little=little)
    if not _LEAST_BITS <= bits <= _MOST_BITS:
        raise DicomError(
            f"its {label(keyword)} has entries of {bits} bits ({label('LUTDescriptor')}); "
            f"{_LEAST_BITS} to {_MOST_BITS} were expected"
        )
    count = count or _WORD
    first -= _WORD if signed and first >= _WORD // 2 else 0
    entries = _entries(data, count, bits, little=little)
    if len(entries) == 0:
        raise DicomError(f"{label('LUTData')} of its {label(keyword)} is empty")
    greatest = int(entries.max())
    found = greatest.bit_length()
    if found in (0, bits):
        return _LookupTable(keyword, entries, first, count, 2.0**bits - 1, "")
    # An entry may exceed the bits in the descriptor a little: 4096 in a table of 12 bits.
    full = float(greatest) if found > bits else 2.0**found - 1
    note = f"the entries of its {label(keyword)} have {found} bits, its descriptor says {bits}"
    return _LookupTable(keyword, entries, first, count, full, f"{note}; the entries count")


def _three_words(keyword: str, descriptor: Any, *, little: bool) -> tuple[int, int, int]:
    """Return number of entries, first value and bits, each from 0 to 65535; the caller applies the sign."""
    held = descriptor
    if isinstance(descriptor, bytes):  # an item whose VR pydicom does not know
        descriptor = np.frombuffer(descriptor[: len(descriptor) // 2 * 2], "<u2" if little else ">u2")
    try:
        count, first, bits = (int(value) % _WORD for value in descriptor)
    except (TypeError, ValueError) as error:
        raise DicomError(
            f"{label('LUTDescriptor')} of its {label(keyword)} holds {quoted(held)}; "
            "three numbers were expected"
        ) from error
    return count, first, bits


def _entries(data: Any, count: int, bits: int, *, little: bool) -> NDArray[np.uint16]:
    """Return the entries of LUT Data: words, or bytes packed into words, the first in the lower half."""
    if isinstance(data, bytes):
        words = np.frombuffer(data + b"\0" * (len(data) % 2), "<u2" if little else ">u2")
    else:
        words = np.array(data, dtype=np.int64, ndmin=1).astype(np.uint16)
    if len(words) == count + 1 and count % 2:  # an odd number of words, padded to even
        words = words[:count]
    packed = len(words) != count and len(words) == (count + 1) // 2 and bits in (_LEAST_BITS, _MOST_BITS)
    if packed:
        return words.astype("<u2").view(np.uint8)[:count].astype(np.uint16)
    return words.astype(np.uint16)
