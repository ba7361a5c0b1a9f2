"""What a compressed stream says of itself.

Promises: `describe` tells the size, precision and sign of the first image in a JPEG, JPEG-LS or JPEG 2000
stream from its own headers, whatever the data set calls it. `whole` refuses an image of which a part is
missing, as far as that shows without decoding: no end marker, too few restart intervals, scans, tiles or
tile-parts. Where it does not show, `Stream.doubtful` says so, and `continued` gives streams by which a
decoder finds it out. Bytes before the start of a stream or after its end do not count. The time that all of
this takes grows with the size of the stream, never faster.

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
from data.pixel_data.elements import Refusal

JPEG, JPEG_LS, JPEG_2000 = "JPEG", "JPEG-LS", "JPEG 2000"

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOF_LS, _SOS, _DNL, _DRI = 0xF7, 0xDA, 0xDC, 0xDD
_RESTARTS = range(0xD0, 0xD8)
_JPEG_XL_START = b"\xff\x0a"
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), _SOF_LS} - {0xC4, 0xC8, 0xCC})
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_COEFFICIENTS = 64  # of a block of 8 by 8

_MOST_SCANS = 64  # a progressive JPEG has about ten; each one costs the time of a whole image
_MOST_SEGMENTS = 10_000  # a profile of colours or a preview takes a few hundred at most

# In JPEG a byte 255 of coded data is followed by 0; in JPEG-LS by a bit that is 0 (T.87 A.1). 255 may be
# repeated before a marker (T.81 B.1.1.2).
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_MARKER_LS = re.compile(rb"\xff[\x80-\xfe]")
_FILL = re.compile(rb"\xff+")
_NOT_ZERO = re.compile(rb"[^\0]")

# Further coded bytes, without a marker in any of the compressions: bits of both kinds. An arithmetic encoder
# leaves out zeros at the end (T.81 D.1.8), two at most but by rare chance: they come first. Its decoder may
# come to the same values by another way, so it gets several.
_FILLER = b"\xaa\x2a" * 8
_FILLERS_ARITHMETIC = tuple(b"\0\0" + filler for filler in (_FILLER, b"\xff\0" * 8, b"\x80" * 16))


@dataclass(frozen=True)
class Stream:
    """The first image of a compressed stream.

    Attributes:
        kind: `JPEG`, `JPEG_LS` or `JPEG_2000`.
        content: Its bytes, from the start of the image to the end of what there is; after `whole`, to the
            end of the image, unless it is `common`: its decoder finds the end by itself.
        height: In pixels.
        width: In pixels.
        samples: Per pixel.
        bits: Precision of a sample.
        signed: Whether its samples have a sign; only JPEG 2000 knows one.
        lossless: Whether it gives back what went into the encoder.
        common: Whether it is a JPEG of 8 bits with Huffman codes that is not lossless.
        progressive: Whether it is a JPEG in several scans, each of which makes it finer.
        doubtful: Whether coded data can be missing at its end, or before a restart marker, without a sign.
        shifted: Whether its image does not begin at the origin of its coordinates; only in JPEG 2000.
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
    progressive: bool = False
    doubtful: bool = False
    shifted: bool = False


def recognise(content: bytes) -> str:
    """The kind of a compressed stream by its first bytes, zeros before them aside; "" if it is of none."""
    return _recognised(content)[0]


def _recognised(content: bytes) -> tuple[str, int]:
    """The kind of a stream, and where it begins."""
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


def describe(content: bytes) -> Stream:
    """What a stream that was recognised holds, by its headers.

    Raises:
        Refusal: It is of no kind that is read, or its headers are damaged or cut off.
    """
    kind, start = _recognised(content)
    content = content[start:] if start else content
    try:
        if kind == JPEG:
            return _described(*_with_height(content, _headers(content)))
        if kind == JPEG_2000:
            image = jpeg_2000.describe(content)
            return Stream(kind, **image._asdict())
    except struct.error as error:
        raise Refusal(f"its {kind} stream is cut off within its headers") from error
    raise Refusal(
        f"its pixels are compressed as {kind or 'nothing known'}; JPEG, JPEG-LS and JPEG 2000 are read"
    )


