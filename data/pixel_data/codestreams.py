"""Headers and completeness of compressed streams: JPEG, JPEG-LS and JPEG 2000.

`describe` reads the size, precision and sign of a stream's first image from the stream's own headers, not
from the data set. `check_complete` refuses an image with a missing part, as far as that is visible without
decoding: no end marker, too few restart intervals, scans, tiles or tile-parts. Where it is not visible,
`Codestream.may_lack_data` is true, and a decoder can find out with the streams of `with_extra_data`. Bytes
before the start of a stream or after its end are ignored. All of this takes time linear in the stream's size.

Sources: ITU-T T.81 annexes B, D, G, H (JPEG), T.87 annex C (JPEG-LS); for JPEG 2000,
    `data.pixel_data.jpeg_2000`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from data.pixel_data import jpeg_2000
from data.pixel_data.elements import DicomError

JPEG, JPEG_LS, JPEG_2000 = "JPEG", "JPEG-LS", "JPEG 2000"

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOF_LS, _SOS, _DNL, _DRI = 0xF7, 0xDA, 0xDC, 0xDD
_RESTARTS = range(0xD0, 0xD8)
_JPEG_XL_START = b"\xff\x0a"
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), _SOF_LS} - {0xC4, 0xC8, 0xCC})
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_COEFFICIENTS = 64  # in a block of 8x8

_MOST_SCANS = 64  # a progressive JPEG has about ten; each one takes the time of a whole image
_MOST_SEGMENTS = 10_000  # a colour profile or a preview takes a few hundred at most

# In coded data, a byte 255 is followed by a byte 0 in JPEG, and by a bit 0 in JPEG-LS (T.87 A.1). Bytes 255
# may be repeated before a marker (T.81 B.1.1.2).
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_MARKER_LS = re.compile(rb"\xff[\x80-\xfe]")
_FILL = re.compile(rb"\xff+")
_NOT_ZERO = re.compile(rb"[^\0]")

# Extra coded bytes that contain no marker in any of the compressions, with zero and one bits. An arithmetic
# encoder leaves out zeros at the end (T.81 D.1.8), nearly always two at most, so its fillers begin with two.
# Its decoder may return the same values for one filler by chance, so there are several.
_FILLER = b"\xaa\x2a" * 8
_FILLERS_ARITHMETIC = tuple(b"\0\0" + filler for filler in (_FILLER, b"\xff\0" * 8, b"\x80" * 16))


@dataclass(frozen=True)
class Codestream:
    """The first image of a compressed stream.

    Attributes:
        kind: `JPEG`, `JPEG_LS` or `JPEG_2000`.
        content: The bytes from the start of the image to the end of the input. `check_complete` cuts them at
            the end of the image unless `huffman_8_bit` is true: that decoder finds the end by itself.
        height: Height in pixels.
        width: Width in pixels.
        samples: Samples per pixel.
        bits: Precision of a sample.
        signed: Whether the samples are signed; only in JPEG 2000.
        lossless: Whether decoding returns exactly the encoder's input.
        huffman_8_bit: Whether it is a lossy JPEG of 8 bits with Huffman codes.
        progressive: Whether it is a progressive JPEG: several scans, each of which adds detail.
        may_lack_data: Whether coded data can be missing, at the end or before a restart marker, without
            a visible sign.
        has_offset: Whether the image does not begin at the origin of its coordinates; only in JPEG 2000.
    """

    kind: str
    content: bytes
    height: int
    width: int
    samples: int
    bits: int
    signed: bool = False
    lossless: bool = False
    huffman_8_bit: bool = False
    progressive: bool = False
    may_lack_data: bool = False
    has_offset: bool = False


def recognise(content: bytes) -> str:
    """Return the kind of a compressed stream by its first bytes, after any zeros; "" if unknown."""
    return _recognised(content)[0]


def _recognised(content: bytes) -> tuple[str, int]:
    """Return the kind of a stream, and the offset of its start."""
    first = _NOT_ZERO.search(content)
    start = len(content) if first is None else first.start()
    if content.startswith(jpeg_2000.START, start):
        return JPEG_2000, start
    if content.startswith(_SOI + b"\xff", start):
        return JPEG, start
    box = start - jpeg_2000.FILE_START.index(b"\x0c")
    if box >= 0 and content.startswith(jpeg_2000.FILE_START, box):
        return JPEG_2000, box
    return "JPEG XL" if content.startswith(_JPEG_XL_START) else "", start


def describe(content: bytes) -> Codestream:
    """Describe the first image of a stream by the stream's headers.

    Raises:
        DicomError: The kind is unknown or not supported, or the headers are damaged or cut off.
    """
    kind, start = _recognised(content)
    content = content[start:] if start else content
    try:
        if kind == JPEG:
            return _described(*_with_height(content, _headers(content)))
        if kind == JPEG_2000:
            image = jpeg_2000.describe(content)
            return Codestream(kind, **image._asdict())
    except struct.error as error:
        raise DicomError(f"its {kind} stream is cut off within its headers") from error
    raise DicomError(
        f"its pixels are compressed as {kind or 'nothing known'}; JPEG, JPEG-LS and JPEG 2000 are read"
    )


def check_complete(stream: Codestream) -> Codestream:
    """Check that no part of a stream is missing, and return the stream cut at the end of its image.

    A `huffman_8_bit` stream is left to its decoder unless it is progressive, because scans can be missing.

    Raises:
        DicomError: It is cut off or damaged, or needs far more work than its size justifies.
    """
    if stream.huffman_8_bit and not stream.progressive:
        return stream
    try:
        if stream.kind == JPEG_2000:
            content, may_lack_data = jpeg_2000.check_complete(stream.content)
            return replace(stream, content=content, may_lack_data=may_lack_data)
        image = _image(stream.content, _headers(stream.content))
    except struct.error as error:
        raise DicomError(f"its {stream.kind} stream is cut off") from error
    if stream.kind == JPEG_LS:  # its decoder accepts no bytes between data and end marker
        return replace(stream, content=stream.content[: image.scans[0].ends[-1]] + _EOI)
    if stream.progressive:
        _check_progression(image.scans)
    return replace(stream, content=stream.content[: image.end])


def without_padding(stream: Codestream) -> Codestream | None:
    """Return the stream without zeros between its coded data and its end marker; None if there are none.

    A zero after a byte 255 belongs to that byte and stays.

    Raises:
        DicomError: The stream has no end.
    """
    try:
        end = _image(stream.content, _headers(stream.content)).scans[-1].ends[-1]
    except struct.error as error:
        raise DicomError(f"its {stream.kind} stream is cut off") from error
    body = stream.content[:end]
    bare = body.rstrip(b"\0")
    if bare.endswith(b"\xff") and len(bare) < len(body):
        bare += b"\0"
    if len(bare) == len(body):
        return None
    return replace(stream, content=bare + _EOI)


def with_extra_data(stream: Codestream) -> list[bytes]:
    """Return copies of a complete stream with extra coded bytes at the end of its data.

    A complete image decodes to the same values. An incomplete image changes: its decoder uses the extra bytes
    where it would silently assume zeros.
    """
    if stream.kind == JPEG_2000:
        return [jpeg_2000.with_extra_data(stream.content, _FILLER * 8)]
    headers = _headers(stream.content)
    ends = [end for scan in _image(stream.content, headers).scans for end in scan.ends]
    pieces = [stream.content[begin:end] for begin, end in pairwise([0, *ends, len(stream.content)])]
    fillers = _FILLERS_ARITHMETIC if headers.process in _ARITHMETIC else (_FILLER,)
    return [filler.join(pieces) for filler in fillers]


class _Headers(NamedTuple):
    """The headers before the first scan of a JPEG or JPEG-LS stream (T.81 B.2, T.87 C.2).

    Attributes:
        process: Code of the frame header's marker.
        frame: Offset of the frame header, after its marker.
        scan: Offset of the first scan header, after its marker.
        bits: Precision of a sample.
        height: Number of lines; 0 if it is given after the first scan.
        width: Samples in a line.
        samples: Number of components.
        restarts: Interval between restart markers, in MCU; 0 without restart markers.
    """

    process: int
    frame: int
    scan: int
    bits: int
    height: int
    width: int
    samples: int
    restarts: int


class _Scan(NamedTuple):
    """A scan: its header without the length field, and the offset of each restart interval's end."""

    header: bytes
    ends: list[int]


