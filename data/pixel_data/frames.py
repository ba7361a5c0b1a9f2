"""The first frame of a data set, as the values that were stored.

Promises: `first_frame` gives what the pixels are, by what is stored and not by what the header says of it;
where both disagree, it is corrected as the standard says, with a note, or refused with the reason. A frame
that is cut off is refused, never filled up with grey. No stream can ask for more memory than the header does.

It finds the bytes of the frame: as they are, in items (`data.pixel_data.fragments`), as a stream
(`data.pixel_data.codestreams`, decoded by `data.pixel_data.decoders`) or as RLE
(`data.pixel_data.rle_frames`). `data.pixel_data.stored_bits` tells which of them count.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
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

from data.pixel_data import codestreams, rle_frames
from data.pixel_data.codestreams import Stream
from data.pixel_data.decoders import decoded
from data.pixel_data.elements import Refusal, joined, named
from data.pixel_data.fragments import begins_with_item, fragments, of_first_frame
from data.pixel_data.pixel_format import PixelFormat, pixel_format
from data.pixel_data.stored_bits import Frame, of_stream, of_words

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
    return of_words(values.reshape(form.rows, form.columns), form, *notes)


def _by_syntax(form: PixelFormat) -> str:
    return f"its transfer syntax is {form.syntax.name}"


def _encapsulated(items: list[memoryview], form: PixelFormat) -> Frame:
    """The first frame of pixels in items, by what is in them."""
    ours = of_first_frame(items, form.frames)
    content = bytes(ours[0]) if len(ours) == 1 else b"".join(ours)
    if codestreams.recognise(content):
        stream = codestreams.describe(content)
        frame = _decoded(stream, form)
        if _expects(form, stream):
            return frame
        return frame._replace(
            note=joined(f"its pixels are {stream.kind}, but {_by_syntax(form)}", frame.note)
        )
    if form.syntax == RLELossless and rle_frames.begins(content):
        return of_words(rle_frames.decoded(content, form), form)
    for some in (items[1:], items):  # with and without the offset table
        if len(some) == form.frames and len(some[0]) in _even(form.frame_bytes):
            return _native(bytes(some[0]), "OB", replace(form, frames=1))
        if _fits(whole := b"".join(some), form):
            return _native(whole, "OB", form)
    raise Refusal(
        f"{_by_syntax(form)}, but what its items hold begins with {content[:4].hex(' ')}, and is none of the "
        f"compressions that are read; nor are its {len(content):,} bytes the {form.frame_bytes:,} of "
        f"{form.columns}x{form.rows} uncompressed pixels"
    )


def _even(length: int) -> tuple[int, int]:
    """A length, and what it is made even to."""
    return length, length + length % 2


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
    values = decoded(stream)
    if values.shape != (form.rows, form.columns):
        raise Refusal(f"its {stream.kind} stream decodes to {values.shape} values; it is damaged")
    return of_stream(values, stream, form)