def whole(stream: Stream) -> Stream:
    """The same, after no part of it was found missing; its content then ends where the image does.

    A `common` one is left to its decoder, unless it comes in scans of which some can be missing.

    Raises:
        Refusal: It is cut off or damaged, or asks for far more work than an image of its size is.
    """
    if stream.common and not stream.progressive:
        return stream
    try:
        if stream.kind == JPEG_2000:
            content, doubtful = jpeg_2000.whole(stream.content)
            return replace(stream, content=content, doubtful=doubtful)
        image = _image(stream.content, _headers(stream.content))
    except struct.error as error:
        raise Refusal(f"its {stream.kind} stream is cut off") from error
    if stream.kind == JPEG_LS:  # whose decoder accepts nothing between its data and the end marker
        return replace(stream, content=stream.content[: image.scans[0].ends[-1]] + _EOI)
    if stream.progressive:
        _check_progression(image.scans)
    return replace(stream, content=stream.content[: image.end])


def without_stuffing(stream: Stream) -> Stream | None:
    """The same without zeros between its last coded bytes and its end marker; None if there are none.

    A zero after a byte 255 belongs to that one and stays.

    Raises:
        Refusal: It has no end.
    """
    try:
        end = _image(stream.content, _headers(stream.content)).scans[-1].ends[-1]
    except struct.error as error:
        raise Refusal(f"its {stream.kind} stream is cut off") from error
    body = stream.content[:end]
    bare = body.rstrip(b"\0")
    if bare.endswith(b"\xff") and len(bare) < len(body):
        bare += b"\0"
    if len(bare) == len(body):
        return None
    return replace(stream, content=bare + _EOI)


def continued(stream: Stream) -> list[bytes]:
    """A whole stream with further coded bytes where its data end: an image that is complete stays the same.

    An image of which data are missing changes: a decoder goes on with zeros, without a word.
    """
    if stream.kind == JPEG_2000:
        return [jpeg_2000.continued(stream.content, _FILLER * 8)]
    headers = _headers(stream.content)
    ends = [end for scan in _image(stream.content, headers).scans for end in scan.ends]
    pieces = [stream.content[begin:end] for begin, end in pairwise([0, *ends, len(stream.content)])]
    fillers = _FILLERS_ARITHMETIC if headers.process in _ARITHMETIC else (_FILLER,)
    return [filler.join(pieces) for filler in fillers]


class _Headers(NamedTuple):
    """What stands before the first scan of a JPEG or JPEG-LS stream (T.81 B.2, T.87 C.2).

    Attributes:
        process: The code of the frame header's marker.
        frame: Where the frame header begins, after its marker.
        scan: Where the first scan header begins, after its marker.
        bits: Precision.
        height: Lines; 0 if it comes after the first scan.
        width: Samples of a line.
        samples: Components.
        restarts: Interval between restart markers, in MCU; 0 if there are none.
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
    """A scan: its header, after the length, and where each of its restart intervals ends."""

    header: bytes
    ends: list[int]


class _Image(NamedTuple):
    """The scans of an image, and where it ends, after its end marker."""

    scans: list[_Scan]
    end: int


def _headers(content: bytes) -> _Headers:
    position, frame, restarts = len(_SOI), None, 0
    for _ in range(_MOST_SEGMENTS):
        marker = _marker(content, position)
        if marker is None:
            if position + 2 > len(content):
                raise Refusal("its JPEG stream is cut off before its first scan")
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
    raise Refusal("its JPEG stream is damaged: it has no frame header and no scan where they belong")


def _marker(content: bytes, position: int) -> tuple[int, int] | None:
    """The code of the marker at a position, and where its segment begins; None if there is none."""
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
    """The restart interval in a segment (T.81 B.2.4.4)."""
    (interval,) = struct.unpack_from(">H", content, position + 2)
    return int(interval)


def _with_height(content: bytes, headers: _Headers) -> tuple[bytes, _Headers]:
    """The same with its height in the frame header, if it comes after the first scan (DNL, T.81 B.2.5)."""
    if headers.height:
        return content, headers
    end = _end_of_scan(content, headers.scan, headers)[1]
    marker = _marker(content, end)
    if marker is None or marker[0] != _DNL:
        raise Refusal("its JPEG stream has no height, neither before its scan nor after it; it is damaged")
    field = headers.frame + 3
    (height,) = struct.unpack_from(">H", content, marker[1] + 2)
    content = content[:field] + height.to_bytes(2, "big") + content[field + 2 :]
    return content, headers._replace(height=height)


def _described(content: bytes, headers: _Headers) -> Stream:
    process, near = headers.process, 0
    if process == _SOF_LS:
        (length,) = struct.unpack_from(">H", content, headers.scan)
        (near,) = struct.unpack_from(">B", content, headers.scan + length - 3)
    lossless = process in _LOSSLESS
    common = headers.bits == 8 and not lossless and process not in (*_ARITHMETIC, _SOF_LS)
    return Stream(
        kind=JPEG_LS if process == _SOF_LS else JPEG,
        content=content,
        height=headers.height,
        width=headers.width,
        samples=headers.samples,
        bits=headers.bits,
        lossless=lossless or (process == _SOF_LS and near == 0),
        common=common,
        progressive=process in _PROGRESSIVE,
        doubtful=not common and process != _SOF_LS,
    )


def _image(content: bytes, headers: _Headers) -> _Image:
    """The scans of an image and its end, its restart intervals counted.

    Raises:
        Refusal: Its end or restart intervals are missing, or another image begins before its end.
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
                raise Refusal(f"its JPEG stream has too many scans; at most {_MOST_SCANS} are read")
        elif code == _DRI:
            restarts = _restarts(content, position)
        marker = _marker(content, end)
        if marker is None:
            break
        code, position = marker
        if code == _EOI[1]:
            return _Image(scans, position)
        if code in _START_OF_FRAME or code == _SOI[1]:
            raise Refusal(f"its {kind} stream is cut off: another image begins before its end marker")
    raise Refusal(f"its {kind} stream is cut off: it has no end marker")


