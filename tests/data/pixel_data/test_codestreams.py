"""Tests that incomplete streams are refused, and that complete streams in any form are read."""

from __future__ import annotations

import base64
import io
import re
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lossless_jpeg import encode_lossless
from numpy.typing import NDArray
from openjpeg.utils import decode as decode_j2k
from openjpeg.utils import encode_array
from PIL import Image
from pixel_files import CODECS, DELIMITER, HEIGHT, WIDTH, even, item, reading, slope, write_raw
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless

from data.pixel_data.codestreams import describe, recognise

EOI = b"\xff\xd9"
SLOPE = slope(8)

# cjpeg's streams of `slope(8)` with arithmetic coding, at quality 97: no Python library encodes this.
ARITHMETIC = {
    "sequential": (
        "|JeWA07C!)0RaI40RaI40RaI40RaL60RaI40|Ej90s{jC1Oo#D0|W#H1q1{I1Oo#F2L%NN1_lNO1O*2N2L=ZQ1_lQI"
        "$p8xo04V@90Ra&J|I7de01yxb|Jncu0RaF2KLGy#`T`b|K8wOXsfGnLm6xV@Y>u}t7h*4&WJK3J8y%#`WU$NS`0+Zy"
        "Onw6cd~OV>`aN6;ff1_KlZg*}JvddhG!99U$<2}kKy+}uKyyJH&YSq@78tr25XVFa*EOe`{{Xx4smj%mXYOj<^E_E*"
        "T@9Y}P_aHF8Dt@UM!RQ6IG^T)_t505^J`HH@{TnPVGCoON@(5#Xy}1(co@azI(QYW2Mk%Q2Lqzdp{G4h8Qg%<LNy;U"
        "q{|PBQrZds0Jk#y+l$)t;9jj5osF<Mqd;N|*2BR6*#"
    ),
    "with restarts": (
        "|JeWA07C!)0RaI40RaI40RaI40RaL60RaI40|Ej90s{jC1Oo#D0|W#H1q1{I1Oo#F2L%NN1_lNO1O*2N2L=ZQ1_lQI"
        "$p8xo04V@90Ra&J|I7de01yxb|J?ut00;lt00;pA002J#{{Z>|7L-1V!au2o1vQnIrg?0Rw=WlBFPUUS*F75@q{w8j"
        "%jNj-I>AhS0|R_+|Iq&c_iZ;n{TGCNvG6IZti3bc`L}LfF1NU#Bt+q!mXr=iu#9#J%i+X<{-I;=7$La-(f<JT>Q0|U"
        ";U8>#3Trmjn0&PRGsVvEL&9}U)VrX#zP?UpVVaTmRt|!Wy&o6<(*FSNSggP3yd(OuzG`bW)|iIwz^&rved-mX9y*VD"
        "lizjS;Pz5|)yQu~@}dGzsQ=Ud0O?9fA4TCGY<vn-*@|bxkVpQC>q{Vwt8EaxQdyU`H-X`r6wl-E7$wzQ|J45g*Wy(g"
        "7Ad^=(gbDe^KfK(U}z^aNhv48#9`vK9%T!c9>K+c|Je"
    ),
    "progressive": (
        "|JeWA07C!)0RaI40RaI40RaI40RaL60RaI40|Ej90s{jC1Oo#D0|W#H1q1{I1Oo#F2L%NN1_lNO1O*2N2L=ZQ1_lQI"
        "$^Z)p04V@90Ra&J|I7dc01*G$00;pA00001{{Zv@^f0CeJNTe@{{Z*dEknc}9GWI%XD&OXrp2hZgDadZb|%sy=c@#)"
        "OCakhj)4En00a;P|Jncu0RaF31p*bF%>{sf!owIPw@-VNEk#{Jn4ktB85XEeIjF^VI7Je_#<mDaF>NDA(lm{%*}BCg"
        "9VbcBbiZ-_t4HFQMD!}$|I7dc5C#9*00;pA00ut-3VQ*MC847ev+1j#zZPY*ps#%ohk49k|I7dc5C#9*00;pA00BQC"
        "(;knBaq{?z+Y=+LvwvI-x_`Og|Jncu0RaF201%W{_7zt^|I7dc5C#9*00;pA00BP`BwKN)k}`$bgXV6dPRyT0%E!ti"
        "+hV+*kNCE>X7Oo_B-L}=NX){)^eUJF**FCM*#"
    ),
}


