"""Tests of headers that contradict the stream or themselves: corrected with a note, or refused."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import encapsulated, make_dataset
from lossless_jpeg import encode_lossless
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pixel_files import CODECS, Codec, reading, slope
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from data.radiographs.dicom import Radiograph


def read(path: Path, dataset: FileDataset) -> Radiograph | str:
    dataset.save_as(path / "a.dcm", enforce_file_format=True)
    return reading(path / "a.dcm")


def pixels_of(path: Path, dataset: FileDataset, note: str = "") -> NDArray[np.float32]:
    found = read(path, dataset)
    assert not isinstance(found, str), found
    assert found.note == note
    return found.pixels


def with_bits(codec: Codec, bits: int, stored: int) -> FileDataset:
    """Return a stream of `slope` with `bits` bits, under a header that says other bits."""
    frame = np.zeros(slope(8).shape, np.uint8 if stored <= 8 else np.uint16)
    return encapsulated(frame, codec.encode(slope(bits), bits), codec.syntax, stored=stored)


PRECISIONS = [
    (how, bits, stored)
    for how, codec in CODECS.items()
    for bits in codec.bits
    for stored in (8, 10, 12, 16)
    if bits != stored and not (bits == 16 and stored > 8)
]


@pytest.mark.parametrize(("how", "bits", "stored"), PRECISIONS)
def test_the_precision_of_the_stream_counts(tmp_path: Path, how: str, bits: int, stored: int) -> None:
    """PS3.5 8.2.1: decoding uses the stream's precision. The picture is neither nearly black nor white."""
    dataset = with_bits(CODECS[how], bits, stored)
    kind = how.removesuffix(" near").removesuffix(" 12").removesuffix(" lossy")
    kind = kind.removesuffix(" lossless") if kind.startswith("JPEG ") and "2000" not in kind else kind
    note = f"its {kind} stream has {bits} bits, Bits Stored (0028,0101) says {stored}; the stream counts"
    wanted = slope(bits) / ((1 << bits) - 1)
    tolerance = 1e-6 if CODECS[how].lossless else 0.01
    np.testing.assert_allclose(pixels_of(tmp_path, dataset, note), wanted, atol=tolerance)
    # A window for the stream's values is applied; one for the header's is not guessed at.
    top = 1 << bits
    dataset.WindowCenter, dataset.WindowWidth = top // 2, top
    windowed = ((slope(bits) - (top // 2 - 0.5)) / (top - 1) + 0.5).clip(0, 1)
    np.testing.assert_allclose(pixels_of(tmp_path, dataset, note), windowed, atol=tolerance)
    for center, width in ((top, 2 * top), (top // 8, top // 4), (-top // 2, 2 * top)):
        dataset.WindowCenter, dataset.WindowWidth = center, width
        assert "Window Center (0028,1050) is for values from" in str(read(tmp_path, dataset))
    del dataset.WindowCenter
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        setattr(dataset, keyword, table(top // 4, 0, 16, list(range(top // 4))))
        assert "LUT Sequence (0028,30" in str(read(tmp_path, dataset))
        delattr(dataset, keyword)


def test_signed_values_of_another_precision_need_a_sign_in_the_stream(tmp_path: Path) -> None:
    values = (slope(12).astype(np.int16) - 2048).astype(np.int16)
    stream = encode_array(values, bits_stored=12)
    note = "its JPEG 2000 stream has 12 bits, Bits Stored (0028,0101) says 16; the stream counts"
    dataset = encapsulated(values, stream, JPEG2000Lossless, stored=16)
    np.testing.assert_allclose(pixels_of(tmp_path, dataset, note), (values + 2048.0) / 4095, atol=1e-6)
    patterns = values.view(np.uint16) & 0xFFF
    dataset = encapsulated(values, encode_lossless(patterns, 12, 1), JPEGLosslessSV1, stored=16)
    assert "has 12 bits without a sign" in str(read(tmp_path, dataset))


def test_a_stream_with_negative_values_under_an_unsigned_header(tmp_path: Path) -> None:
    values = (slope(12).astype(np.int16) - 2048).astype(np.int16)
    dataset = encapsulated(
        values.view(np.uint16), encode_array(values, bits_stored=12), JPEG2000Lossless, stored=12
    )
    assert "values below 0, which Pixel Representation (0028,0103)" in str(read(tmp_path, dataset))
    dataset.BitsStored = 16  # also where the stream's bits are not the header's
    assert "values below 0" in str(read(tmp_path, dataset))
    wide = (slope(16).astype(np.int32) - 32768).astype(np.int16)
    dataset = encapsulated(
        wide.view(np.uint16), encode_array(wide, bits_stored=16), JPEG2000Lossless, stored=12
    )
    assert "values below 0" in str(read(tmp_path, dataset))
    none_below = (slope(12) // 2).astype(np.int16)
    stream = encode_array(none_below, bits_stored=12)
    dataset = encapsulated(np.zeros(none_below.shape, np.uint8), stream, JPEG2000Lossless, stored=8)
    note = "its JPEG 2000 stream has 12 bits, Bits Stored (0028,0101) says 8; the stream counts"
    np.testing.assert_allclose(pixels_of(tmp_path, dataset, note), none_below / 4095, atol=1e-6)
    dataset = encapsulated(none_below.view(np.uint16), stream, JPEG2000Lossless, stored=12)
    np.testing.assert_allclose(pixels_of(tmp_path, dataset), none_below / 4095, atol=1e-6)


@pytest.mark.parametrize("how", ["JPEG lossless", "JPEG-LS", "JPEG 2000"])
def test_bits_beyond_the_stored_ones_in_a_lossless_stream(tmp_path: Path, how: str) -> None:
    """An overlay in bit 12 is not part of the picture (PS3.5 8.1.1); a note reports it."""
    values = slope(12)
    overlaid = values.copy()
    overlaid[4:9, 4:30] |= 0x1000
    codec = CODECS[how]
    dataset = encapsulated(values, codec.encode(overlaid, 16), codec.syntax, stored=12)
    note = "6% of its pixels have bits set beyond the 12 of Bits Stored (0028,0101); those do not count"
    np.testing.assert_allclose(pixels_of(tmp_path, dataset, note), values / 4095, atol=1e-6)
    dataset = encapsulated(values, codec.encode(values, 16), codec.syntax, stored=12)
    np.testing.assert_allclose(pixels_of(tmp_path, dataset), values / 4095, atol=1e-6)


def test_lossy_values_a_little_beyond_the_stored_bits_are_no_overlay(tmp_path: Path) -> None:
    """4,100 masked to 12 bits would be 4: a black spot in the whitest part."""
    y, x = np.mgrid[:64, :96]
    values = np.where((y - 30) ** 2 + (x - 40) ** 2 < 400, 4095, 40 * y).astype(np.uint16)
    stream = encode_array(values, bits_stored=16, compression_ratios=[20])
    wild = pydicom.dcmread(io.BytesIO(saved(encapsulated(values, stream, JPEG2000)))).pixel_array.astype(int)
    assert 4095 < wild.max() < 4095 * 5 // 4
    note = "its JPEG 2000 stream has 16 bits, Bits Stored (0028,0101) says 12, which counts"
    dataset = encapsulated(values, stream, JPEG2000, stored=12)
    dataset.LossyImageCompression = "01"
    found = pixels_of(tmp_path, dataset, note)
    np.testing.assert_allclose(found, wild.clip(0, 4095) / 4095, atol=1e-6)
    stream = encode_array(slope(16), bits_stored=16, compression_ratios=[4])
    assert "which of both is right" in str(
        read(tmp_path, encapsulated(slope(16), stream, JPEG2000, stored=12))
    )


def saved(dataset: FileDataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize(("stored", "high"), [(12, 15), (12, 13), (8, 15), (10, 12), (15, 15), (1, 9)])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_high_bit(tmp_path: Path, stored: int, high: int, syntax: str) -> None:
    """PS3.5-2013 8.1.1 and annex D: the value may lie anywhere in its word."""
    values = (slope(16) >> 16 - stored).astype(np.uint16)
    low = high + 1 - stored
    words = values << low | np.uint16((1 << low) - 1)  # rubbish below; above, in the same pixels, too
    words[::2] |= np.uint16(0xFFFF ^ (1 << high + 1) - 1)
    words = words.astype(">u2") if syntax == ExplicitVRBigEndian else words
    dataset = make_dataset(words, stored=stored, syntax=syntax)
    dataset.HighBit = high
    note = (
        f"100% of its pixels have bits set beyond the {stored} of Bits Stored (0028,0101); those do not count"
    )
    np.testing.assert_allclose(pixels_of(tmp_path, dataset, note), values / ((1 << stored) - 1), atol=1e-6)


@pytest.mark.parametrize("how", ["native", "RLE", "JPEG lossless", "JPEG-LS", "JPEG 2000"])
def test_pixels_that_go_on_above_the_stored_bits(tmp_path: Path, how: str) -> None:
    """A picture of 16 bits masked to 12 would be a sawtooth; an overlay or garbage is not refused."""
    values = slope(16)
    if how in ("native", "RLE"):
        dataset = make_dataset(values, stored=12)
        if how == "RLE":
            dataset.compress(RLELossless, generate_instance_uid=False)
    else:
        dataset = encapsulated(values, CODECS[how].encode(values, 16), CODECS[how].syntax, stored=12)
    assert "Bits Stored (0028,0101) is 12, but its pixels go on in the bits above" in str(
        read(tmp_path, dataset)
    )
    noise = np.random.default_rng(9).integers(0, 16, values.shape).astype(np.uint16)
    dataset = make_dataset(slope(12) | noise << 12, stored=12)
    note = "bits set beyond the 12 of Bits Stored (0028,0101); those do not count"
    found = read(tmp_path, dataset)
    assert not isinstance(found, str)
    assert found.note.endswith(note)
    np.testing.assert_allclose(found.pixels, slope(12) / 4095, atol=1e-6)


def test_a_high_bit_that_cannot_be(tmp_path: Path) -> None:
    dataset = make_dataset(slope(12), stored=12)
    for high in (7, 16):
        dataset.HighBit = high
        assert f"High Bit (0028,0102) is {high}; 11 was expected for 12 of 16 bits" in str(
            read(tmp_path, dataset)
        )
    codec = CODECS["JPEG-LS"]  # whose stream says by itself which bits it has
    dataset = encapsulated(slope(12), codec.encode(slope(12), 12), codec.syntax, stored=12)
    dataset.HighBit = 7
    np.testing.assert_allclose(pixels_of(tmp_path, dataset), slope(12) / 4095, atol=1e-6)


def test_bytes_in_big_endian_words(tmp_path: Path) -> None:
    """PS3.5 8.1.2 and 7.3: 8 bits with VR OW are bytes in words; the low byte comes first."""
    values = slope(8)
    swapped = np.append(values.ravel(), np.uint8(0)).view("<u2").byteswap().tobytes()
    dataset = make_dataset(values, syntax=ExplicitVRBigEndian)
    dataset.PixelData = swapped
    dataset["PixelData"].VR = "OW"
    np.testing.assert_allclose(pixels_of(tmp_path, dataset), values / 255, atol=1e-6)


def table(
    count: int, first: int, bits: int, data: Any, *, vr: str = "US", descriptor_vr: str = "US"
) -> Items:
    item = Dataset()
    item.add_new("LUTDescriptor", descriptor_vr, [count, first, bits])
    item.add_new("LUTData", vr, data)
    return Items([item])


SLOPE_12 = slope(12)


def looked_up(entries: Sequence[int], first: int, values: NDArray[Any] = SLOPE_12) -> NDArray[np.int64]:
    return np.array(entries)[(values.astype(int) - first).clip(0, len(entries) - 1)]


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_entries_of_fewer_bits_than_the_descriptor_says(tmp_path: Path, keyword: str, bits: int) -> None:
    entries = [value * 4095 // 4095 for value in range(4096)]
    entries[7:9] = 3001, 17
    dataset = make_dataset(SLOPE_12, stored=12)
    setattr(dataset, keyword, table(4096, 0, bits, entries))
    name = "Modality LUT Sequence (0028,3000)" if keyword[0] == "M" else "VOI LUT Sequence (0028,3010)"
    note = f"the entries of its {name} have 12 bits, its descriptor says {bits}; the entries count"
    found = pixels_of(tmp_path, dataset, "" if bits == 12 else note)
    np.testing.assert_allclose(found, looked_up(entries, 0) / 4095, atol=1e-6)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("descriptor_vr", ["US", "SS"])
@pytest.mark.parametrize("where", ["signed pixels", "rescale"])
def test_the_first_value_is_signed_where_the_values_are(
    tmp_path: Path, syntax: str, descriptor_vr: str, where: str
) -> None:
    """The same bytes give the same picture in every VR: -1000 is 64536."""
    chance = np.random.default_rng(3)
    entries = chance.permutation(4096)[:2500].tolist()
    entries[2] = 4095
    first = -1000
    values = (SLOPE_12.astype(np.int16) - 1024).astype(np.int16)
    stored = values if where == "signed pixels" else SLOPE_12
    dataset = make_dataset(
        stored.astype(">i2") if syntax == ExplicitVRBigEndian else stored, stored=16, syntax=syntax
    )
    if where == "rescale":
        dataset.PixelRepresentation = 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    else:
        dataset.PixelRepresentation = 1
    written = first % 65536 if descriptor_vr == "US" else first
    dataset.VOILUTSequence = table(2500, written, 12, entries, descriptor_vr=descriptor_vr)
    np.testing.assert_allclose(
        pixels_of(tmp_path, dataset), looked_up(entries, first, values) / 4095, atol=1e-6
    )


def test_a_first_value_beyond_32767_where_nothing_is_below_zero(tmp_path: Path) -> None:
    values = slope(16)
    entries = np.random.default_rng(4).integers(0, 4096, 9000).tolist()
    entries[5] = 4095
    for vr, written in (("US", 40000), ("SS", 40000 - 65536)):
        dataset = make_dataset(values)
        dataset.VOILUTSequence = table(9000, written, 12, entries, descriptor_vr=vr)
        np.testing.assert_allclose(
            pixels_of(tmp_path, dataset), looked_up(entries, 40000, values) / 4095, atol=1e-6
        )


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_a_length_of_zero_means_65536(tmp_path: Path, vr: str) -> None:
    values = slope(16)
    entries = np.random.default_rng(5).permutation(65536).astype("<u2")
    dataset = make_dataset(values)
    dataset.VOILUTSequence = table(0, 0, 16, entries.tobytes() if vr == "OW" else entries.tolist(), vr=vr)
    if vr == "US":  # 131,072 bytes, which explicit VR has no room for
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    np.testing.assert_allclose(pixels_of(tmp_path, dataset), entries[values] / 65535, atol=1e-6)


@pytest.mark.parametrize("count", [255, 256])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_entries_packed_as_bytes(tmp_path: Path, count: int, bits: int, vr: str, syntax: str) -> None:
    """Two entries a word, the first in its low byte (PS3.3 C.11.1.1.1, note)."""
    entries = np.random.default_rng(6).permutation(256)[:count].astype(np.uint8)
    words = np.append(entries, np.zeros(count % 2, np.uint8)).view("<u2")
    data = words.tolist() if vr == "US" else words.astype(">u2" if "2.2" in syntax[-4:] else "<u2").tobytes()
    values = (slope(8) // 2 + 70).astype(np.uint8)
    dataset = make_dataset(values, syntax=syntax)
    dataset.VOILUTSequence = table(count, 3, bits, data, vr=vr)
    name = "VOI LUT Sequence (0028,3010)"
    note = f"the entries of its {name} have 8 bits, its descriptor says 16; the entries count"
    note = note if bits == 16 else ""
    found = pixels_of(tmp_path, dataset, note)
    np.testing.assert_allclose(found, looked_up(entries.tolist(), 3, values) / 255, atol=1e-6)


def test_a_table_shorter_than_it_says(tmp_path: Path) -> None:
    """The table is used if no pixel needs a missing entry."""
    entries = np.random.default_rng(7).permutation(4096)[:3900].tolist()
    values = (SLOPE_12 // 2).astype(np.uint16)
    dataset = make_dataset(values, stored=12)
    dataset.VOILUTSequence = table(4096, 0, 12, entries)
    np.testing.assert_allclose(pixels_of(tmp_path, dataset), looked_up(entries, 0, values) / 4095, atol=1e-6)
    dataset = make_dataset(values, stored=12)  # the range is that of what there is, whatever it says
    for bits in (8, 16):
        dataset.VOILUTSequence = table(4096, 0, bits, entries)
        found = read(tmp_path, dataset)
        assert not isinstance(found, str)
        assert "entries count" in found.note
        np.testing.assert_allclose(found.pixels, looked_up(entries, 0, values) / 4095, atol=1e-6)
    dataset.VOILUTSequence = table(256, 0, 12, entries)
    assert "its pixels need those that are too many" in str(read(tmp_path, dataset))
    dataset = make_dataset(SLOPE_12, stored=12)
    dataset.VOILUTSequence = table(4096, 0, 12, entries)
    reason = "its VOI LUT Sequence (0028,3010) has 3900 entries, its descriptor says 4096, and its pixels"
    assert reason in str(read(tmp_path, dataset))
    dataset.VOILUTSequence = table(4096, 0, 12, entries[:2048])  # not packed: bytes have no 12 bits
    assert "has 2048 entries, its descriptor says 4096" in str(read(tmp_path, dataset))


FIRST = {"WindowCenter": 900, "WindowWidth": 300}
TURNED = {"RescaleSlope": -2, "RescaleIntercept": 8190}
NO_TABLE = Items([Dataset()])


def grouped(keyword: str, **elements: Any) -> Items:
    """Put elements into a functional group, as in an enhanced image."""
    inner, outer = Dataset(), Dataset()
    for name, value in elements.items():
        setattr(inner, name, value)
    setattr(outer, keyword, Items([inner]))
    return Items([outer])


@pytest.mark.parametrize(
    ("elements", "same_as"),
    [
        ({**FIRST, "VOILUTFunction": ""}, FIRST),
        ({**FIRST, "VOILUTFunction": "  "}, FIRST),
        ({**FIRST, "VOILUTFunction": " linear "}, FIRST),
        ({"WindowCenter": "", "WindowWidth": ""}, {}),
        ({"WindowCenter": None, "WindowWidth": 300}, {}),
        ({"WindowCenter": 900}, {}),
        ({"WindowCenter": ["900", "5"], "WindowWidth": ["300", "7"]}, FIRST),
        ({"RescaleSlope": "", "RescaleIntercept": ""}, {}),
        ({"RescaleSlope": "1", "RescaleIntercept": ""}, {}),
        ({"RescaleSlope": ["1", "1"], "RescaleIntercept": ["0", "0"]}, {}),
        ({"RescaleSlope": ["1", ""], "RescaleIntercept": "0"}, {}),
        ({"WindowCenter": ["", "900"], "WindowWidth": ["5", "300"]}, FIRST),
        ({"WindowCenter": ["7", "900"], "WindowWidth": ["0", "300"]}, FIRST),
        ({**FIRST, "VOILUTFunction": ["LINEAR", ""]}, FIRST),
        (
            {
                "WindowCenter": ["", "900"],
                "WindowWidth": ["", "300"],
                "VOILUTFunction": ["LINEAR", "SIGMOID"],
            },
            {**FIRST, "VOILUTFunction": "SIGMOID"},
        ),
        (
            {"VOILUTSequence": [Dataset(), *table(3, 900, 12, [7, 4095, 90])]},
            {"VOILUTSequence": table(3, 900, 12, [7, 4095, 90])},
        ),
        ({"SharedFunctionalGroupsSequence": grouped("FrameVOILUTSequence", **FIRST)}, FIRST),
        (
            {"PerFrameFunctionalGroupsSequence": grouped("PixelValueTransformationSequence", **TURNED)},
            TURNED,
        ),
        ({"PhotometricInterpretation": " MONOCHROME2 "}, {}),
        ({"PhotometricInterpretation": "monochrome2"}, {}),
        ({"PhotometricInterpretation": "MONOCHROME1 \0"}, {"PhotometricInterpretation": "MONOCHROME1"}),
        ({"NumberOfFrames": ""}, {}),
        ({"NumberOfFrames": "0"}, {}),
        ({"HighBit": None}, {}),
        ({"SamplesPerPixel": None}, {}),
        ({"PixelRepresentation": None}, {}),
        ({"VOILUTSequence": Items([])}, {}),
        ({"VOILUTSequence": NO_TABLE, **FIRST}, FIRST),
        ({"ModalityLUTSequence": NO_TABLE}, {}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_empty_or_blank_is_absent(
    tmp_path: Path, elements: dict[str, Any], same_as: dict[str, Any]
) -> None:
    found = []
    for some in (elements, same_as):
        dataset = make_dataset(SLOPE_12, stored=12)
        for keyword, value in some.items():
            setattr(dataset, keyword, value)
        found.append(pixels_of(tmp_path, dataset))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("alone", "without"),
    [({"RescaleSlope": "-2"}, "Intercept (0028,1052)"), ({"RescaleIntercept": "-5"}, "Slope (0028,1053)")],
)
def test_half_a_rescale_does_not_count(tmp_path: Path, alone: dict[str, str], without: str) -> None:
    """PS3.3 C.11.1: slope and intercept require each other. A note says that one alone does not count."""
    dataset = make_dataset(SLOPE_12, stored=12)
    for keyword, value in alone.items():
        setattr(dataset, keyword, value)
    found = read(tmp_path, dataset)
    assert not isinstance(found, str)
    np.testing.assert_allclose(found.pixels, SLOPE_12 / 4095, atol=1e-6)
    assert found.note.endswith(f"does not count, as it has no Rescale {without}")


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        (
            {"RescaleSlope": ["1", "2"], "RescaleIntercept": "0"},
            "Rescale Slope (0028,1053) has 2 values, 1\\2; one",
        ),
        (
            {"RescaleSlope": "nan", "RescaleIntercept": "0"},
            "Rescale Slope (0028,1053) holds nan; a finite number",
        ),
        (
            {"WindowCenter": "5", "WindowWidth": "0.5"},
            "Window Width (0028,1051) is 0.5; for LINEAR at least 1",
        ),
        (
            {"WindowCenter": "5", "WindowWidth": "-1", "VOILUTFunction": "SIGMOID"},
            "Window Width (0028,1051) is -1; for SIGMOID above 0 was expected",
        ),
        (
            {**FIRST, "VOILUTFunction": "CUBIC"},
            "VOI LUT Function (0028,1056) is CUBIC; LINEAR, LINEAR_EXACT or",
        ),
        (
            {"PhotometricInterpretation": ""},
            "Photometric Interpretation (0028,0004) is missing with 1 samples",
        ),
        ({"PhotometricInterpretation": "YBR_FULL"}, "Photometric Interpretation (0028,0004) is YBR_FULL"),
        ({"SamplesPerPixel": 3}, "with 3 samples per pixel; greyscale was expected"),
        ({"PixelRepresentation": 2}, "Pixel Representation (0028,0103) holds 2; a whole number from 0 to 1"),
        ({"Rows": None}, "Rows (0028,0010) is missing"),
        ({"Columns": 0}, "claims 0x41 pixels (Columns (0028,0011), Rows (0028,0010)); 1 to 100,000,000"),
        (
            {"BitsAllocated": 12},
            "Bits Stored (0028,0101) and Bits Allocated (0028,0100) say 12 of 12 bits; 1 to 8 of 8",
        ),
        ({"BitsStored": None}, "Bits Stored (0028,0101) is missing; a whole number from"),
        ({"BitsStored": 17}, "Bits Stored (0028,0101) and Bits Allocated (0028,0100) say 17 of 16 bits"),
        ({"NumberOfFrames": "-2"}, "Number of Frames (0028,0008) holds -2"),
        (
            {"NumberOfFrames": "2"},
            "4,346 bytes, less than expected: 53x41 pixels of 16 bits in 2 frames have 8,692 bytes. It",
        ),
        (
            {"VOILUTSequence": table(4096, 0, 7, [1, 2])},
            "entries of 7 bits (LUT Descriptor (0028,3002)); 8 to 16 were expected",
        ),
        ({"VOILUTSequence": table(4096, 0, 12, b"", vr="OW")}, "has no LUT Data (0028,3006)"),
        (
            {"ModalityLUTSequence": table(2, 0, 12, [1, 2]), "RescaleSlope": 2, "RescaleIntercept": 0},
            "it has both Modality LUT Sequence (0028,3000) and a Rescale Slope",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_has_no_one_meaning_is_refused_by_name(
    tmp_path: Path, elements: dict[str, Any], reason: str
) -> None:
    dataset = make_dataset(SLOPE_12, stored=12)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    assert reason in str(read(tmp_path, dataset))


@pytest.mark.parametrize("vr", ["DS", "IS"])
def test_a_value_that_is_no_number_is_shown(tmp_path: Path, vr: str) -> None:
    dataset = make_dataset(SLOPE_12, stored=12)
    dataset.WindowCenter, dataset.WindowWidth = "12345", "67890"
    if vr == "IS":
        dataset.NumberOfFrames = "12345"
    content = saved(dataset).replace(b"12345 ", b"12,5x ")
    (tmp_path / "a.dcm").write_bytes(content)
    name = "Window Center (0028,1050)" if vr == "DS" else "Number of Frames (0028,0008)"
    found = str(reading(tmp_path / "a.dcm"))
    assert found.startswith(f"{name} holds '12,5x")
    assert "Error" not in found


def test_no_reason_is_the_text_of_an_exception(tmp_path: Path) -> None:
    """After any damage, the reason never names an exception or quotes a message of Python."""
    codec = CODECS["JPEG 2000"]
    whole = bytearray(saved(encapsulated(SLOPE_12, codec.encode(SLOPE_12, 12), codec.syntax, stored=12)))
    plain = bytearray(saved(make_dataset(slope(8))))
    jpeg = CODECS["JPEG"]
    third = bytearray(saved(encapsulated(slope(8), jpeg.encode(slope(8), 8), JPEGBaseline8Bit)))
    chance = np.random.default_rng(8)
    reasons = set[str]()
    for content in (whole, plain, third):
        for _ in range(400):
            damaged = bytearray(content)
            start = int(chance.integers(128, min(len(damaged) - 8, 1500)))
            length = int(chance.integers(1, 6))
            damaged[start : start + length] = chance.integers(0, 256, length, dtype=np.uint8).tobytes()
            if chance.random() < 0.2:
                del damaged[int(chance.integers(200, len(damaged))) :]
            (tmp_path / "a.dcm").write_bytes(damaged)
            if isinstance(found := reading(tmp_path / "a.dcm"), str):
                reasons.add(found)
    assert len(reasons) > 30
    for reason in reasons:
        for words in (
            "Error",
            "object",
            "NoneType",
            "argument",
            "unpack",
            "exception",
            "Exception",
            "<",
            "invalid literal",
        ):
            assert words not in reason, reason


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE"])
def test_a_presentation_lut_shape_that_does_not_fit_is_noted(
    tmp_path: Path, photometric: str, shape: str
) -> None:
    dataset = make_dataset(slope(8))
    dataset.PhotometricInterpretation, dataset.PresentationLUTShape = photometric, shape
    fits = (photometric == "MONOCHROME1") == (shape == "INVERSE")
    note = f"Presentation LUT Shape (2050,0020) is {shape}, which does not go with {photometric}; "
    note += "the latter counts"
    found = pixels_of(tmp_path, dataset, "" if fits else note)
    shown = slope(8) / 255
    np.testing.assert_allclose(found, 1 - shown if photometric == "MONOCHROME1" else shown, atol=1e-6)


@pytest.mark.parametrize(
    ("keyword", "says"),
    [
        ("Rows", r"Rows (0028,0010) holds ')\x00', which cannot be read"),
        ("BitsStored", r"Bits Stored (0028,0101) holds '\x08\x00', which cannot be read"),
        (
            "PhotometricInterpretation",
            "Photometric Interpretation (0028,0004) holds 'MONOCHROME2 ', which cannot be read",
        ),
    ],
)
@pytest.mark.parametrize("vr", [b"ZZ", b"FD"])
def test_an_element_that_pydicom_cannot_parse_is_named(
    tmp_path: Path, keyword: str, says: str, vr: bytes
) -> None:
    """ZZ is not a VR, and a number of VR FD has eight bytes."""
    content = bytearray(saved(make_dataset(slope(8))))
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    at = content.index((tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little"), 132)
    content[at + 4 : at + 6] = vr
    (tmp_path / "a.dcm").write_bytes(content)
    assert reading(tmp_path / "a.dcm") == says


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("descriptor", [7, [7, 0], [7, 0, 12, 1]])
def test_a_table_needs_a_descriptor_of_three_numbers(tmp_path: Path, keyword: str, descriptor: Any) -> None:
    dataset = make_dataset(slope(12), stored=12)
    items = table(7, 0, 12, list(range(7)))
    items[0].LUTDescriptor = descriptor
    setattr(dataset, keyword, items)
    found = read(tmp_path, dataset)
    assert isinstance(found, str)
    assert found.startswith("LUT Descriptor (0028,3002) of its ")