def _end_of_scan(content: bytes, position: int, headers: _Headers) -> tuple[list[int], int]:
    """Where each restart interval of a scan ends, and where the marker after the scan begins.

    Args:
        content: The stream.
        position: Where the scan's header begins, after its marker.
        headers: Of the image.

    Raises:
        Refusal: No marker follows, or restart markers are not in their order (T.81 B.1.1.3).
    """
    (length,) = struct.unpack_from(">H", content, position)
    kind, pattern = (JPEG_LS, _MARKER_LS) if headers.process == _SOF_LS else (JPEG, _MARKER)
    ends, begin = list[int](), position + length
    for found in pattern.finditer(content, begin):
        code, end = content[found.end() - 1], found.start()
        if end > begin and content[end - 1] == 0xFF:  # bytes of fill
            end = begin + len(content[begin:end].rstrip(b"\xff"))
        if code not in _RESTARTS:
            if not ends or end > begin or kind == JPEG_LS:
                ends.append(end)  # else a restart marker stands after the last interval as well
            return ends, end
        ends.append(end)
        begin = found.end()
        if code != _RESTARTS[(len(ends) - 1) % len(_RESTARTS)]:
            raise Refusal(f"its {kind} stream is damaged: restart markers are missing")
    raise Refusal(f"its {kind} stream is cut off: it has no end marker")


def _check_intervals(found: int, restarts: int, headers: _Headers) -> None:
    """Refuse a scan of one component that has not as many restart intervals as it needs.

    An MCU is one sample where no transform is used, else one block (T.81 A.2.2, H.1.1).
    """
    if headers.samples != 1:
        return  # no image that is read
    units = headers.height * headers.width
    if headers.process not in _LOSSLESS:
        units = -(-headers.height // 8) * -(-headers.width // 8)
    wanted = -(-units // restarts) if restarts else 1
    if found != wanted:
        damage = "cut off" if found < wanted else "damaged"
        raise Refusal(f"its JPEG stream is {damage}: {found} of {wanted} restart intervals are there")


def _check_progression(scans: list[_Scan]) -> None:
    """Refuse a progressive image of which a scan is missing (T.81 G.1.1.1).

    Each coefficient comes first without its lowest bits, `low` of them, then with one more in each scan.
    """
    left: list[int | None] = [None] * _COEFFICIENTS
    for scan in scans:
        first, last, bits = struct.unpack_from(">3B", scan.header, len(scan.header) - 3)
        high, low = bits >> 4, bits & 15
        for number in range(first, min(last + 1, _COEFFICIENTS)):
            if high != (left[number] or 0):
                raise Refusal("its JPEG stream is damaged: a scan is missing between others")
            left[number] = low
    if any(left) or None in left:
        raise Refusal("its JPEG stream is cut off: its last scans are missing")