def rough() -> NDArray[np.uint8]:
    """Return (41, 53) values: `slope` with noise, so that every part of a stream has data."""
    noise = np.random.default_rng(0).integers(-6, 6, (HEIGHT, WIDTH))
    return (SLOPE.astype(int) + noise).clip(0, 255).astype(np.uint8)


def pillow(values: NDArray[Any], form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, form, **options)
    return stream.getvalue()


class Reader:
    """A reader for streams, in a DICOM file of 41x53 pixels."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.dcm"

    def __call__(self, stream: bytes, syntax: str = JPEGBaseline8Bit, bits: int = 8) -> Any:
        value = item(b"") + item(even(stream)) + DELIMITER
        found = reading(write_raw(self.path, value, syntax=syntax, bits=bits))
        return found if isinstance(found, str) else found.pixels


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def assert_image(found: Any, wanted: NDArray[Any], tolerance: float = 1e-6) -> None:
    assert not isinstance(found, str), found
    np.testing.assert_allclose(found, wanted, atol=tolerance)


def assert_refused(found: Any, reason: str) -> None:
    assert isinstance(found, str), "a picture"
    assert reason in found


# --- JPEG 2000


def in_parts(stream: bytes) -> tuple[bytes, list[bytes]]:
    """Split a codestream into its main header and its tile-parts."""
    position, parts = stream.index(b"\xff\x90"), []
    head = stream[:position]
    while stream[position : position + 2] == b"\xff\x90":
        (length,) = struct.unpack_from(">I", stream, position + 6)
        parts.append(stream[position : position + length])
        position += length
    assert stream[position:] == EOI
    return head, parts


def tile_part(data: bytes, tile: int = 0, part: int = 0, parts: int = 0, length: int | None = None) -> bytes:
    length = 14 + len(data) if length is None else length
    return b"\xff\x90" + struct.pack(">HHIBB", 10, tile, length, part, parts) + b"\xff\x93" + data


def test_each_tile_must_be_there(read: Reader) -> None:
    stream = pillow(rough(), "JPEG2000", no_jp2=True, tile_size=(32, 32))
    head, parts = in_parts(stream)
    assert len(parts) == 4
    for order in (parts, parts[::-1], [parts[k] for k in (2, 0, 3, 1)]):
        assert_image(read(head + b"".join(order) + EOI, JPEG2000Lossless), rough() / 255)
    for number in range(4):
        left = b"".join(parts[:number] + parts[number + 1 :])
        reason = f"cut off: tile {number + 1} of 4 is not there"
        assert_refused(read(head + left + EOI, JPEG2000Lossless), reason)
    assert_refused(read(head + parts[0] + parts[1] + EOI, JPEG2000Lossless), "tile 3 of 4 is not there")
    assert_refused(read(head + parts[0] + b"".join(parts) + EOI, JPEG2000Lossless), "not in their order")


def test_each_tile_part_must_be_there(read: Reader) -> None:
    head, (only,) = in_parts(encode_array(rough(), bits_stored=8))
    data = only[14:]
    a, b, c = data[:300], data[300:700], data[700:]
    for parts in (3, 2):  # 2: some encoders write the last one's index
        pieces = [tile_part(one, part=k, parts=parts) for k, one in enumerate((a, b, c))]
        assert_image(read(head + b"".join(pieces) + EOI, JPEG2000Lossless), rough() / 255)
    pieces = [tile_part(one, part=k, parts=3) for k, one in enumerate((a, b, c))]
    for missing in range(3):
        left = b"".join(pieces[:missing] + pieces[missing + 1 :])
        found = read(head + left + EOI, JPEG2000Lossless)
        assert_refused(found, "1 has 2 of 3 tile-parts" if missing == 2 else "not in their order")
    last_alone = [tile_part(a), tile_part(b, part=1), tile_part(c, part=2, parts=3)]
    assert_image(read(head + b"".join(last_alone) + EOI, JPEG2000Lossless), rough() / 255)


def silent_cuts(head: bytes, data: bytes) -> Iterator[int]:
    """Yield the lengths of a tile's data that OpenJPEG decodes without an error: between packets."""
    for cut in range(len(data)):
        try:
            decode_j2k(head + tile_part(data[:cut], parts=1) + EOI)
        except RuntimeError:
            continue
        yield cut


