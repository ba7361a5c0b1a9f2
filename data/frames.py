"""The first frame of a data set, as the values that were stored.

Promises: `first_frame` gives what the pixels are, by what is stored and not by what the header says of it;
where both disagree, it is corrected as the standard says, with a note, or refused with the reason. A frame
that is cut off is refused, never filled up with grey. No stream can ask for more memory than the header does.

    native, deflated                 the bytes themselves
    RLE                              here: pydicom's decoder does not tell what is missing or left over
    JPEG of 8 bits                   libjpeg-turbo, by simplejpeg
    other JPEG                       libjpeg-turbo, by imagecodecs
    JPEG-LS                          CharLS, by pyjpegls
    JPEG 2000, HTJ2K                 OpenJPEG, by pylibjpeg-openjpeg

simplejpeg is the fastest way into libjpeg-turbo and the only one that reports what the decoder merely
warns about: Pillow and OpenCV turn a damaged scan into a picture. imagecodecs is slow to import and
seldom needed, so it is imported when it is; so are the others.

Which bits are the value (PS3.5 8.1.1, 8.2.1 and its notes; p is the stream's own precision):

    words (native, RLE, lossless with p = Bits Allocated)   Bits Stored, up to High Bit; others are masked
    p = Bits Stored                                         the stream's values
    lossy with p = Bits Allocated                           Bits Stored; values far beyond them are refused
    any other p                                             the stream's values, of p bits: `Frame.bits`

Words of which the masked bits go on with the picture, so that Bits Stored must be wrong, are refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    RLELossless,
)
from simplejpeg import decode_jpeg

from data import codestreams
from data.codestreams import Stream
from data.elements import Refusal, named
from data.fragments import begins_with_item, fragments, of_first_frame
from data.pixel_format import PixelFormat, pixel_format

Decoded = TypeVar("Decoded")

_LIBRARIES = ("imagecodecs", "pydicom", "pyjpegls", "pylibjpeg-openjpeg", "simplejpeg")

_NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
_JPEG_SYNTAX = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.([56]\d|70)")
_MOST_BITS = 16
_PADS = (b"\0", b" ", b"\xff")
_LONGEST_PAD = 4096  # what uncompressed pixels are filled up to: blocks of a disk or a tape
_LONGEST_RUN = 128  # of RLE
_AGAIN = "get the file again from its source"
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


def versions() -> tuple[str, ...]:
    """The versions of the libraries that decode, on which pixels may depend."""
    return tuple(map(version, _LIBRARIES))


def first_frame(dataset: Dataset, form: PixelFormat | None = None) -> Frame:
    """The stored values of the first frame.

    Args:
        dataset: With Pixel Data and a transfer syntax.
        form: What its header says of them, if that is known already.

    Raises:
        Refusal: The pixels do not fit the header in a way that is not corrected, are cut off or damaged.
        Exception: Of any other kind, from any decoder: the same.
    """
    form = pixel_format(dataset) if form is None else form
    element = dataset["PixelData"]
    content = element.value or b""
    if not isinstance(content, bytes):
        raise Refusal(f"{named('PixelData')} has VR {element.VR}; OB or OW was expected")
    if not content:
        raise Refusal(f"{named('PixelData')} is empty")
    native, in_items = form.syntax in _NATIVE, element.is_undefined_length
    if _fits(content, form) and not _is_compressed(content, form, certain=native and not in_items):
        return _native(content, str(element.VR), form)
    if codestreams.recognise(content):  # without items
        return _encapsulated([memoryview(content)], form)
    if in_items or begins_with_item(content):
        return _encapsulated(fragments(content), form)
    if native:
        return _native(content, str(element.VR), form)
    raise Refusal(
        f"{_by_syntax(form)}, but its pixels are not encapsulated: {named('PixelData')} has {len(content):,} "
        f"bytes and no item, and uncompressed pixels would have {form.frame_bytes * form.frames:,}"
    )


def _is_compressed(content: bytes, form: PixelFormat, *, certain: bool) -> bool:
    """Whether bytes that are as many as uncompressed pixels have are compressed ones.

    Args:
        content: The bytes.
        form: What the header says.
        certain: Whether it takes a stream of just the header's size to believe it: pixels may begin like an
            item by chance.
    """
    if not begins_with_item(content) and not codestreams.recognise(content):
        return False
    if not certain:
        return True
    try:
        items = fragments(content) if begins_with_item(content) else [memoryview(content)]
        stream = codestreams.describe(b"".join(of_first_frame(items, form.frames)))
    except Refusal:
        return False
    return (stream.height, stream.width) == (form.rows, form.columns)


def _fits(content: bytes, form: PixelFormat) -> bool:
    """Whether so many bytes, with or without the one that makes them even, are what the header describes."""
    return len(content) in _even(form.frame_bytes * form.frames)


def _native(content: bytes, vr: str, form: PixelFormat) -> Frame:
    """Pixels that are not compressed (PS3.5 8.1.1, 8.1.2)."""
    if not form.syntax.is_transfer_syntax:
        raise Refusal(
            f"its transfer syntax {form.syntax} is unknown: how its pixels are stored cannot be told"
        )
    expected, most = form.frame_bytes, form.frame_bytes * form.frames
    described = (
        f"{form.columns}x{form.rows} pixels of {form.allocated} bits in {form.frames} "
        f"frame{'' if form.frames == 1 else 's'} have {most:,} bytes"
    )
    if len(content) < most:
        raise Refusal(
            f"{named('PixelData')} has {len(content):,} bytes, less than expected: {described}. "
            "It is cut off, or one of these is wrong"
        )
    rest = content[most:]
    if len(rest) > _LONGEST_PAD or not any(not rest.strip(pad) for pad in (*_PADS, rest[:1])):
        raise Refusal(
            f"{named('PixelData')} has {len(content):,} bytes, more than expected: {described}. "
            "Which of these is wrong cannot be told"
        )
    notes = [] if len(rest) <= 1 else [f"{len(rest):,} bytes after its pixels were taken for a pad"]
    if form.allocated == 8 and vr == "OW" and form.syntax == ExplicitVRBigEndian:
        # Bytes in words, and the words are big-endian.
        even = bytes(content[: expected + expected % 2])
        words = np.frombuffer(even.ljust(expected + expected % 2, b"\0"), ">u2").astype("<u2")
        values = words.view(np.uint8)[:expected]
    else:
        order = ">" if form.syntax == ExplicitVRBigEndian else "<"
        values = np.frombuffer(content, f"{order}u{form.allocated // 8}", form.rows * form.columns)
    if form.syntax not in _NATIVE:
        notes.append(f"its pixels are not compressed, but {_by_syntax(form)}")
    return _from_words(values.reshape(form.rows, form.columns), form, *notes)


def _by_syntax(form: PixelFormat) -> str:
    return f"its transfer syntax is {form.syntax.name}"


def _encapsulated(items: list[memoryview], form: PixelFormat) -> Frame:
    """The first frame of pixels in items, by what is in them."""
    ours = of_first_frame(items, form.frames)
    joined = bytes(ours[0]) if len(ours) == 1 else b"".join(ours)
    if codestreams.recognise(joined):
        stream = codestreams.describe(joined)
        frame = _decoded(stream, form)
        if _expects(form, stream):
            return frame
        return frame._replace(
            note=_joined(f"its pixels are {stream.kind}, but {_by_syntax(form)}", frame.note)
        )
    if form.syntax == RLELossless and _is_rle(joined):
        return _from_words(_rle(joined, form), form)
    for content in (items[1:], items):  # with and without the offset table
        if len(content) == form.frames and len(content[0]) in _even(form.frame_bytes):
            return _native(bytes(content[0]), "OB", replace(form, frames=1))
        if _fits(whole := b"".join(content), form):
            return _native(whole, "OB", form)
    raise Refusal(
        f"{_by_syntax(form)}, but what its items hold begins with {joined[:4].hex(' ')}, and is none of the "
        f"compressions that are read; nor are its {len(joined):,} bytes the {form.frame_bytes:,} of "
        f"{form.columns}x{form.rows} uncompressed pixels"
    )


def _is_rle(content: bytes) -> bool:
    """Whether this begins like a frame of RLE: up to 15 segments, the first behind the header (PS3.5 G.5)."""
    return 1 <= int.from_bytes(content[:4], "little") <= 15 and content[4:8] == b"\x40\0\0\0"


def _even(length: int) -> tuple[int, int]:
    """A length, and what it is made even to."""
    return length, length + length % 2


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _expects(form: PixelFormat, stream: Stream) -> bool:
    """Whether the transfer syntax is one of this kind of compression, those that are retired included."""
    if stream.kind == codestreams.JPEG_2000:
        return form.syntax in JPEG2000TransferSyntaxes
    if stream.kind == codestreams.JPEG_LS:
        return form.syntax in JPEGLSTransferSyntaxes
    return _JPEG_SYNTAX.fullmatch(form.syntax) is not None


def _decoded(stream: Stream, form: PixelFormat) -> Frame:
    """A compressed stream's image, brought to the form that the header means."""
    if (stream.height, stream.width) != (form.rows, form.columns):
        raise Refusal(
            f"its {stream.kind} stream has {stream.width}x{stream.height} pixels, "
            f"but its header says {form.columns}x{form.rows}"
        )
    if stream.samples != 1:
        raise Refusal(f"its {stream.kind} stream is not grey: {stream.samples} samples per pixel")
    if stream.bits > _MOST_BITS:
        raise Refusal(f"its {stream.kind} stream has {stream.bits} bits; at most {_MOST_BITS} are read")
    values = _decode(stream)
    if values.shape != (form.rows, form.columns):
        raise Refusal(f"its {stream.kind} stream decodes to {values.shape} values; it is damaged")
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
            return _from_words(_patterns(values, form.allocated), form)
        return Frame(_within(values, form, stream), form.stored, f"{says}, which counts")
    _check_sign(form, stream)
    if not form.signed:
        values = values.astype(f"u{values.itemsize}", copy=False)
    return Frame(values, stream.bits, f"{says}; the stream counts")


