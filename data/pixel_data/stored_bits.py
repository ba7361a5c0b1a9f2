"""The bits of stored pixels that are the value.

`frame_from_words` and `frame_from_stream` return values of the type that the header names, and their number
of bits. A header that the stored bits contradict is corrected as the standard says, with a note, or refused.

    words (native, RLE, lossless with p = Bits Allocated)   Bits Stored, up to High Bit; others are masked
    p = Bits Stored                                         the stream's values
    lossy with p = Bits Allocated                           Bits Stored; values far beyond them are refused
    any other p                                             the stream's values, of p bits: `Frame.bits`

p is a stream's own precision. If the masked bits of words are part of the picture, Bits Stored must be wrong,
and the frame is refused. Sources: DICOM PS3.5 8.1.1, 8.2.1 to 8.2.4 and their notes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.pixel_data import codestreams
from data.pixel_data.codestreams import Codestream
from data.pixel_data.elements import DicomError, join_notes, label
from data.pixel_data.pixel_format import PixelFormat

_RINGING, _ROUNDING = 1 / 4, 1 / 64  # how far few, or many, lossy values may exceed the range, in ranges
_MOST_RING = 0.02  # largest share of pixels beyond `_ROUNDING`
_MOST_BY_CHANCE = 0.5  # largest share of pairs of neighbours


class Frame(NamedTuple):
    """The stored values of a frame.

    Attributes:
        values: (rows, columns) int8, uint8, int16 or uint16.
        bits: Number of bits of a value: Bits Stored, or the stream's precision if that counts.
        note: The correction that was made, or "".
    """

    values: NDArray[np.integer[Any]]
    bits: int
    note: str = ""


def frame_from_stream(values: NDArray[Any], stream: Codestream, form: PixelFormat) -> Frame:
    """Convert the values of a decoded stream to the form that the header describes.

    Args:
        values: (rows, columns) from `data.pixel_data.decoders`.
        stream: The stream's own description.
        form: The pixel format in the header.

    Raises:
        DicomError: The stream and the header contradict each other in a way that is not corrected.
    """
    if stream.bits < values.itemsize * 8 and not stream.signed and values.max() >> stream.bits:
        raise DicomError(
            f"its {stream.kind} stream is damaged: it has values beyond its own {stream.bits} bits"
        )
    if stream.signed and not form.signed and values.min() < 0:
        raise DicomError(
            f"its {stream.kind} stream has values below 0, which {label('PixelRepresentation')} excludes"
        )
    if stream.bits == form.stored:
        return _of_stored_bits(values, form, stream)
    says = f"its {stream.kind} stream has {stream.bits} bits, {label('BitsStored')} says {form.stored}"
    if stream.bits == form.allocated:
        if stream.lossless and not (stream.kind == codestreams.JPEG_2000 and form.lossy):
            return frame_from_words(_as_words(values, form.allocated), form)
        return Frame(_clip_lossy(values, form, stream), form.stored, f"{says}, which counts")
    _check_sign(form, stream)
    if not form.signed:
        values = values.astype(f"u{values.itemsize}", copy=False)
    return Frame(values, stream.bits, f"{says}; the stream counts")


def frame_from_words(words: NDArray[Any], form: PixelFormat, *notes: str) -> Frame:
    """Extract the values from words of Bits Allocated: the bits up to High Bit, sign extended."""
    _check_high_bit(form)
    above, unused = form.allocated - 1 - form.high, form.allocated - form.stored
    words = words.astype(f"=u{form.allocated // 8}", copy=False)
    values: NDArray[Any] = words << above if above else words
    if form.signed:
        values = values.view(f"i{form.allocated // 8}") >> unused
    elif unused:
        values = values >> unused
    note = _note_unused_bits(words, values, form) if unused else ""
    return Frame(values, form.stored, join_notes(*notes, note))


def _note_unused_bits(words: NDArray[Any], values: NDArray[Any], form: PixelFormat) -> str:
    """Return a note if bits outside of the value are set, except for a sign extension.

    Raises:
        DicomError: These bits are part of the picture.
    """
    mask = ((1 << form.allocated) - 1) ^ ((1 << form.stored) - 1 << form.high + 1 - form.stored)
    beyond = words & words.dtype.type(mask)
    if form.signed and form.high == form.stored - 1:
        beyond ^= values.view(words.dtype) & words.dtype.type(mask)
    share = np.count_nonzero(beyond) / beyond.size
    if share == 0:
        return ""
    if form.high == form.stored - 1 and _bits_above_are_value(words, form.stored):
        raise DicomError(
            f"{label('BitsStored')} is {form.stored}, but its pixels go on in the bits above: "
            "they have more bits than the header says"
        )
    return (
        f"{share:.0%} of its pixels have bits set beyond the {form.stored} of {label('BitsStored')}; "
        "those do not count"
    )


def _bits_above_are_value(words: NDArray[Any], stored: int) -> bool:
    """Whether the bits above the stored ones are part of the value.

    In that case, where the upper bits change by one between neighbouring pixels, the stored bits jump back by
    nearly their range, so that the whole word changes little. At the edge of an overlay they do not jump.
    """
    left, right = (some.astype(np.int32) for some in (words[:, :-1], words[:, 1:]))
    change = right - left
    carries = np.abs((right >> stored) - (left >> stored)) == 1
    small = np.abs(change[carries]) < 1 << max(stored - 2, 0)
    return len(small) > 0 and bool(small.mean() > _MOST_BY_CHANCE)


def _as_words(values: NDArray[np.integer[Any]], bits: int) -> NDArray[np.unsignedinteger[Any]]:
    """Return values as unsigned words with the same bits."""
    size = bits // 8
    return values.astype(f"{values.dtype.kind}{size}", copy=False).view(f"u{size}")


def _of_stored_bits(values: NDArray[Any], form: PixelFormat, stream: Codestream) -> Frame:
    """Return a stream's values with the sign and the width that the header gives."""
    size = form.allocated // 8
    if not form.signed or stream.signed:
        return Frame(values.astype(f"{'i' if form.signed else 'u'}{size}", copy=False), form.stored)
    # JPEG and JPEG-LS have no signed samples, and some JPEG 2000 encoders omit the sign.
    unused = form.allocated - form.stored
    signed = (values.astype(f"u{size}") << unused).view(f"i{size}") >> unused
    note = ""
    if stream.kind == codestreams.JPEG_2000 and signed.min() < 0:
        note = (
            f"its JPEG 2000 stream has no sign, {label('PixelRepresentation')} says that there is; it counts"
        )
    return Frame(signed, form.stored, note)