def test_data_that_a_tile_may_lack_without_a_sign(read: Reader) -> None:
    """Without a number of tile-parts, or a length (Psot is 0), a decoder assumes zeros for missing data."""
    head, (only,) = in_parts(encode_array(rough(), bits_stored=8))
    data = only[14:]
    cuts = list(silent_cuts(head, data))
    assert len(cuts) > 4
    for options in ({}, {"length": 0}, {"length": 0, "parts": 1}):
        whole = tile_part(data, **options)
        for pad in (b"", b"\0" * 40, b"\0\0" + head + whole + EOI):
            assert_image(read(head + whole + EOI + pad, JPEG2000Lossless), rough() / 255)
        for cut in cuts:
            found = read(head + tile_part(data[:cut], **options) + EOI, JPEG2000Lossless)
            assert_refused(found, "cut off: data of a tile are missing")
        cut_off = head + tile_part(data[: len(data) // 2], **options)
        following = head + whole + EOI
        for found in (read(cut_off, JPEG2000Lossless), read(cut_off + following, JPEG2000Lossless)):
            assert isinstance(found, str)
        assert_refused(read(head + tile_part(data, **options), JPEG2000Lossless), "no end marker")


def test_a_tile_of_several_that_may_lack_data(read: Reader) -> None:
    head, parts = in_parts(pillow(rough(), "JPEG2000", no_jp2=True, tile_size=(32, 32)))
    bodies = [part[14:] for part in parts]
    unstated = [tile_part(body, tile) for tile, body in enumerate(bodies)]
    assert_image(read(head + b"".join(unstated) + EOI, JPEG2000Lossless), rough() / 255)
    for tile in range(4):
        lacking = [*unstated]
        lacking[tile] = tile_part(b"", tile)
        found = read(head + b"".join(lacking) + EOI, JPEG2000Lossless)
        assert_refused(found, "cut off: data of a tile are missing")


def test_a_codestream_without_end_marker(read: Reader) -> None:
    """The image is complete, unless the last byte may be padding."""
    stream = encode_array(rough(), bits_stored=8)
    head, (only,) = in_parts(stream)
    assert only[-1] != 0
    for rest in (b"", b"\xff", b"\0", b"\0" * 9, stream):
        assert_image(read(head + only + rest, JPEG2000Lossless), rough() / 255)
    assert_refused(read(head + only + b"abc", JPEG2000Lossless), "no end marker")
    assert_refused(read(head + only[:-1] + b"\0", JPEG2000Lossless), "no end marker")
    assert_refused(read(head + only[:-1], JPEG2000Lossless), "cut off")
    for at in range(
        len(head) + 14, len(stream) - 8, 37
    ):  # the end marker is not data, where some are missing
        for count in (1, 2, 3, 4, 5):
            hole = stream[:at] + stream[at + count :]
            for rest in (b"", b"\0\0", b"\xff", stream):
                assert_refused(read(hole + rest, JPEG2000Lossless), "cut off")


def test_an_image_that_does_not_begin_at_the_origin(read: Reader) -> None:
    for across, down in ((3, 5), (0, 7), (11, 0), (1000, 900)):
        stream = pillow(
            rough(), "JPEG2000", no_jp2=True, offset=(across, down), tile_size=(across + 60, down + 60)
        )
        assert struct.unpack_from(">2I", stream, 16) == (across, down)
        assert_image(read(stream, JPEG2000Lossless), rough() / 255)


def test_the_codestream_is_that_of_its_box(read: Reader) -> None:
    stream = pillow(rough(), "JPEG2000")
    box = stream.index(b"jp2c") - 4
    decoy = b"\xff\x4f\xff\x51" + bytes(range(40))
    for before in (
        struct.pack(">I4s", 8 + len(decoy), b"uuid") + decoy,
        struct.pack(">I4sQ", 1, b"xml ", 16 + len(decoy)) + decoy,
    ):
        assert_image(read(stream[:box] + before + stream[box:], JPEG2000Lossless), rough() / 255)
    for head in (bytes(4) + b"jp2c", struct.pack(">I4sQ", 1, b"jp2c", len(stream) - box + 8)):
        assert_image(read(stream[:box] + head + stream[box + 8 :], JPEG2000Lossless), rough() / 255)
    damaged = stream[:12] + b"\xff\xff\xff\xff" + stream[16:]
    assert_image(read(damaged, JPEG2000Lossless), rough() / 255)


def test_what_encoders_write_is_within_the_limits(read: Reader) -> None:
    for options in (
        {"tile_size": (16, 16)},
        {"precinct_size": (32, 32), "codeblock_size": (16, 16)},
        {"codeblock_size": (4, 4)},
        {"precinct_size": (32, 32), "codeblock_size": (4, 4), "tile_size": (32, 32)},
        {"quality_mode": "rates", "quality_layers": [60 - k for k in range(59)] + [1]},
        {"num_resolutions": 1},
        {"plt": True},
    ):
        for progression in ("LRCP", "RLCP", "RPCL", "PCRL", "CPRL"):
            stream = pillow(rough(), "JPEG2000", no_jp2=True, progression=progression, **options)
            assert_image(read(stream, JPEG2000Lossless), rough() / 255)


def hostile_j2k(
    size: int, *, tile: int, block: int, precinct: int, layers: int, in_tile: bool = False
) -> bytes:
    """Return a short codestream whose headers announce many parts; sizes are log2."""
    siz = struct.pack(">HH8IHBBB", 41, 0, size, size, 0, 0, tile, tile, 0, 0, 1, 7, 1, 1)
    cod = struct.pack(">HBBHB5B", 18, 1, 0, layers, 0, 5, block - 2, block - 2, 0, 1)
    cod = b"\xff\x52" + cod + bytes([precinct | precinct << 4]) * 6
    plain = b"\xff\x52" + struct.pack(">HBBHB5B", 12, 0, 0, 1, 0, 5, 4, 4, 0, 1)
    qcd = b"\xff\x5c" + struct.pack(">HB", 19, 0x40) + b"\x40" * 16
    head = b"\xff\x4f\xff\x51" + siz + (plain if in_tile else cod) + qcd
    data = b"\x80" * 50
    extra = cod if in_tile else b""
    sot = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14 + len(extra) + len(data), 0, 1)
    return head + sot + extra + b"\xff\x93" + data + EOI


@pytest.mark.parametrize("in_tile", [False, True])
@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("precincts and code-blocks", {"precinct": 0}),
        ("precincts and code-blocks", {"precinct": 2}),
        ("precincts and code-blocks", {"block": 2}),
        ("layers", {"layers": 65535, "precinct": 8}),
        ("tiles", {"tile": 1}),
        ("tiles", {"tile": 9}),
    ],
)
def test_a_stream_in_far_too_many_parts(
    tmp_path: Path, what: str, options: dict[str, int], in_tile: bool
) -> None:
    """A stream of 520 bytes would take seconds and gigabytes to decode."""
    if what == "tiles" and in_tile:
        return
    arguments = {"tile": 3000, "block": 6, "precinct": 15, "layers": 1, **options}
    value = item(b"") + item(even(hostile_j2k(3000, **arguments, in_tile=in_tile))) + DELIMITER
    path = write_raw(tmp_path / "a.dcm", value, syntax=JPEG2000Lossless, Rows=3000, Columns=3000)
    begin = time.process_time()
    assert_refused(reading(path), f"far more {what} than an image of 3000x3000 pixels needs")
    assert time.process_time() - begin < 1