def _decode(stream: Stream) -> NDArray[np.integer[Any]]:
    """The values of a stream, of 8 or 16 bits, signed if the stream says so."""
    stream = codestreams.whole(stream)
    if stream.common:
        return _common_jpeg(stream)
    if stream.kind == codestreams.JPEG:
        return _uncommon_jpeg(stream)
    if stream.kind == codestreams.JPEG_LS:
        return _jpeg_ls(stream)
    return _jpeg_2000(stream)


def _tried(decode: Callable[[bytes], Decoded], stream: Stream) -> Decoded:
    """What a decoder makes of a stream; if it refuses, of the same without zeros before its end marker."""
    try:
        return decode(stream.content)
    except Exception:
        bare = codestreams.without_stuffing(stream)
        if bare is None:
            raise
        return decode(bare.content)


def _common_jpeg(stream: Stream) -> NDArray[np.uint8]:
    try:
        values: NDArray[np.uint8] = _tried(lambda content: decode_jpeg(content, colorspace="GRAY"), stream)
    except Refusal:
        raise
    except ValueError as error:  # with what libjpeg-turbo says
        early = "premature end" in str(error).lower()
        damage = "cut off: its data have a premature end" if early else "damaged"
        raise Refusal(f"its JPEG stream is {damage}; {_AGAIN}") from error
    return values[..., 0]


