"""Tests of pixels in items, in every form: complete ones are read, and cut ones are refused."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from dicom_files import make_dataset
from numpy.typing import NDArray
from pixel_files import CODECS, DELIMITER, even, item, reading, slope, write_raw
from pydicom.encaps import generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from data.pixel_data.elements import DicomError
from data.pixel_data.fragments import first_frame_items, fragments


def stream_of(how: str) -> tuple[str, int, bytes]:
    """Return a codec's transfer syntax, its bits, and its stream of `slope`."""
    codec = CODECS[how]
    bits = 12 if 12 in codec.bits else 8
    return codec.syntax, bits, codec.encode(slope(bits), bits)


def assert_read(path: Path, how: str, bits: int, note: str = "") -> None:
    found = reading(path)
    assert not isinstance(found, str), found
    tolerance = 1e-7 if CODECS[how].lossless else 0.01
    np.testing.assert_allclose(found.pixels, slope(bits) / ((1 << bits) - 1), atol=tolerance)
    assert found.note == note


@pytest.mark.parametrize("how", CODECS)
def test_a_stream_that_is_whole_is_read(tmp_path: Path, how: str) -> None:
    """A missing delimiter or offset table, bytes around the stream and odd items do not matter."""
    syntax, bits, stream = stream_of(how)
    table, whole = item(b""), even(stream)
    end = stream[-2:]
    forms = {
        "as it should be": table + item(whole) + DELIMITER,
        "offsets": item(bytes(4)) + item(whole) + DELIMITER,
        "no delimiter": table + item(whole),
        "no offset table": item(whole) + DELIMITER,
        "neither": item(whole),
        "a zero before the delimiter": table + item(whole) + b"\0" + DELIMITER,
        "zeros between the items": table + b"\0\0" + item(whole) + DELIMITER,
        "an odd item": table + item(stream[:7]) + item(stream[7:]) + DELIMITER,
        "an odd item and its pad": table + item(stream[:7]) + b"\x20" + item(stream[7:]) + DELIMITER,
        "empty items": table + item(b"") + item(whole) + item(b"") + DELIMITER,
        "a zero before the stream": table + item(b"\0" + stream) + DELIMITER,
        "a zero before its end": table + item(stream[:-2] + b"\0" + end) + DELIMITER,
        "a zero before its end, and a pad": table + item(stream[:-2] + b"\0" + end + b"\0") + DELIMITER,
        "zeros before its end": table + item(stream[:-2] + b"\0\0\0" + end) + DELIMITER,
        "an item longer than the file": table + b"\xfe\xff\x00\xe0" + struct.pack("<I", 1 << 20) + whole,
        "no item": whole,
    }
    for pad in (b"\0", b"\x20", b"\xff", b"\0\0\0\0", b"\xff\xd9", b"rubbish", b"\xff\xd8\xff\xc0" * 9):
        forms[f"{pad!r} after the stream"] = table + item(stream + pad) + DELIMITER
    chance = random.Random(how)
    for number in range(6):
        cuts = sorted(chance.sample(range(1, len(stream)), chance.randint(1, 7)))
        parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        split = b"".join(map(item, parts))
        forms[f"split at {cuts}"] = (
            (table if number % 2 else b"") + split + (DELIMITER if number % 3 else b"")
        )
    for name, value in forms.items():
        for undefined in (True, False):
            print(name, undefined)  # for whoever reads a failure
            path = write_raw(tmp_path / "a.dcm", value, syntax=syntax, bits=bits, undefined=undefined)
            assert_read(path, how, bits)
    path = write_raw(
        tmp_path / "a.dcm", forms["as it should be"], syntax=syntax, bits=bits, after=b"\xff" * 99
    )
    assert_read(path, how, bits)