def test_layers_in_one_header_and_precincts_in_another(tmp_path: Path) -> None:
    stream = hostile_j2k(3000, tile=3000, block=6, precinct=15, layers=65535)
    component = b"\xff\x53" + struct.pack(">HBB5B", 15, 0, 1, 5, 4, 4, 0, 1) + b"\x88" * 6
    for at in (stream.index(b"\xff\x5c"), stream.index(b"\xff\x93")):
        longer = stream[:at] + component + stream[at:]
        length = longer.index(b"\xff\x90") + 6
        (before,) = struct.unpack_from(">I", longer, length)
        if at > length:
            longer = longer[:length] + struct.pack(">I", before + len(component)) + longer[length + 4 :]
        value = item(b"") + item(even(longer)) + DELIMITER
        path = write_raw(tmp_path / "a.dcm", value, syntax=JPEG2000Lossless, Rows=3000, Columns=3000)
        assert_refused(reading(path), "far more layers than")


@pytest.mark.parametrize(
    ("name", "stream", "syntax", "reason"),
    [
        ("fill", b"\xff\xd8" + b"\xff" * 5_000_000, JPEGBaseline8Bit, "damaged"),
        ("fill, then data", b"\xff\xd8" + b"\xff" * 5_000_000 + b"\0", JPEGBaseline8Bit, "cut off"),
        ("segments", b"\xff\xd8" + b"\xff\xe0\0\2" * 2_000_000, JPEGBaseline8Bit, "damaged"),
        ("fill in a scan", b"", JPEGLosslessSV1, "cut off"),
        ("restart markers", b"", JPEGLosslessSV1, "damaged"),
        ("segments after a scan", b"", JPEGLSLossless, "cut off"),
        ("segments of JPEG 2000", b"", JPEG2000Lossless, "damaged"),
        ("empty tile-parts", b"", JPEG2000Lossless, "far more tile-parts"),
    ],
)
def test_many_small_parts_take_no_time(
    read: Reader, name: str, stream: bytes, syntax: str, reason: str
) -> None:
    if syntax == JPEGLosslessSV1:
        filler = b"\xff" * 5_000_000 + b"\0" if name == "fill in a scan" else b"\xff\xd0" * 2_000_000
        stream = encode_lossless(SLOPE, 8, 1)[:-2] + filler
    elif syntax == JPEGLSLossless:
        stream = CODECS["JPEG-LS"].encode(SLOPE, 8)[:-2] + b"\xff\xe5\0\2" * 2_000_000
    elif name == "segments of JPEG 2000":
        whole = encode_array(SLOPE, bits_stored=8)
        at = whole.index(b"\xff\x52")
        stream = whole[:at] + b"\xff\x64\0\2" * 2_000_000 + whole[at:]
    elif name == "empty tile-parts":
        head, _ = in_parts(pillow(SLOPE, "JPEG2000", no_jp2=True, tile_size=(16, 16)))
        tiles = [tile_part(b"", tile, part) for part in range(255) for tile in range(12)]
        stream = head + b"".join(tiles) + EOI
    begin = time.process_time()
    assert_refused(read(stream, syntax), reason)
    assert time.process_time() - begin < 2