def _uncommon_jpeg(stream: Stream) -> NDArray[np.integer[Any]]:
    """A JPEG of 12 bits, a lossless one, or one of 8 bits with arithmetic coding.

    Where data are missing, libjpeg-turbo goes on with zeros, and does not tell of it. So other data are put
    there: the image must not depend on them.
    """
    import imagecodecs

    decode: Callable[[bytes], NDArray[np.integer[Any]]] = imagecodecs.jpeg8_decode
    try:
        if stream.bits == 8 and not stream.lossless:  # of this, simplejpeg tells what the decoder warns about
            _tried(lambda content: decode_jpeg(content, colorspace="GRAY"), stream)
        values = decode(stream.content)
        same = all(np.array_equal(values, decode(other)) for other in codestreams.continued(stream))
    except Exception as error:
        raise Refusal(f"its JPEG stream is damaged; {_AGAIN}") from error
    if not same:
        raise Refusal(f"its JPEG stream is cut off: data of its last pixels are missing; {_AGAIN}")
    return values


def _jpeg_ls(stream: Stream) -> NDArray[Any]:
    import jpeg_ls

    try:
        values, facts = _tried(jpeg_ls.decode_pixel_data, stream)
    except Exception as error:
        raise Refusal(f"its JPEG-LS stream is damaged; {_AGAIN}") from error
    kind = "u1" if facts["bits_per_sample"] <= 8 else "u2"
    return np.frombuffer(values, kind).reshape(facts["height"], facts["width"])


