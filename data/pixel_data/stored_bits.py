"""Which bits of what was stored are a pixel's value.

Promises: `of_words` and `of_stream` give values of the type that the header names, and how many bits of it
count. A header that the stored bits contradict is corrected as the standard says, with a note, or refused.

    words (native, RLE, lossless with p = Bits Allocated)   Bits Stored, up to High Bit; others are masked
    p = Bits Stored                                         the stream's values
    lossy with p = Bits Allocated                           Bits Stored; values far beyond them are refused
    any other p                                             the stream's values, of p bits: `Frame.bits`

p is a stream's own precision. Words of which the masked bits go on with the picture, so that Bits Stored must
be wrong, are refused. Sources: DICOM PS3.5 8.1.1, 8.2.1 to 8.2.4 and their notes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.pixel_data import codestreams
from data.pixel_data.codestreams import Stream
from data.pixel_data.elements import Refusal, joined, named
from data.pixel_data.pixel_format import PixelFormat

_RINGING, _ROUNDING = 1 / 4, 1 / 64  # of the range: how far few, or many, lossy values may be beyond it
_MOST_RING = 0.02  # of all pixels
_MOST_BY_CHANCE = 0.5  # of pairs of neighbours


class Frame(NamedTuple):
    """What was stored.

    Attributes:
        values: (rows, columns) int8, uint8, int16 or uint16.
        bits: How many of their bits are used: Bits Stored, or the precision of a stream that has another.
        note: What was corrected, or "".
    """

    values: NDArray[np.integer[Any]]
    bits: int
    note: str = ""


def of_stream(values: NDArray[Any], stream: Stream, form: PixelFormat) -> Frame:
    """The values of a decoded stream, brought to the form that the header means.

    Args:
        values: (rows, columns), as `data.pixel_data.decoders` gives them.
        stream: What it says of itself.
        form: What the header says.

    Raises:
        Refusal: Both contradict each other in a way that is not corrected.
    """
    if stream.bits < values.itemsize * 8 and not stream.signed and values.max() >> stream.bits:
        raise Refusal(f"its {stream.kind} stream is damaged: it has values beyond its own {stream.bits} bits")
    if stream.signed and not form.signed and values.min() < 0:
        raise Refusal(
            f"its {stream.kind} stream has values below 0, which {named('PixelRepresentation')} excludes"
        )
    if stream.bits == form.stored:
        return _of_stored_bits(values, form, stream)
    says = f"its {stream.kind} stream has {stream.bits} bits, {named('BitsStored')} says {form.stored}"
    if stream.bits == form.allocated:
        if stream.lossless and not (stream.kind == codestreams.JPEG_2000 and form.lossy):
            return of_words(_patterns(values, form.allocated), form)
        return Frame(_within(values, form, stream), form.stored, f"{says}, which counts")
    _check_sign(form, stream)
    if not form.signed:
        values = values.astype(f"u{values.itemsize}", copy=False)
    return Frame(values, stream.bits, f"{says}; the stream counts")


def of_words(words: NDArray[Any], form: PixelFormat, *notes: str) -> Frame:
    """The values in words of Bits Allocated: the bits up to High Bit, their sign extended, no others."""
    _check_high_bit(form)
    above, unused = form.allocated - 1 - form.high, form.allocated - form.stored
    words = words.astype(f"=u{form.allocated // 8}", copy=False)
    values: NDArray[Any] = words << above if above else words
    if form.signed:
        values = values.view(f"i{form.allocated // 8}") >> unused
    elif unused:
        values = values >> unused
    note = _unused(words, values, form) if unused else ""
    return Frame(values, form.stored, joined(*notes, note))


def _unused(words: NDArray[Any], values: NDArray[Any], form: PixelFormat) -> str:
    """A remark on bits that are set where no value is, but for those that extend a sign.

    Raises:
        Refusal: They go on with the picture.
    """
    mask = ((1 << form.allocated) - 1) ^ ((1 << form.stored) - 1 << form.high + 1 - form.stored)
    beyond = words & words.dtype.type(mask)
    if form.signed and form.high == form.stored - 1:
        beyond ^= values.view(words.dtype) & words.dtype.type(mask)
    share = np.count_nonzero(beyond) / beyond.size
    if share == 0:
        return ""
    if form.high == form.stored - 1 and _goes_on(words, form.stored):
        raise Refusal(
            f"{named('BitsStored')} is {form.stored}, but its pixels go on in the bits above: "
            "they have more bits than the header says"
        )
    return (
        f"{share:.0%} of its pixels have bits set beyond the {form.stored} of {named('BitsStored')}; "
        "those do not count"
    )


def _goes_on(words: NDArray[Any], stored: int) -> bool:
    """Whether the bits above the stored ones are part of the value.

    Then, where they change by one from a pixel to its neighbour, the stored ones jump back by nearly their
    range, and both together change by little. At the edge of an overlay the stored ones do not jump.
    """
    left, right = (some.astype(np.int32) for some in (words[:, :-1], words[:, 1:]))
    change = right - left
    carries = np.abs((right >> stored) - (left >> stored)) == 1
    small = np.abs(change[carries]) < 1 << max(stored - 2, 0)
    return len(small) > 0 and bool(small.mean() > _MOST_BY_CHANCE)


def _patterns(values: NDArray[np.integer[Any]], bits: int) -> NDArray[np.unsignedinteger[Any]]:
    """Values as the words that hold them."""
    size = bits // 8
    return values.astype(f"{values.dtype.kind}{size}", copy=False).view(f"u{size}")


def _of_stored_bits(values: NDArray[Any], form: PixelFormat, stream: Stream) -> Frame:
    """A stream's values with the sign and in the width that the header says they have."""
    size = form.allocated // 8
    if not form.signed or stream.signed:
        return Frame(values.astype(f"{'i' if form.signed else 'u'}{size}", copy=False), form.stored)
    # JPEG and JPEG-LS know no sign, and some encoders of JPEG 2000 leave it out.
    unused = form.allocated - form.stored
    signed = (values.astype(f"u{size}") << unused).view(f"i{size}") >> unused
    note = ""
    if stream.kind == codestreams.JPEG_2000 and signed.min() < 0:
        note = (
            f"its JPEG 2000 stream has no sign, {named('PixelRepresentation')} says that there is; it counts"
        )
    return Frame(signed, form.stored, note)