# --- JPEG: restart intervals, scans, arithmetic coding


def scan_of(stream: bytes) -> int:
    """Return the offset of the coded data of a stream's first scan."""
    start = stream.index(b"\xff\xda") + 2
    return start + int(struct.unpack_from(">H", stream, start)[0])


def with_restarts(bits: int, lines: int) -> tuple[bytes, list[bytes]]:
    """Encode `slope` as lossless JPEG; return the headers, and restart intervals of `lines` lines.

    Prediction restarts in each interval (T.81 H.1.2.1), so each is coded like a separate image.
    """
    values = slope(bits)
    streams = [encode_lossless(values[row : row + lines], bits, 1) for row in range(0, HEIGHT, lines)]
    head = encode_lossless(values, bits, 1)
    at = head.index(b"\xff\xda")
    interval = b"\xff\xdd\0\4" + struct.pack(">H", lines * WIDTH)
    return head[:at] + interval + head[at : scan_of(head)], [one[scan_of(one) : -2] for one in streams]


def numbered(intervals: list[tuple[int, bytes]]) -> bytes:
    """Join intervals with restart markers, numbered in order."""
    return b"".join(
        (bytes([0xFF, 0xD0 + (number - 1) % 8]) if place else b"") + one
        for place, (number, one) in enumerate(intervals)
    )