def _jpeg_2000(stream: Stream) -> NDArray[Any]:
    decode: Callable[[bytes], NDArray[Any]]
    if stream.shifted:  # of which pylibjpeg-openjpeg gives an image that is too large
        import imagecodecs

        decode = imagecodecs.jpeg2k_decode
    else:
        from openjpeg.utils import decode
    try:
        values = decode(stream.content)
    except Exception as error:
        raise Refusal(f"its JPEG 2000 stream is damaged; {_AGAIN}") from error
    if stream.doubtful:
        try:
            same = np.array_equal(values, decode(codestreams.continued(stream)[0]))
        except Exception:  # what is there was read as part of the image
            same = False
        if not same:
            raise Refusal(f"its JPEG 2000 stream is cut off: data of a tile are missing; {_AGAIN}")
    return values


def _rle(content: bytes, form: PixelFormat) -> NDArray[Any]:
    """The words of an RLE frame (PS3.5 annex G): a segment for each byte of them, the highest first."""
    count, *offsets = struct.unpack("<16I", content[:64].ljust(64, b"\0"))
    if count != form.allocated // 8:
        raise Refusal(
            f"its RLE frame has {count} segments; {form.allocated // 8} were expected for "
            f"{form.allocated} bits"
        )
    bounds = [*offsets[:count], len(content)]
    if bounds[0] != 64 or any(begin >= end for begin, end in pairwise(bounds)):
        raise Refusal(f"its RLE frame is cut off or damaged: its segments are not where it says; {_AGAIN}")
    parts = [_rle_segment(content[begin:end], form) for begin, end in pairwise(bounds)]
    words = np.stack(parts[::-1], axis=-1).view(f"<u{count}")
    return words.reshape(form.rows, form.columns)


def _rle_segment(segment: bytes, form: PixelFormat) -> NDArray[np.uint8]:
    """One byte of each pixel (PS3.5 G.3), if the segment gives exactly as many as there are pixels."""
    pixels = form.rows * form.columns
    found, used = _unpacked(segment[: 2 * pixels + _LONGEST_RUN], pixels)  # a run for each pixel, and some
    if len(found) < pixels:
        raise Refusal(f"its RLE frame is cut off: it has {len(found):,} of {pixels:,} pixels; {_AGAIN}")
    rest = segment[used:]
    if len(found) > pixels or (len(rest) > 1 and rest.strip(b"\0")) or _exchanged(segment, form):
        raise Refusal(
            f"its RLE frame is not of {form.columns}x{form.rows} pixels, as its header says "
            f"({named('Columns')}, {named('Rows')}), or it is damaged"
        )
    return np.frombuffer(found, np.uint8)


def _unpacked(segment: bytes, most: int) -> tuple[bytearray, int]:
    """What a segment's runs give, up to the one that reaches `most` bytes, and where that one ends."""
    found, position = bytearray(), 0
    try:
        while (left := most - len(found)) > 0:
            for _ in range(left // _LONGEST_RUN or 1):  # so many runs do not reach it
                head = segment[position]
                if head < 128:
                    end = position + 2 + head
                    found += segment[position + 1 : end]
                    position = end
                elif head > 128:
                    found += segment[position + 1 : position + 2] * (257 - head)
                    position += 2
                else:
                    position += 1
    except IndexError:  # the segment ends before
        pass
    return found, position


def _exchanged(segment: bytes, form: PixelFormat) -> bool:
    """Whether runs end with each column, so to speak: the header has width and height exchanged.

    Runs shall end with each row (PS3.5 G.3.1). Not all encoders keep to that, so that alone is no damage. A
    width of whole longest runs says nothing. The first lines are enough.
    """
    if form.rows == form.columns or form.rows % _LONGEST_RUN == 0:
        return False
    most = min(form.rows * form.columns, 8 * max(form.rows, form.columns))
    ends, position, total = {0}, 0, 0
    while total < most:
        head = segment[position]
        position += head + 2 if head < 128 else 2 if head > 128 else 1
        total += head + 1 if head < 128 else 257 - head if head > 128 else 0
        ends.add(total)
    return not ends.issuperset(range(0, most, form.columns)) and ends.issuperset(range(0, most, form.rows))


def _from_words(words: NDArray[Any], form: PixelFormat, *notes: str) -> Frame:
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
    return Frame(values, form.stored, _joined(*notes, note))


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
            f"{named('HighBit')} is {form.high}; from {form.stored - 1} to {form.allocated - 1} was expected "
            f"for {form.stored} of {form.allocated} bits"
        )