@pytest.mark.parametrize("how", CODECS)
def test_a_stream_that_is_cut_off_is_refused(tmp_path: Path, how: str) -> None:
    """This holds wherever the file or the last item ends, also with an added end marker."""
    syntax, bits, stream = stream_of(how)
    chance = random.Random(how)
    for cut in (2, 5, 9, len(stream) // 3, *chance.sample(range(10, len(stream) - 3), 12)):
        left = stream[:-cut]
        for name, value in {
            "item": item(b"") + item(even(left)) + DELIMITER,
            "file": item(b"") + b"\xfe\xff\x00\xe0" + struct.pack("<I", len(stream)) + left,
            "end marker": item(b"") + item(left + b"\xff\xd9") + DELIMITER,
        }.items():
            if cut == 2 and name == "end marker":
                continue  # the whole stream
            path = write_raw(tmp_path / "a.dcm", value, syntax=syntax, bits=bits)
            if cut == 2 and "2000" in how:  # the end marker alone is missing, and tiles tell their lengths
                assert_read(path, how, bits)
                continue
            found = reading(path)
            assert isinstance(found, str), (cut, name)
            assert "cut off" in found or "damaged" in found, found


def test_a_cut_is_called_a_cut(tmp_path: Path) -> None:
    for how in CODECS:
        syntax, bits, stream = stream_of(how)
        value = item(b"") + item(even(stream[: len(stream) * 2 // 3])) + DELIMITER
        assert "cut off" in str(reading(write_raw(tmp_path / "a.dcm", value, syntax=syntax, bits=bits)))


NAMES = {
    "JPEG 12": "JPEG",
    "JPEG lossless": "JPEG",
    "JPEG-LS near": "JPEG-LS",
    "JPEG 2000 lossy": "JPEG 2000",
}


@pytest.mark.parametrize("how", CODECS)
def test_what_is_there_counts_not_what_the_syntax_says(tmp_path: Path, how: str) -> None:
    syntax, bits, stream = stream_of(how)
    name = NAMES.get(how, how)
    encapsulated = item(b"") + item(even(stream)) + DELIMITER
    for other in (ExplicitVRLittleEndian, RLELossless):
        path = write_raw(tmp_path / "a.dcm", encapsulated, syntax=other, bits=bits)
        assert_read(path, how, bits, f"its pixels are {name}, but its transfer syntax is {other.name}")
    path = write_raw(
        tmp_path / "a.dcm", even(stream), syntax=ExplicitVRLittleEndian, bits=bits, undefined=False
    )
    assert_read(
        path, how, bits, f"its pixels are {name}, but its transfer syntax is Explicit VR Little Endian"
    )
    native = even(slope(bits).tobytes())
    note = f"its pixels are not compressed, but its transfer syntax is {path_name(syntax)}"
    assert_native(
        write_raw(tmp_path / "a.dcm", native, syntax=syntax, bits=bits, undefined=False), bits, note
    )
    in_item = item(b"") + item(native) + DELIMITER
    assert_native(write_raw(tmp_path / "a.dcm", in_item, syntax=syntax, bits=bits), bits, note)
    assert_native(write_raw(tmp_path / "a.dcm", in_item, bits=bits), bits)


def path_name(syntax: str) -> str:
    return str(getattr(syntax, "name", syntax))


def assert_native(path: Path, bits: int, note: str = "") -> None:
    found = reading(path)
    assert not isinstance(found, str), found
    np.testing.assert_allclose(found.pixels, slope(bits) / ((1 << bits) - 1), atol=1e-7)
    assert found.note == note


def test_a_second_meta_group_in_the_data_set(tmp_path: Path) -> None:
    """The second group names another transfer syntax, which pydicom then uses."""
    syntax, bits, stream = stream_of("JPEG 2000")
    path = write_raw(tmp_path / "a.dcm", item(b"") + item(even(stream)) + DELIMITER, syntax=syntax, bits=bits)
    content = path.read_bytes()
    at = content.index(b"\x08\x00\x16\x00")
    path.write_bytes(content[:at] + b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0" + content[at:])
    assert_read(
        path,
        "JPEG 2000",
        bits,
        "its pixels are JPEG 2000, but its transfer syntax is Explicit VR Little Endian",
    )


@pytest.mark.parametrize(
    ("value", "syntax", "undefined", "reason"),
    [
        (b"", JPEGBaseline8Bit, False, "Pixel Data (7FE0,0010) is empty"),
        (DELIMITER, JPEGBaseline8Bit, True, "Pixel Data (7FE0,0010) is empty"),
        (item(b"") + DELIMITER, JPEGBaseline8Bit, True, "has no item with content"),
        (
            bytes(range(100)),
            JPEG2000Lossless,
            False,
            "are not encapsulated: Pixel Data (7FE0,0010) has 100 bytes",
        ),
        (item(b"") + item(b"abcdefgh") + DELIMITER, JPEGBaseline8Bit, True, "begins with 61 62 63 64"),
        (
            item(b"") + item(b"ab") + b"rubbish" * 3 + DELIMITER,
            JPEGBaseline8Bit,
            True,
            "item 3 does not begin where",
        ),
        (
            item(b"") + item(b"\xff\x0a" + bytes(50)) + DELIMITER,
            JPEGBaseline8Bit,
            True,
            "compressed as JPEG XL; JPEG, JPEG-LS and JPEG 2000 are read",
        ),
        (
            bytes(100),
            ExplicitVRLittleEndian,
            False,
            "has 100 bytes, less than expected: 53x41 pixels of 8 bits in 1 frame have 2,173 bytes",
        ),
        (
            bytes(5000) + b"\1",
            ExplicitVRLittleEndian,
            False,
            "more than expected: 53x41 pixels of 8 bits in 1 frame have 2,173 bytes",
        ),
        (bytes(2174), "1.2.840.113619.5.2", False, "its transfer syntax 1.2.840.113619.5.2 is unknown"),
        (
            item(b"") + item(b"\2\0\0\0\x40" + bytes(59)) + DELIMITER,
            RLELossless,
            True,
            "2 segments; 1 were expected",
        ),
        (
            item(b"") + item(b"\1\0\0\0\x40" + bytes(59)) + DELIMITER,
            RLELossless,
            True,
            "RLE frame is cut off",
        ),
    ],
)
def test_what_is_refused_has_a_reason(
    tmp_path: Path, value: bytes, syntax: str, undefined: bool, reason: str
) -> None:
    assert reason in str(reading(write_raw(tmp_path / "a.dcm", value, syntax=syntax, undefined=undefined)))


@pytest.mark.parametrize("pad", [b"\0", b"\xff", b"\x20"])
def test_uncompressed_pixels_may_be_padded(tmp_path: Path, pad: bytes) -> None:
    value = slope(8).tobytes() + pad * 1001
    note = "1,001 bytes after its pixels were taken for a pad"
    assert_native(write_raw(tmp_path / "a.dcm", value, undefined=False), 8, note)
    value = slope(8).tobytes() + pad * 5001
    assert "more than expected" in str(reading(write_raw(tmp_path / "a.dcm", value, undefined=False)))


@pytest.mark.parametrize(
    "elements", [{"Columns": 52}, {"Columns": 40}, {"Rows": 40}, {"Rows": 27, "Columns": 80}]
)
def test_uncompressed_pixels_of_another_size_are_refused(tmp_path: Path, elements: dict[str, int]) -> None:
    """Sheared or cropped, they would still look like a picture."""
    value = even(slope(8).tobytes())
    path = write_raw(tmp_path / "a.dcm", value, undefined=False, **elements)
    assert "more than expected" in str(reading(path))


def test_uncompressed_frames_in_items_and_without(tmp_path: Path) -> None:
    """Frames may be padded one by one, or have an item each; plain pixels may have undefined length."""
    frames = [slope(8), slope(8)[::-1], slope(8)[:, ::-1]]
    value = item(b"") + b"".join(item(even(frame.tobytes())) for frame in frames) + DELIMITER
    for syntax in (RLELossless, JPEGBaseline8Bit):
        found = reading(write_raw(tmp_path / "a.dcm", value, syntax=syntax, NumberOfFrames=3))
        assert not isinstance(found, str), found
        np.testing.assert_array_equal(found.values, slope(8))
        assert "its pixels are not compressed" in found.note
    assert_native(write_raw(tmp_path / "a.dcm", even(slope(8).tobytes()) + DELIMITER), 8)


@pytest.mark.parametrize("table", [b"", bytes(4)], ids=["empty", "filled"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_an_offset_table_is_no_part_of_uncompressed_pixels(tmp_path: Path, table: bytes, pieces: int) -> None:
    content = even(slope(8).tobytes())
    step = len(content) // pieces // 2 * 2
    parts = [content[n * step : (n + 1) * step if n < pieces - 1 else None] for n in range(pieces)]
    value = item(table) + b"".join(map(item, parts)) + DELIMITER
    found = reading(write_raw(tmp_path / "a.dcm", value, syntax=RLELossless))
    assert not isinstance(found, str), found
    np.testing.assert_array_equal(found.values, slope(8))


def test_a_stream_of_just_the_size_of_uncompressed_pixels(tmp_path: Path) -> None:
    """With an uncompressed syntax and a defined length, in items or padded, a stream is recognised."""
    _, bits, stream = stream_of("JPEG 2000")
    size = slope(bits).nbytes
    note = "its pixels are JPEG 2000, but its transfer syntax is Explicit VR Little Endian"
    padded = stream + bytes(size - len(stream))
    assert_read(write_raw(tmp_path / "a.dcm", padded, bits=bits, undefined=False), "JPEG 2000", bits, note)
    inside = item(b"") + item(stream + bytes(size - len(stream) - 16))
    assert len(inside) == size
    assert_read(write_raw(tmp_path / "a.dcm", inside, bits=bits, undefined=False), "JPEG 2000", bits, note)


def test_uncompressed_pixels_may_begin_like_an_item(tmp_path: Path) -> None:
    pixels = slope(8)
    pixels[0, :8] = np.frombuffer(b"\xfe\xff\x00\xe0\x10\0\0\0", np.uint8)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        dataset = make_dataset(pixels, syntax=syntax)
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
        found = reading(tmp_path / "a.dcm")
        assert not isinstance(found, str)
        np.testing.assert_array_equal(found.values, pixels)


def rle_frames(frames: list[NDArray[np.uint8]]) -> list[bytes]:
    found = []
    for frame in frames:
        dataset = make_dataset(frame)
        dataset.compress(RLELossless, generate_instance_uid=False)
        found.append(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    return found


@pytest.mark.parametrize("how", ["JPEG", "JPEG 2000", "JPEG-LS", "RLE"])
@pytest.mark.parametrize("split", [False, True])
def test_the_first_of_several_compressed_frames(tmp_path: Path, how: str, split: bool) -> None:
    """A frame may be in several items; all streams but RLE mark their end."""
    pictures = [slope(8), slope(8)[::-1].copy(), slope(8)[:, ::-1].copy()]
    if how == "RLE":
        streams, syntax = [even(one) for one in rle_frames(pictures)], RLELossless
    else:
        codec = CODECS[how]
        streams, syntax = [even(codec.encode(one, 8)) for one in pictures], codec.syntax
    parts, offsets, position = [], [], 0
    for stream in streams:
        offsets.append(position)
        for part in (stream[:100], stream[100:]) if split else (stream,):
            parts.append(item(part))
            position += len(parts[-1])
    value = item(struct.pack("<3I", *offsets)) + b"".join(parts) + DELIMITER
    found = reading(write_raw(tmp_path / "a.dcm", value, syntax=syntax, NumberOfFrames=3))
    assert not isinstance(found, str), found
    np.testing.assert_allclose(found.pixels, pictures[0] / 255, atol=0.01)
    assert found.note == "the first of 3 frames"


def runs_across_rows(values: NDArray[np.uint8]) -> bytes:
    """Return an RLE segment of literal runs of 128 bytes, which do not end with the rows."""
    content = values.tobytes()
    pieces = [content[at : at + 128] for at in range(0, len(content), 128)]
    return b"".join(bytes([len(one) - 1]) + one for one in pieces)


def rle_frame(*segments: bytes) -> bytes:
    """Return an RLE frame of these segments (PS3.5 G.5)."""
    offsets = [64]
    for one in segments[:-1]:
        offsets.append(offsets[-1] + len(one))
    return (
        struct.pack("<I", len(segments))
        + struct.pack(f"<{len(offsets)}I", *offsets).ljust(60, b"\0")
        + (b"".join(segments))
    )


def rle_reading(path: Path, *items: bytes, bits: int = 8, **elements: object) -> NDArray[np.float32] | str:
    value = b"".join(map(item, items)) + DELIMITER
    found = reading(write_raw(path / "a.dcm", value, syntax=RLELossless, bits=bits, **elements))
    return found if isinstance(found, str) else found.pixels


def rle_of_words(values: NDArray[np.uint16]) -> bytes:
    dataset = make_dataset(values, stored=12)
    dataset.compress(RLELossless, generate_instance_uid=False)
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def test_an_rle_frame_must_be_of_the_size_in_the_header(tmp_path: Path) -> None:
    """An RLE frame does not give its size, but each row is coded separately (PS3.5 G.3.1)."""
    (frame,) = rle_frames([slope(8)])
    for size in ({"Columns": 52}, {"Columns": 54}, {"Rows": 40}, {"Rows": 42}, {"Rows": 53, "Columns": 41}):
        found = rle_reading(tmp_path, b"", even(frame), **size)
        assert isinstance(found, str), size
        assert "is not of" in found or "cut off" in found
    low_part_black = slope(8)
    low_part_black[20:] = 0
    (frame,) = rle_frames([low_part_black])
    for size in ({"Columns": 26}, {"Rows": 40}, {"Rows": 20}, {"Rows": 53, "Columns": 41}):
        assert "is not of" in str(rle_reading(tmp_path, b"", even(frame), **size)), size


def test_rle_runs_may_cross_the_end_of_a_row(tmp_path: Path) -> None:
    frame = rle_frame(runs_across_rows(slope(8)))
    for pad in (b"", b"\0", b"\0\0\0\0", b"\x20", b"\xff"):
        found = rle_reading(tmp_path, b"", frame + pad)
        np.testing.assert_allclose(found, slope(8) / 255, atol=1e-6)
    noops = rle_frame(b"\x80" + runs_across_rows(slope(8)))  # a byte that is no run
    np.testing.assert_allclose(rle_reading(tmp_path, b"", noops), slope(8) / 255, atol=1e-6)
    for more in (b"\0\1", b"\xff\1", frame, b"\1" * 9):
        assert "is not of 53x41 pixels" in str(rle_reading(tmp_path, b"", frame + more))


def test_each_rle_segment_must_give_all_pixels(tmp_path: Path) -> None:
    frame = rle_of_words(slope(12))
    wanted = slope(12) / 4095
    np.testing.assert_allclose(rle_reading(tmp_path, b"", even(frame), bits=12), wanted, atol=1e-6)
    first, second = struct.unpack_from("<2I", frame, 4)
    for offsets in (
        *((first, second + step) for step in (-3, -2, -1, 1, 2, 3, 1 << 20)),
        (first, first),
        (second, first),
        (first + 2, second),
        (0, second),
        (first, len(frame)),
    ):
        changed = frame[:4] + struct.pack("<2I", *offsets) + frame[12:]
        found = rle_reading(tmp_path, b"", even(changed), bits=12)
        assert isinstance(found, str), offsets
        assert ("its RLE frame is" if offsets[0] == 64 else "none of the compressions") in found
    bare = frame.rstrip(b"\0")
    for cut in (2, 3, 5, 20, 400, len(bare) - 70):
        assert "cut off" in str(rle_reading(tmp_path, b"", even(bare[:-cut]), bits=12)), cut


@pytest.mark.parametrize("table", [b"", struct.pack("<2I", 0, 400)])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_cut_off_rle_frame_is_not_continued_by_the_next(tmp_path: Path, table: bytes, frames: int) -> None:
    one, other = map(even, rle_frames([slope(8), slope(8)[::-1].copy()]))
    for parts in ([one], [one[:100], one[100:]]):
        found = rle_reading(tmp_path, table, *parts, other, NumberOfFrames=frames)
        np.testing.assert_allclose(found, slope(8) / 255, atol=1e-6)
    for cut in (70, 200, len(one) - 60):
        found = rle_reading(tmp_path, table, one[:cut], other, NumberOfFrames=frames)
        assert "cut off" in str(found)
    assert isinstance(rle_reading(tmp_path, table, one[:200] + other, NumberOfFrames=frames), str)


@pytest.mark.parametrize("how", CODECS)
def test_a_stream_tells_its_own_end_whatever_the_table_says(tmp_path: Path, how: str) -> None:
    codec, (syntax, bits, stream) = CODECS[how], stream_of(how)
    first, second = even(stream), even(codec.encode(slope(bits)[::-1].copy(), bits))
    table = item(struct.pack("<2I", 0, 4))
    for name, frames, value in (
        ("a wrong second offset", 2, table + item(first[:101]) + item(first[101:]) + item(second)),
        ("2 frames, one there in 2 items", 2, item(b"") + item(first[:100]) + item(first[100:])),
        ("2 frames, one there", 2, item(b"") + item(first)),
        ("3 frames, one in 3 items", 3, item(b"") + item(first[:10]) + item(first[10:20]) + item(first[20:])),
        ("a table that counts from elsewhere", 1, item(struct.pack("<I", 8)) + item(first)),
        ("so, 2 frames", 2, item(struct.pack("<2I", 90, 98 + len(first))) + item(first) + item(second)),
        ("no table, zeros first", 1, item(bytes(4) + first[:100]) + item(first[100:])),
        ("a table and zeros first", 1, item(bytes(4)) + item(bytes(70) + first)),
    ):
        print(name)
        found = reading(
            write_raw(tmp_path / "a.dcm", value + DELIMITER, syntax=syntax, bits=bits, NumberOfFrames=frames)
        )
        assert not isinstance(found, str), found
        np.testing.assert_allclose(
            found.pixels, slope(bits) / ((1 << bits) - 1), atol=1e-7 if codec.lossless else 0.01
        )
    for cut in (len(first) // 2, len(first) - 40):  # the next frame does not continue one that is cut off
        value = item(b"") + item(first[:cut]) + item(second) + DELIMITER
        for frames in (1, 2):
            found = reading(
                write_raw(tmp_path / "a.dcm", value, syntax=syntax, bits=bits, NumberOfFrames=frames)
            )
            assert isinstance(found, str), (cut, frames)


def test_rle_bytes_that_are_no_runs_take_no_time(tmp_path: Path) -> None:
    begin = time.process_time()
    found = rle_reading(tmp_path, b"", rle_frame(b"\x80" * 50_000_000 + runs_across_rows(slope(8))))
    assert "cut off" in str(found)
    assert time.process_time() - begin < 2
    found = rle_reading(tmp_path, b"", rle_frame(runs_across_rows(slope(8)) + bytes(50_000_000)))
    np.testing.assert_allclose(found, slope(8) / 255, atol=1e-6)


def test_frames_in_items_of_their_own_are_not_all_copied() -> None:
    streams = [even(CODECS["JPEG-LS"].encode(values, 8)) for values in (slope(8), slope(8)[::-1].copy())]
    items = fragments(item(b"") + b"".join(map(item, streams)) + DELIMITER)
    assert [bytes(one) for one in first_frame_items(items, 2)] == streams[:1]
    assert [bytes(one) for one in first_frame_items(items, 1)] == streams


def test_far_too_many_items(tmp_path: Path) -> None:
    stream = CODECS["JPEG"].encode(slope(8), 8)
    table, whole = item(b""), item(even(stream))
    for small in (item(b""), item(b"\0\0")):
        value = table + small * 400_000 + whole + DELIMITER
        found = reading(write_raw(tmp_path / "a.dcm", value, syntax=JPEGBaseline8Bit))
        assert "bytes in more than" in str(found)
    each = b"".join(item(bytes([one])) for one in stream)
    assert_read(write_raw(tmp_path / "a.dcm", table + each + DELIMITER, syntax=JPEGBaseline8Bit), "JPEG", 8)


def test_fragments_are_views_of_the_content() -> None:
    content = item(b"") + item(b"abc") + b"\0" + item(b"defg") + DELIMITER + b"ignored"
    found = fragments(content)
    assert [bytes(one) for one in found] == [b"", b"abc", b"defg"]
    assert all(one.obj is content for one in found)
    assert [bytes(one) for one in first_frame_items(found, 1)] == [b"abc", b"defg"]
    assert [bytes(one) for one in first_frame_items(found, 2)] == [b"abc"]
    with pytest.raises(DicomError, match="begins with no item"):
        fragments(b"\1\2\3\4\5\6\7\x08")


def test_a_long_run_of_zeros_takes_no_time(tmp_path: Path) -> None:
    found = reading(write_raw(tmp_path / "a.dcm", bytes(50_000_000), syntax=JPEGBaseline8Bit))
    assert "no item" in str(found)


@pytest.mark.parametrize("how", CODECS)
def test_a_damaged_stream_is_told_by_its_kind(tmp_path: Path, how: str) -> None:
    """The message must name the stream's kind, so that a user knows where to look."""
    syntax, bits, stream = stream_of(how)
    kind, reasons = NAMES.get(how, how), set()
    chance = random.Random(how)
    for _ in range(100):
        at, length = chance.randrange(20, len(stream) - 10), chance.choice([1, 2, 8])
        damaged = stream[:at] + chance.randbytes(length) + stream[at + length :]
        value = item(b"") + item(even(damaged)) + DELIMITER
        found = reading(write_raw(tmp_path / "a.dcm", value, syntax=syntax, bits=bits))
        if isinstance(found, str):
            reasons.add(found)
    assert any("damaged; get the file again" in reason for reason in reasons)
    assert all(f"its {kind} stream" in reason for reason in reasons), reasons


def test_what_stands_behind_uncompressed_pixels_is_none_of_them(tmp_path: Path) -> None:
    """The pixels have a length; pydicom drops them if no element follows."""
    for after in (b"\xff" * 99, b"no element" * 700):
        value = even(slope(8).tobytes())
        assert_native(write_raw(tmp_path / "a.dcm", value, undefined=False, after=after), 8)


def test_a_deflated_file_without_preamble(tmp_path: Path) -> None:
    dataset = make_dataset(slope(12), stored=12, syntax=DeflatedExplicitVRLittleEndian)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[132:])
    found = reading(path)
    assert not isinstance(found, str), found
    np.testing.assert_array_equal(found.values, slope(12))


@pytest.mark.parametrize("damage", ["cut off", "damaged"])
def test_a_deflated_data_set_that_is_not_whole(tmp_path: Path, damage: str) -> None:
    dataset = make_dataset(slope(12), stored=12, syntax=DeflatedExplicitVRLittleEndian)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    assert not isinstance(reading(path), str)
    begin = 144 + int.from_bytes(content[140:144], "little")  # behind the meta header
    path.write_bytes(content[:-1000] if damage == "cut off" else content[:begin] + b"\xff" * 100)
    assert reading(path) == f"its deflated data set is {damage}"


def test_a_damaged_lossless_stream_with_values_beyond_its_bits(tmp_path: Path) -> None:
    """Differences add up modulo 2^16, whatever the precision."""
    codec, bits = CODECS["JPEG lossless"], 12
    noise = np.random.default_rng(3).integers(0, 4096, slope(12).shape).astype(np.uint16)
    syntax, stream = codec.syntax, codec.encode(noise, bits)
    chance = random.Random(3)
    found = []
    for _ in range(60):
        at = chance.randrange(len(stream) // 2, len(stream) - 4)
        damaged = stream[:at] + bytes([stream[at] ^ 1 << chance.randrange(8)]) + stream[at + 1 :]
        value = item(b"") + item(even(damaged)) + DELIMITER
        found.append(reading(write_raw(tmp_path / "a.dcm", value, syntax=syntax, bits=bits)))
    assert any("it has values beyond its own 12 bits" in str(one) for one in found)
    assert all(isinstance(one, str) or one.values.max() <= 4095 for one in found)