@pytest.mark.parametrize(("bits", "lines"), [(12, 4), (8, 1), (16, 41), (12, 40)])
def test_restart_intervals_of_lossless_jpeg(read: Reader, bits: int, lines: int) -> None:
    head, intervals = with_restarts(bits, lines)
    every = list(enumerate(intervals))
    wanted = slope(bits) / ((1 << bits) - 1)
    whole = numbered(every)
    one_more = bytes([0xFF, 0xD0 + (len(every) - 1) % 8])
    for end in (EOI, b"\xff" + EOI, one_more + EOI, b"\0\0" + EOI, b"\xff\xfe\0\4ab" + EOI):
        assert_image(read(head + whole + end, JPEGLosslessSV1, bits), wanted)
    for first in range(len(every)):
        for last in {first + 1, first + 2, first + 8, len(every)}:
            left = every[:first] + every[last:]
            if last <= len(every):
                assert isinstance(read(head + numbered(left) + EOI, JPEGLosslessSV1, bits), str), (
                    first,
                    last,
                )
    for number in range(len(every)):  # the last bytes of an interval are missing, or all of them
        for rest in (b"", intervals[number][:-2].removesuffix(b"\xff"), intervals[number][:9]):
            left = [*every[:number], (number, rest), *every[number + 1 :]]
            assert_refused(read(head + numbered(left) + EOI, JPEGLosslessSV1, bits), "cut off")


def test_a_stream_with_restart_intervals_that_ends_anywhere(read: Reader) -> None:
    head, intervals = with_restarts(12, 4)
    data = numbered(list(enumerate(intervals)))
    for cut in [
        *range(0, len(data) - 1, 7),
        *(found.start() for found in re.finditer(b"\xff[\xd0-\xd7]", data)),
    ]:
        left = data[:cut].removesuffix(b"\xff")
        assert "cut off" in str(read(head + left + EOI, JPEGLosslessSV1, 12))