class _Image(NamedTuple):
    """The scans of an image, and the offset after its end marker."""

    scans: list[_Scan]
    end: int


def _headers(content: bytes) -> _Headers:
    position, frame, restarts = len(_SOI), None, 0
    for _ in range(_MOST_SEGMENTS):
        marker = _marker(content, position)
        if marker is None:
            if position + 2 > len(content):
                raise DicomError("its JPEG stream is cut off before its first scan")
            break
        code, position = marker
        (length,) = struct.unpack_from(">H", content, position)
        if code in _START_OF_FRAME:
            frame = (code, position, *struct.unpack_from(">BHHB", content, position + 2))
        elif code == _DRI:
            restarts = _restarts(content, position)
        elif code == _SOS:
            if frame is None:
                break
            process, begin, bits, height, width, samples = frame
            return _Headers(process, begin, position, bits, height, width, samples, restarts)
        position += length
    raise DicomError("its JPEG stream is damaged: it has no frame header and no scan where they belong")


def _marker(content: bytes, position: int) -> tuple[int, int] | None:
    """Return the code of the marker at a position, and its segment's offset; None without a marker."""
    if content.startswith(b"\xff\xff", position):
        position = _end_of_fill(content, position) - 1
    if position + 2 > len(content) or content[position] != 0xFF:
        return None
    return content[position + 1], position + 2