def _within(values: NDArray[np.integer[Any]], form: PixelFormat, stream: Stream) -> NDArray[np.integer[Any]]:
    """Lossy values of whole words, which may be a little beyond the range of the bits that are stored."""
    _check_sign(form, stream)
    _check_high_bit(form)
    shifted = values.astype(np.int32) >> form.high + 1 - form.stored
    low = -(1 << form.stored - 1) if form.signed else 0
    high = low + (1 << form.stored) - 1
    beyond = np.maximum(low - shifted, shifted - high) / (high - low)
    if beyond.max() > _RINGING or np.count_nonzero(beyond > _ROUNDING) > _MOST_RING * beyond.size:
        raise Refusal(
            f"its {stream.kind} stream has {stream.bits} bits and values beyond the {form.stored} of "
            f"{named('BitsStored')}: which of both is right cannot be told"
        )
    return shifted.clip(low, high).astype(f"{'i' if form.signed else 'u'}{form.allocated // 8}")


def _check_sign(form: PixelFormat, stream: Stream) -> None:
    """Refuse signed pixels in a stream that does not say where their sign is."""
    if form.signed and not stream.signed:
        raise Refusal(
            f"its {stream.kind} stream has {stream.bits} bits without a sign, but its header says "
            f"{form.stored} with one ({named('BitsStored')}, {named('PixelRepresentation')})"
        )


def _check_high_bit(form: PixelFormat) -> None:
    if not form.stored - 1 <= form.high < form.allocated:
        raise Refusal(
            f"{named('HighBit')} is {form.high}; {form.stored - 1} was expected for {form.stored} of "
            f"{form.allocated} bits, or one up to {form.allocated - 1}"
        )