@pytest.mark.parametrize("how", ["JPEG 12", "JPEG lossless"])
def test_restart_markers_where_none_belong(read: Reader, how: str) -> None:
    codec = CODECS[how]
    stream = codec.encode(np.random.default_rng(1).integers(0, 4096, (HEIGHT, WIDTH)).astype(np.uint16), 12)
    begin = scan_of(stream)
    stuffed = [found.start() for found in re.finditer(b"\xff\0", stream[begin:])]
    assert len(stuffed) > 3
    for place in (stuffed[0], stuffed[len(stuffed) // 2], stuffed[-1]):
        at = begin + place + 1
        found = read(stream[:at] + b"\xd0" + stream[at + 1 :], codec.syntax, 12)
        assert_refused(found, "damaged: 2 of 1 restart intervals")


def test_each_scan_of_a_progressive_jpeg_must_be_there(read: Reader) -> None:
    for values in (SLOPE, rough()):
        stream = pillow(values, "JPEG", quality=95, progressive=True)
        assert_image(read(stream), values / 255, 0.03)
        scans = [found.start() for found in re.finditer(b"\xff\xda", stream)]
        begins = [max(stream.rfind(b"\xff\xc4", last, this), 0) or this for last, this in pairwise(scans)]
        assert len(begins) == 5
        for begin in begins:
            assert_refused(read(stream[:begin] + EOI), "cut off: its last scans are missing")
        for first, last in pairwise(begins):
            assert isinstance(read(stream[:first] + stream[last:]), str)
        for begin in begins:  # another frame begins where the first one was cut off
            assert "cut off" in str(read(stream[:begin] + stream))


def arithmetic(how: str) -> bytes:
    return base64.b85decode(ARITHMETIC[how])


@pytest.mark.parametrize("how", ARITHMETIC)
def test_arithmetic_coding(read: Reader, how: str) -> None:
    """A decoder assumes zeros where data end, and a complete stream may omit zeros at its end.

    So a few cuts cannot be detected, most of them in the last bytes.
    """
    stream = arithmetic(how)
    wanted = read(stream)
    assert_image(wanted, SLOPE / 255, 0.01)
    assert_image(read(stream[:-2] + b"\xff" + EOI), wanted)
    assert_image(read(stream[:-2] + b"\0\0\0" + EOI), wanted)
    unnoticed, begin = [], scan_of(stream)
    for cut in range(begin, len(stream) - 2):
        found = read(stream[:cut].removesuffix(b"\xff") + EOI)
        if isinstance(found, str):
            assert "cut off" in found or "damaged" in found
        elif np.abs(found - wanted).max() > 0.02:
            unnoticed.append(cut)
    assert len(unnoticed) < 0.02 * (len(stream) - begin)


# --- Whole streams that are written in another way


@pytest.mark.parametrize("how", ["JPEG", "JPEG 12", "JPEG lossless", "JPEG-LS", "JPEG-LS near"])
def test_a_stream_that_is_whole_is_read_however_it_ends(read: Reader, how: str) -> None:
    codec = CODECS[how]
    bits = 12 if 12 in codec.bits else 8
    stream = codec.encode(slope(bits), bits)
    wanted = read(stream, codec.syntax, bits)
    assert_image(wanted, slope(bits) / ((1 << bits) - 1), 0.01)
    body = stream[:-2]
    comment = b"\xff\xfe\0\6\xff\xd9ab"
    forms = [
        body + b"\xff" + EOI,
        body + b"\xff" * 9 + EOI,
        body + comment + EOI,
        body + b"\xff" + comment + comment + b"\xff" + EOI,
        body + b"\0" * 5 + EOI + EOI,
        body + b"\0" * 5 + EOI + b"\xff\xd8\xff\xd9rubbish" + EOI,
        stream[:2] + b"\xff\xe1\0\x14" + b"\xff\xd8\xff\xd9\xff\xda" * 3 + stream[2:],
        bytes(64) + stream,
        bytes(70_000) + stream,
    ]
    for form in forms:
        assert_image(read(form, codec.syntax, bits), wanted, 1e-9)


@pytest.mark.parametrize("how", ["JPEG", "JPEG 12", "JPEG lossless", "JPEG-LS"])
def test_a_height_that_comes_after_the_scan(read: Reader, how: str) -> None:
    """The height may follow the scan in a DNL segment (T.81 B.2.5)."""
    codec = CODECS[how]
    bits = 12 if 12 in codec.bits else 8
    stream = codec.encode(slope(bits), bits)
    found = re.search(rb"\xff[\xc0\xc1\xc3\xf7]\0\x0b", stream)
    assert found is not None
    at = found.end() + 1
    assert stream[at : at + 2] == bytes([0, HEIGHT])
    without = stream[:at] + b"\0\0" + stream[at + 2 :]
    wanted = read(stream, codec.syntax, bits)
    lines = b"\xff\xdc\0\4" + struct.pack(">H", HEIGHT)
    assert_image(read(without[:-2] + lines + EOI, codec.syntax, bits), wanted, 1e-9)
    assert_refused(read(without, codec.syntax, bits), "has no height")
    other = without[:-2] + b"\xff\xdc\0\4\0\x28" + EOI
    assert_refused(read(other, codec.syntax, bits), "53x40 pixels, but its header says 53x41")


def test_a_stream_is_recognised_behind_zeros() -> None:
    j2k = encode_array(SLOPE, bits_stored=8)
    for stream, kind in ((CODECS["JPEG"].encode(SLOPE, 8), "JPEG"), (j2k, "JPEG 2000")):
        for zeros in (0, 1, 63, 64, 100_001):
            assert recognise(bytes(zeros) + stream) == kind
            assert describe(bytes(zeros) + stream).width == WIDTH
    jp2 = pillow(SLOPE, "JPEG2000")
    for zeros in (0, 1, 64, 100_001):
        assert recognise(bytes(zeros) + jp2) == "JPEG 2000"
    for content in (b"", b"\0", bytes(1000), b"\0\xff\xd8", jp2[3:], b"\x0cjP  \r\n\x87\n", SLOPE.tobytes()):
        assert recognise(content) == ""


def test_reasons_say_what_to_do(read: Reader) -> None:
    """The reason is advice, not a library's message."""
    for how, codec in CODECS.items():
        bits = 12 if 12 in codec.bits else 8
        stream = bytearray(codec.encode(slope(bits), bits))
        middle = (scan_of(bytes(stream)) + len(stream)) // 2 if "2000" not in how else len(stream) // 2
        stream[middle : middle + 40] = b"\xff\xd9" * 20
        found = read(bytes(stream), codec.syntax, bits)
        assert isinstance(found, str), how
        assert not re.search("libjpeg|CharLS|OpenJPEG|tj[A-Z]|0x", found)
        assert found.endswith("get the file again from its source") or "cut off" in found


@pytest.mark.parametrize("how", CODECS)
def test_what_a_stream_says_of_its_loss(how: str) -> None:
    """JPEG-LS gives the loss after its scan's components (T.87 C.2.3), whatever their number."""
    codec = CODECS[how]
    for bits in codec.bits:
        assert describe(codec.encode(slope(bits), bits)).lossless == codec.lossless, bits