def _clip_lossy(
    values: NDArray[np.integer[Any]], form: PixelFormat, stream: Codestream
) -> NDArray[np.integer[Any]]:
    """Extract lossy values from whole words; clip values that exceed the range of Bits Stored a little."""
    _check_sign(form, stream)
    _check_high_bit(form)
    shifted = values.astype(np.int32) >> form.high + 1 - form.stored
    low = -(1 << form.stored - 1) if form.signed else 0
    high = low + (1 << form.stored) - 1
    beyond = np.maximum(low - shifted, shifted - high) / (high - low)
    if beyond.max() > _RINGING or np.count_nonzero(beyond > _ROUNDING) > _MOST_RING * beyond.size:
        raise DicomError(
            f"its {stream.kind} stream has {stream.bits} bits and values beyond the {form.stored} of "
            f"{label('BitsStored')}: which of both is right cannot be told"
        )
    return shifted.clip(low, high).astype(f"{'i' if form.signed else 'u'}{form.allocated // 8}")


def _check_sign(form: PixelFormat, stream: Codestream) -> None:
    """Refuse signed pixels in a stream without sign: the position of the sign bit is unknown."""
    if form.signed and not stream.signed:
        raise DicomError(
            f"its {stream.kind} stream has {stream.bits} bits without a sign, but its header says "
            f"{form.stored} with one ({label('BitsStored')}, {label('PixelRepresentation')})"
        )


def _check_high_bit(form: PixelFormat) -> None:
    if not form.stored - 1 <= form.high < form.allocated:
        raise DicomError(
            f"{label('HighBit')} is {form.high}; {form.stored - 1} was expected for {form.stored} of "
            f"{form.allocated} bits, or one up to {form.allocated - 1}"
        )
