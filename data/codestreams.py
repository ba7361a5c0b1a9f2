"""What a compressed stream says of itself.

Promises: `describe` tells the size, precision and sign of the first image in a JPEG, JPEG-LS or JPEG 2000
stream from its own headers, whatever the data set calls it, and where that image's bytes are. Nothing is
decoded. A stream that ends before its image does is refused as cut off; bytes before its start or after
its end do not count.

Sources: ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000), T.814 (HTJ2K).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace

from data.elements import Refusal

JPEG, JPEG_LS, JPEG_2000 = "JPEG", "JPEG-LS", "JPEG 2000"

_SOI, _EOI, _SOF_LS, _SOS = b"\xff\xd8", b"\xff\xd9", 0xF7, 0xDA
_J2K_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\0\0\0\x0cjP  \r\n\x87\n"
_JPEG_XL_START = b"\xff\x0a"
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), _SOF_LS} - {0xC4, 0xC8, 0xCC})
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_MOST_SCANS = 64  # a progressive JPEG has about ten; each one costs the time of a whole image

# What ends a scan: in JPEG a byte 255 of data is followed by 0, and RST0 to RST7 are part of the scan; in
# JPEG-LS it is followed by a bit that is 0 (T.87 A.1). 255 may be repeated before a marker.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_MARKER_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")


@dataclass(frozen=True)
class Stream:
    """The first image of a compressed stream.

    Attributes:
        kind: `JPEG`, `JPEG_LS` or `JPEG_2000`.
        content: Its bytes, from the start of the image to its end; if `common`, to the end of what there
            is: its decoder finds the end by itself.
        height: In pixels.
        width: In pixels.
        samples: Per pixel.
        bits: Precision of a sample.
        signed: Whether its samples have a sign; only JPEG 2000 knows one.
        lossless: Whether it gives back what went into the encoder.
        common: Whether it is a JPEG of 8 bits that is not lossless.
    """

    kind: str
    content: bytes
    height: int
    width: int
    samples: int
    bits: int
    signed: bool = False
    lossless: bool = False
    common: bool = False


def recognise(content: bytes) -> str:
    """The kind of a compressed stream by its first bytes, zeros before them aside; "" if it is of none."""
    if content.startswith(_JP2_START):
        return JPEG_2000
    start = content[:64].lstrip(b"\0")
    if start.startswith(_J2K_START):
        return JPEG_2000
    if start.startswith(_SOI + b"\xff"):
        return JPEG
    return "JPEG XL" if content.startswith(_JPEG_XL_START) else ""


def describe(content: bytes) -> Stream:
    """What a stream that was recognised holds.

    Raises:
        Refusal: It is of no kind that is read, its headers are damaged, or it is cut off.
    """
    kind = recognise(content)
    try:
        if kind == JPEG:
            return _jpeg(content)
        if kind == JPEG_2000:
            return _jpeg_2000(content)
    except struct.error as error:
        raise Refusal(f"its {kind} stream is cut off within its headers") from error
    raise Refusal(
        f"its pixels are compressed as {kind or 'nothing known'}; JPEG, JPEG-LS and JPEG 2000 are read"
    )


def without_stuffing(stream: Stream) -> Stream | None:
    """The same without zeros between its last coded bytes and its end marker; None if there are none.

    A zero after a byte 255 belongs to that one and stays.
    """
    body = stream.content[: stream.content.rfind(_EOI)]
    bare = body.rstrip(b"\0")
    if bare.endswith(b"\xff") and len(bare) < len(body):
        bare += b"\0"
    if len(bare) == len(body):
        return None
    return replace(stream, content=bare + _EOI)


def continued(stream: Stream, filler: bytes) -> Stream:
    """The same with further coded bytes before its end marker: an image that was complete stays the same."""
    return replace(stream, content=stream.content.removesuffix(_EOI) + filler + _EOI)


def _jpeg(content: bytes) -> Stream:
    """A JPEG or JPEG-LS stream by its frame header (T.81 B.2.2, T.87 C.2.2)."""
    if content[0] == 0:
        content = content.lstrip(b"\0")
    position, frame = len(_SOI), None
    while (marker := _marker(content, position)) is not None:
        code, position = marker
        (length,) = struct.unpack_from(">H", content, position)
        if code in _START_OF_FRAME:
            bits, height, width, samples = struct.unpack_from(">BHHB", content, position + 2)
            frame = code
        elif code == _SOS:
            break
        position += length
    if marker is None and position + 2 > len(content):
        raise Refusal("its JPEG stream is cut off before its first scan")
    if frame is None or marker is None:
        raise Refusal("its JPEG stream is damaged: it has no frame header and no scan where they belong")
    common = bits == 8 and frame not in (*_LOSSLESS, _SOF_LS)
    near = content[position + length - 3] if frame == _SOF_LS and position + length <= len(content) else 0
    # Of one component alone, the other processes read no more than one scan.
    scans = content.count(bytes((0xFF, _SOS))) if frame in _PROGRESSIVE else 1
    if scans > _MOST_SCANS:
        raise Refusal(f"its JPEG stream has {scans} scans; at most {_MOST_SCANS} are read")
    kind = JPEG_LS if frame == _SOF_LS else JPEG
    return Stream(
        kind=kind,
        content=content if common else content[: _end_of_jpeg(content, position, kind)],
        height=height,
        width=width,
        samples=samples,
        bits=bits,
        lossless=frame in _LOSSLESS or (frame == _SOF_LS and near == 0),
        common=common,
    )


def _marker(content: bytes, position: int) -> tuple[int, int] | None:
    """The code of the marker at a position, and where its segment begins; None if there is none."""
    while content[position : position + 2] == b"\xff\xff":  # any number of these may come before a marker
        position += 1
    if position + 2 > len(content) or content[position] != 0xFF:
        return None
    return content[position + 1], position + 2


def _end_of_jpeg(content: bytes, position: int, kind: str) -> int:
    """Where the image ends, after its end marker, from the segment of its first scan's header on.

    Raises:
        Refusal: It has no end.
    """
    pattern = _MARKER_LS if kind == JPEG_LS else _MARKER
    while position + 2 <= len(content):
        (length,) = struct.unpack_from(">H", content, position)
        found = pattern.search(
            content, position + length
        )  # beyond the scan that the segment begins, if it does
        if found is None:
            break
        position = found.end()
        if content[position - 1] == _EOI[1]:
            return position
    raise Refusal(f"its {kind} stream is cut off: it has no end marker")


def _jpeg_2000(content: bytes) -> Stream:
    """A codestream by its image and tile size (T.800 A.5.1); the boxes of a JP2 file do not count."""
    start = content.find(_J2K_START)
    if start < 0:
        raise Refusal("its JPEG 2000 stream has no codestream")
    content = content[start:]
    right, bottom, left, top = struct.unpack_from(">4I", content, 8)
    samples, depth = struct.unpack_from(">HB", content, 40)
    reversible, position = False, 2
    while content[position : position + 2] != b"\xff\x90":  # the first tile-part
        code, length = struct.unpack_from(">2sH", content, position)
        if code[:1] != b"\xff":
            raise Refusal("the headers of its JPEG 2000 stream are damaged")
        if code == b"\xff\x52":  # coding style default, A.6.1: the last parameter is the transformation
            (transformation,) = struct.unpack_from(">B", content, position + 13)
            reversible = transformation == 1
        position += 2 + length
    return Stream(
        kind=JPEG_2000,
        content=content[: _end_of_tiles(content, position)] + _EOI,
        height=bottom - top,
        width=right - left,
        samples=samples,
        bits=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        lossless=reversible,
    )


def _end_of_tiles(content: bytes, position: int) -> int:
    """Where the last tile-part ends (T.800 A.4.2): as it says, or before the end marker if it does not.

    Raises:
        Refusal: The content ends before.
    """
    while content[position : position + 2] == b"\xff\x90":
        (length,) = struct.unpack_from(">I", content, position + 6)
        if length == 0:
            end = content.rfind(_EOI)
            if end < position:
                raise Refusal("its JPEG 2000 stream is cut off: it has no end marker")
            return end
        if position + length > len(content):
            missing = position + length - len(content)
            raise Refusal(
                f"its JPEG 2000 stream is cut off: {missing} bytes of its last tile-part are missing"
            )
        position += max(length, 12)
    if not content[position:].lstrip(b"\0").startswith(_EOI):
        raise Refusal("its JPEG 2000 stream is cut off: it has no end marker")
    return position
