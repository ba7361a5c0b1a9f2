"""Pixels in items, in every form in which they occur: what is whole is read, what is cut off is refused."""

from __future__ import annotations

import random
import struct
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

from data.elements import Refusal
from data.fragments import fragments, of_first_frame


def stream_of(how: str) -> tuple[str, int, bytes]:
    """A codec's transfer syntax, its bits, and `slope` as its stream."""
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
    """No delimiter, no offset table, zeros and other bytes around the stream, items of odd length."""
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
    """Wherever the file or the last item ends, and if an end marker was put there."""
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
            found = reading(write_raw(tmp_path / "a.dcm", value, syntax=syntax, bits=bits))
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
    """It names another transfer syntax, which pydicom then takes for the one that counts."""
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
    """Each frame made even by itself; as many items as frames; or an undefined length around plain pixels."""
    frames = [slope(8), slope(8)[::-1], slope(8)[:, ::-1]]
    value = item(b"") + b"".join(item(even(frame.tobytes())) for frame in frames) + DELIMITER
    for syntax in (RLELossless, JPEGBaseline8Bit):
        found = reading(write_raw(tmp_path / "a.dcm", value, syntax=syntax, NumberOfFrames=3))
        assert not isinstance(found, str), found
        np.testing.assert_array_equal(found.values, slope(8))
        assert "its pixels are not compressed" in found.note
    assert_native(write_raw(tmp_path / "a.dcm", even(slope(8).tobytes()) + DELIMITER), 8)


def test_a_stream_of_just_the_size_of_uncompressed_pixels(tmp_path: Path) -> None:
    """Under an uncompressed syntax and with a length: in items, or padded, it is a stream all the same."""
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
    """A frame may be in several items; all streams but RLE tell by themselves where they end."""
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


def test_fragments_are_views_of_the_content() -> None:
    content = item(b"") + item(b"abc") + b"\0" + item(b"defg") + DELIMITER + b"ignored"
    found = fragments(content)
    assert [bytes(one) for one in found] == [b"", b"abc", b"defg"]
    assert all(one.obj is content for one in found)
    assert [bytes(one) for one in of_first_frame(found, 1)] == [b"abc", b"defg"]
    assert [bytes(one) for one in of_first_frame(found, 2)] == [b"abc"]
    with pytest.raises(Refusal, match="begins with no item"):
        fragments(b"\1\2\3\4\5\6\7\x08")


def test_a_long_run_of_zeros_takes_no_time(tmp_path: Path) -> None:
    found = reading(write_raw(tmp_path / "a.dcm", bytes(50_000_000), syntax=JPEGBaseline8Bit))
    assert "no item" in str(found)


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