def _end_of_fill(content: bytes, position: int) -> int:
    found = _FILL.match(content, position)
    assert found is not None
    return found.end()


def _restarts(content: bytes, position: int) -> int:
    """Return the restart interval in a segment (T.81 B.2.4.4)."""
    (interval,) = struct.unpack_from(">H", content, position + 2)
    return int(interval)


def _with_height(content: bytes, headers: _Headers) -> tuple[bytes, _Headers]:
    """Copy a height that is given after the first scan (DNL, T.81 B.2.5) into the frame header."""
    if headers.height:
        return content, headers
    end = _end_of_scan(content, headers.scan, headers)[1]
    marker = _marker(content, end)
    if marker is None or marker[0] != _DNL:
        raise DicomError("its JPEG stream has no height, neither before its scan nor after it; it is damaged")
    field = headers.frame + 3
    (height,) = struct.unpack_from(">H", content, marker[1] + 2)
    content = content[:field] + height.to_bytes(2, "big") + content[field + 2 :]
    return content, headers._replace(height=height)


def _described(content: bytes, headers: _Headers) -> Codestream:
    process, near = headers.process, 0
    if process == _SOF_LS:
        (length,) = struct.unpack_from(">H", content, headers.scan)
        (near,) = struct.unpack_from(">B", content, headers.scan + length - 3)
    lossless = process in _LOSSLESS
    huffman_8_bit = headers.bits == 8 and not lossless and process not in (*_ARITHMETIC, _SOF_LS)
    return Codestream(
        kind=JPEG_LS if process == _SOF_LS else JPEG,
        content=content,
        height=headers.height,
        width=headers.width,
        samples=headers.samples,
        bits=headers.bits,
        lossless=lossless or (process == _SOF_LS and near == 0),
        huffman_8_bit=huffman_8_bit,
        progressive=process in _PROGRESSIVE,
        may_lack_data=not huffman_8_bit and process != _SOF_LS,
    )


