"""The stored values of a data set's first frame.

`first_frame` recognises the form of the pixels by their bytes, not by the header. Where the header disagrees,
the frame is corrected as the standard says, with a note, or refused with the reason. A frame that is cut off
is refused, never padded with grey. A stream cannot use more memory than the header implies.

The bytes of the frame may be uncompressed, in items (`data.pixel_data.fragments`), a compressed stream
(`data.pixel_data.codestreams`, decoded by `data.pixel_data.decoders`) or RLE (`data.pixel_data.rle_frames`).
`data.pixel_data.stored_bits` selects the bits that count.
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
from data.pixel_data.codestreams import Codestream
from data.pixel_data.decoders import decode_stream
from data.pixel_data.elements import DicomError, join_notes, label
from data.pixel_data.fragments import begins_with_item, first_frame_items, fragments
from data.pixel_data.pixel_format import PixelFormat, pixel_format
from data.pixel_data.stored_bits import Frame, frame_from_stream, frame_from_words

_NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
_JPEG_SYNTAX = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.([56]\d|70)")
_MOST_BITS = 16
_PADS = (b"\0", b" ", b"\xff")
_LONGEST_PAD = 4096  # uncompressed pixels may be padded to a block of a disk or a tape


def first_frame(dataset: Dataset, form: PixelFormat | None = None) -> Frame:
    """Return the stored values of the first frame.

    Args:
        dataset: A data set with Pixel Data and a transfer syntax.
        form: Its `pixel_format`, if already known.

    Raises:
        DicomError: The pixels do not fit the header in a way that is not corrected, are cut off or damaged.
        Exception: Any other exception of a decoder: the pixels are damaged.
    """
    form = pixel_format(dataset) if form is None else form
    element = dataset["PixelData"]
    content = element.value or b""
    if not isinstance(content, bytes):
        raise DicomError(f"{label('PixelData')} has VR {element.VR}; OB or OW was expected")
    if not content:
        raise DicomError(f"{label('PixelData')} is empty")
    native, in_items = form.syntax in _NATIVE, element.is_undefined_length
    if _fits(content, form) and not _is_compressed(content, form, certain=native and not in_items):
        return _native(content, str(element.VR), form)
    if codestreams.recognise(content):  # without items
        return _encapsulated([memoryview(content)], form)
    if in_items or begins_with_item(content):
        return _encapsulated(fragments(content), form)
    if native:
        return _native(content, str(element.VR), form)
    raise DicomError(
        f"{_by_syntax(form)}, but its pixels are not encapsulated: {label('PixelData')} has {len(content):,} "
        f"bytes and no item, and uncompressed pixels would have {form.frame_bytes * form.frames:,}"
    )


def _is_compressed(content: bytes, form: PixelFormat, *, certain: bool) -> bool:
    """Whether bytes are compressed although their count is that of uncompressed pixels.

    Args:
        content: The bytes.
        form: The pixel format in the header.
        certain: Whether to require a stream of exactly the image's size, because uncompressed pixels may
            begin like an item by chance.
    """
    if not begins_with_item(content) and not codestreams.recognise(content):
        return False
    if not certain:
        return True
    try:
        items = fragments(content) if begins_with_item(content) else [memoryview(content)]
        stream = codestreams.describe(b"".join(first_frame_items(items, form.frames)))
    except DicomError:
        return False
    return (stream.height, stream.width) == (form.rows, form.columns)


def _fits(content: bytes, form: PixelFormat) -> bool:
    """Whether the number of bytes, with or without padding to even, is the one that the header implies."""
    return len(content) in _even(form.frame_bytes * form.frames)


def _native(content: bytes, vr: str, form: PixelFormat) -> Frame:
    """Read pixels that are not compressed (PS3.5 8.1.1, 8.1.2)."""
    if not form.syntax.is_transfer_syntax:
        raise DicomError(
            f"its transfer syntax {form.syntax} is unknown: how its pixels are stored cannot be told"
        )
    expected, most = form.frame_bytes, form.frame_bytes * form.frames
    described = (
        f"{form.columns}x{form.rows} pixels of {form.allocated} bits in {form.frames} "
        f"frame{'' if form.frames == 1 else 's'} have {most:,} bytes"
    )
    if len(content) < most:
        raise DicomError(
            f"{label('PixelData')} has {len(content):,} bytes, less than expected: {described}. "
            "It is cut off, or one of these is wrong"
        )
    rest = content[most:]
    if len(rest) > _LONGEST_PAD or not any(not rest.strip(pad) for pad in (*_PADS, rest[:1])):
        raise DicomError(
            f"{label('PixelData')} has {len(content):,} bytes, more than expected: {described}. "
            "Which of these is wrong cannot be told"
        )
    notes = [] if len(rest) <= 1 else [f"{len(rest):,} bytes after its pixels were taken for a pad"]
    if form.allocated == 8 and vr == "OW" and form.syntax == ExplicitVRBigEndian:
        # The bytes are stored in big-endian words.
        even = bytes(content[: expected + expected % 2])
        words = np.frombuffer(even.ljust(expected + expected % 2, b"\0"), ">u2").astype("<u2")
        values = words.view(np.uint8)[:expected]
    else:
        order = ">" if form.syntax == ExplicitVRBigEndian else "<"
        values = np.frombuffer(content, f"{order}u{form.allocated // 8}", form.rows * form.columns)
    if form.syntax not in _NATIVE:
        notes.append(f"its pixels are not compressed, but {_by_syntax(form)}")
    return frame_from_words(values.reshape(form.rows, form.columns), form, *notes)


def _by_syntax(form: PixelFormat) -> str:
    return f"its transfer syntax is {form.syntax.name}"


def _encapsulated(items: list[memoryview], form: PixelFormat) -> Frame:
    """Read the first frame of pixels in items; the content of the items shows its form."""
    ours = first_frame_items(items, form.frames)
    content = bytes(ours[0]) if len(ours) == 1 else b"".join(ours)
    if codestreams.recognise(content):
        stream = codestreams.describe(content)
        frame = _read_stream(stream, form)
        if _expects(form, stream):
            return frame
        return frame._replace(
            note=join_notes(f"its pixels are {stream.kind}, but {_by_syntax(form)}", frame.note)
        )
    if form.syntax == RLELossless and rle_frames.begins_with_frame(content):
        return frame_from_words(rle_frames.decode(content, form), form)
    for some in (items[1:], items):  # with and without the offset table
        if len(some) == form.frames and len(some[0]) in _even(form.frame_bytes):
            return _native(bytes(some[0]), "OB", replace(form, frames=1))
        if _fits(whole := b"".join(some), form):
            return _native(whole, "OB", form)
    raise DicomError(
        f"{_by_syntax(form)}, but what its items hold begins with {content[:4].hex(' ')}, and is none of the "
        f"compressions that are read; nor are its {len(content):,} bytes the {form.frame_bytes:,} of "
        f"{form.columns}x{form.rows} uncompressed pixels"
    )


def _even(length: int) -> tuple[int, int]:
    """Return a length, and the length padded to even."""
    return length, length + length % 2


def _expects(form: PixelFormat, stream: Codestream) -> bool:
    """Whether the transfer syntax, retired ones included, stands for this kind of compression."""
    if stream.kind == codestreams.JPEG_2000:
        return form.syntax in JPEG2000TransferSyntaxes
    if stream.kind == codestreams.JPEG_LS:
        return form.syntax in JPEGLSTransferSyntaxes
    return _JPEG_SYNTAX.fullmatch(form.syntax) is not None


def _read_stream(stream: Codestream, form: PixelFormat) -> Frame:
    """Decode a compressed stream to the form that the header describes."""
    if (stream.height, stream.width) != (form.rows, form.columns):
        raise DicomError(
            f"its {stream.kind} stream has {stream.width}x{stream.height} pixels, "
            f"but its header says {form.columns}x{form.rows}"
        )
    if stream.samples != 1:
        raise DicomError(f"its {stream.kind} stream is not grey: {stream.samples} samples per pixel")
    if stream.bits > _MOST_BITS:
        raise DicomError(f"its {stream.kind} stream has {stream.bits} bits; at most {_MOST_BITS} are read")
    values = decode_stream(stream)
    if values.shape != (form.rows, form.columns):
        raise DicomError(f"its {stream.kind} stream decodes to {values.shape} values; it is damaged")
    return frame_from_stream(values, stream, form)