def _image(content: bytes, headers: _Headers) -> _Image:
    """Find the scans and the end of an image, and count its restart intervals.

    Raises:
        DicomError: The end or restart intervals are missing, or another image begins before the end.
    """
    kind = JPEG_LS if headers.process == _SOF_LS else JPEG
    scans = list[_Scan]()
    code, position, restarts = _SOS, headers.scan, headers.restarts
    for _ in range(_MOST_SEGMENTS):
        (length,) = struct.unpack_from(">H", content, position)
        end = position + length
        if code == _SOS:
            ends, end = _end_of_scan(content, position, headers)
            if kind == JPEG:
                _check_intervals(len(ends), restarts, headers)
            scans.append(_Scan(content[position + 2 : position + length], ends))
            if len(scans) > _MOST_SCANS:
                raise DicomError(f"its JPEG stream has too many scans; at most {_MOST_SCANS} are read")
        elif code == _DRI:
            restarts = _restarts(content, position)
        marker = _marker(content, end)
        if marker is None:
            break
        code, position = marker
        if code == _EOI[1]:
            return _Image(scans, position)
        if code in _START_OF_FRAME or code == _SOI[1]:
            raise DicomError(f"its {kind} stream is cut off: another image begins before its end marker")
    raise DicomError(f"its {kind} stream is cut off: it has no end marker")


def _end_of_scan(content: bytes, position: int, headers: _Headers) -> tuple[list[int], int]:
    """Return the offsets of the ends of a scan's restart intervals, and of the marker after the scan.

    Args:
        content: The stream.
        position: Offset of the scan's header, after its marker.
        headers: The image's headers.

    Raises:
        DicomError: No marker follows, or restart markers are out of order (T.81 B.1.1.3).
    """
    (length,) = struct.unpack_from(">H", content, position)
    kind, pattern = (JPEG_LS, _MARKER_LS) if headers.process == _SOF_LS else (JPEG, _MARKER)
    ends, begin = list[int](), position + length
    for found in pattern.finditer(content, begin):
        code, end = content[found.end() - 1], found.start()
        if end > begin and content[end - 1] == 0xFF:  # fill bytes
            end = begin + len(content[begin:end].rstrip(b"\xff"))
        if code not in _RESTARTS:
            if not ends or end > begin or kind == JPEG_LS:
                ends.append(end)  # else a restart marker follows the last interval, too
            return ends, end
        ends.append(end)
        begin = found.end()
        if code != _RESTARTS[(len(ends) - 1) % len(_RESTARTS)]:
            raise DicomError(f"its {kind} stream is damaged: restart markers are missing")
    raise DicomError(f"its {kind} stream is cut off: it has no end marker")


def _check_intervals(found: int, restarts: int, headers: _Headers) -> None:
    """Refuse a scan of one component with too few or too many restart intervals.

    An MCU is one sample in lossless processes, else one block (T.81 A.2.2, H.1.1).
    """
    if headers.samples != 1:
        return  # colour images are refused elsewhere
    units = headers.height * headers.width
    if headers.process not in _LOSSLESS:
        units = -(-headers.height // 8) * -(-headers.width // 8)
    wanted = -(-units // restarts) if restarts else 1
    if found != wanted:
        damage = "cut off" if found < wanted else "damaged"
        raise DicomError(f"its JPEG stream is {damage}: {found} of {wanted} restart intervals are there")


def _check_progression(scans: list[_Scan]) -> None:
    """Refuse a progressive image with a missing scan (T.81 G.1.1.1).

    The first scan of a coefficient leaves out its `low` lowest bits; each further scan adds one bit.
    """
    left: list[int | None] = [None] * _COEFFICIENTS
    for scan in scans:
        first, last, bits = struct.unpack_from(">3B", scan.header, len(scan.header) - 3)
        high, low = bits >> 4, bits & 15
        for number in range(first, min(last + 1, _COEFFICIENTS)):
            if high != (left[number] or 0):
                raise DicomError("its JPEG stream is damaged: a scan is missing between others")
            left[number] = low
    if any(left) or None in left:
        raise DicomError("its JPEG stream is cut off: its last scans are missing")
