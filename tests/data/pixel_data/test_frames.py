"""Tests of every transfer syntax against the encoded pixels, and of pydicom's files against pydicom."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import encapsulated, jpeg, make_dataset
from lossless_jpeg import encode_lossless
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    JPEG2000,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from data.pixel_data.elements import DicomError
from data.pixel_data.frames import first_frame
from data.radiographs.dicom import UnreadableImage, read_radiograph

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def noise(bits: int, signed: bool, shape: tuple[int, ...] = (37, 50)) -> NDArray[Any]:
    """Return values of the whole range, including both ends."""
    low = -(1 << bits - 1) if signed else 0
    values = np.random.default_rng(bits).integers(low, low + (1 << bits), shape)
    values[0, :2] = low, low + (1 << bits) - 1
    return values.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


def patterns(pixels: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return the stored bits as unsigned numbers (two's complement for negative values)."""
    unsigned = pixels.view(f"u{pixels.itemsize}")
    return unsigned & unsigned.dtype.type((1 << bits) - 1)


def compressed(pixels: NDArray[Any], bits: int, syntax: str) -> FileDataset:
    dataset = make_dataset(pixels, stored=bits)
    dataset.compress(UID(syntax), generate_instance_uid=False)
    return dataset


def jpeg_lossless(pixels: NDArray[Any], bits: int, predictor: int, syntax: str) -> FileDataset:
    stream = encode_lossless(patterns(pixels, bits), bits, predictor)
    return encapsulated(pixels, stream, syntax, stored=bits)


def jpeg_2000(pixels: NDArray[Any], bits: int) -> FileDataset:
    stream = encode_array(pixels, bits_stored=bits)
    return encapsulated(pixels, stream, JPEG2000Lossless, stored=bits)


LOSSLESS: dict[str, Callable[[NDArray[Any], int], FileDataset]] = {
    "native": lambda pixels, bits: make_dataset(pixels, stored=bits),
    "RLE": lambda pixels, bits: compressed(pixels, bits, RLELossless),
    "JPEG-LS": lambda pixels, bits: compressed(pixels, bits, JPEGLSLossless),
    "JPEG 2000": jpeg_2000,
    "JPEG lossless": lambda pixels, bits: jpeg_lossless(pixels, bits, 7, JPEGLossless),
    "JPEG lossless SV1": lambda pixels, bits: jpeg_lossless(pixels, bits, 1, JPEGLosslessSV1),
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("how", LOSSLESS)
def test_lossless_is_lossless(tmp_path: Path, how: str, bits: int, signed: bool) -> None:
    pixels = noise(bits, signed)
    LOSSLESS[how](pixels, bits).save_as(tmp_path / "image.dcm", enforce_file_format=True)
    found = first_frame(pydicom.dcmread(tmp_path / "image.dcm")).values
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, pixels)


# OpenJPH's streams of `noise(bits, signed, (9, 13))`: only newer releases of imagecodecs encode this.
HTJ2K_STREAMS = {
    (8, False): (
        "|4;u>04YEK0000D0000900000000000000D000090000000000009R90sl|{2mk^A00092QUDA90ssL31q1{@0smY86Cg-XP"
        "*6}%P*6}%P*6}vNJ#%=02crOPjF>!N>E53R%LP^FfKASE-"
        ")_tkN^q*00000?f?P*lfWhY07rBH0KgK!62KCG_5jCp0Q>;QbO6Z!hjakI6%Yi_1i(vU7W@E0lmMpw00DFW?(hJCbO68>gaK"
        "IqRe(r9SLGxD5Z3?#+yDT*m;mcLvGmij0ssIDl>j3#Uo7zeAp?810KhJ)0d%knp@wJlZ!~PC019=%EbC&@l|*5RD+E?JMQuH"
        "qYP<dd-(3rZ5r6<dS)2es%W-qw!kjgL;+?dpn>hVvb(&e0b~GFL3ZE$G00Djg02-VCb-"
        "N>klnw^k2z%Qgy=$M{oQCOX^VGcnRTPLN2teAJ0RPz"
    ),
    (12, False): (
        "|4;u>04YEK0000D0000900000000000000D000090000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?k"
        "dTm&kdTm&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE-)_tkN^q*00001I{*RylfVEbIqn4qbN~Rr0206e6F>kH03-"
        "p2bO3h!0*7<}-"
        "2MUwbO68r6)*q<@BjrscRSe0DgdIC0F!s?0HQPir=mFi0OB+NzyKDk00C&g02SbrR~z#JBrpB9>{inF1A^Q#0KJ$1Kf@#0^;"
        "puW_Vz*mGJuzs0LLYSoII2qi}3)Y0eH3mzyL1Z00DN;01K|*vS9ubOs`%K%#!g-5mrGy&;)bS70p%?(uVWs`nS-n-"
        "*c8jeiG$A6aEWr|1IL?8xWvlJOF0Ac^&1w#KpMeB)oV@3F+5=t&<L8LWZKkEJQ=OI87Umz=_<1&ZqnUTrT3}ARF3{plY1}=p"
        "<%i6SoVIf969VD9RU|*;8VBST0MUjR;W#=xDd{YIW1(0A43B%2I&VngIXV"
    ),
    (16, True): (
        "|4;u>04YEK0000D0000900000000000000D00009000000000000EBy0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?k"
        "dTm&kdTm&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE-)_tkN^q*00001bpQeXlfVEb-ueRvbN~Rr0206e6F>kH051XubN"
        "~(g0|#^f7UBg5bO68r6_5Y~@BjrsDCdi_Ks`410Yj7k>ZaZS0yF?xD)aCK0dxSs02b5$0cyYi7LbU~s#NzDcZhT=57okXs=#"
        "CX3I(|+0e?6EKR!V&gknpRT(JCbUB;gPLIB&A08LJDB=%2MOz6Xb`~e66`!)c;053>@0A7Uv0K2gDA_q24YR-l4YdR-QiTGG"
        "hAay29I|oZAQq`l!zso%J4xK-"
        "3mothBlYyNCqvXp^Lk`Jm>oY8|Ybw+Q?%B%f(!eDkE1Up~IIUCOk48AKqtemhN34Y?u%WH%0;DI9=TZh<|5F;ca370fS72=%"
        "m_^8a#f-SAkHnpJ0Z;O&LUVw=5`Y1n03D$Au*-tduG9-"
        "EvQ`zAtEY|&;A)`nVzjAzL4yALR)RG{D3Zs+@%|a{D%>}T_t5~k@)dz4KtnnJ|Je"
    ),
}


@pytest.mark.parametrize(("bits", "signed"), HTJ2K_STREAMS)
def test_high_throughput_jpeg_2000(bits: int, signed: bool) -> None:
    pixels = noise(bits, signed, (9, 13))
    stream = base64.b85decode(HTJ2K_STREAMS[bits, signed])
    dataset = encapsulated(pixels, stream, HTJ2KLossless, stored=bits)
    np.testing.assert_array_equal(first_frame(dataset).values, pixels)
    dataset.PixelData = encapsulate([stream[: len(stream) // 2]])
    with pytest.raises(DicomError, match="cut off"):
        first_frame(dataset)


@pytest.mark.parametrize("predictor", range(1, 8))
def test_every_predictor_of_lossless_jpeg(predictor: int) -> None:
    pixels = noise(16, signed=False, shape=(9, 23))
    dataset = jpeg_lossless(pixels, 16, predictor, JPEGLossless)
    np.testing.assert_array_equal(first_frame(dataset).values, pixels)


def test_lossless_jpeg_of_more_bits_than_are_stored() -> None:
    """Some encoders code all 16 allocated bits, with the sign of negative values."""
    pixels = noise(12, signed=True)
    stream = encode_lossless(patterns(pixels, 16), 16, 1)
    dataset = encapsulated(pixels, stream, JPEGLosslessSV1, stored=12)
    np.testing.assert_array_equal(first_frame(dataset).values, pixels)


def smooth(bits: int) -> NDArray[Any]:
    """Return a picture that lossy codecs preserve well: slopes in both directions and a bright disc."""
    y, x = np.mgrid[:61, :83]
    disc = 0.3 * (np.hypot(y - 20, x - 50) < 15)
    values = (0.1 + 0.003 * y + 0.005 * x + disc) * ((1 << bits) - 1)
    return values.round().astype(np.uint8 if bits == 8 else np.uint16)


LOSSY: dict[str, tuple[str, Callable[[NDArray[Any]], bytes], int]] = {
    "JPEG": (JPEGBaseline8Bit, lambda pixels: imagecodecs.jpeg8_encode(pixels, level=98), 8),
    "JPEG 12": (
        JPEGExtended12Bit,
        lambda pixels: imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=12),
        12,
    ),
    "JPEG 8 as 12": (JPEGExtended12Bit, lambda pixels: imagecodecs.jpeg8_encode(pixels, level=98), 8),
    "JPEG-LS near": (JPEGLSNearLossless, lambda pixels: imagecodecs.jpegls_encode(pixels, level=3), 12),
    "JPEG 2000": (
        JPEG2000,
        lambda pixels: encode_array(pixels, bits_stored=12, compression_ratios=[6], codec_format=0),
        12,
    ),
}


@pytest.mark.parametrize("how", LOSSY)
def test_lossy_is_close(how: str) -> None:
    syntax, encode, bits = LOSSY[how]
    pixels = smooth(bits)
    found = first_frame(encapsulated(pixels, encode(pixels), syntax, stored=bits)).values
    assert found.dtype == pixels.dtype
    difference = np.abs(found.astype(int) - pixels)
    assert 0 < difference.max() <= 0.02 * (1 << bits)
    assert difference.mean() < 0.002 * (1 << bits)


def test_extended_jpeg_is_the_image_of_another_codec() -> None:
    """The pydicom package has one scintigram twice: as 12-bit JPEG, and as JPEG 2000."""
    first, other = (
        first_frame(pydicom.dcmread(SHIPPED / name)).values.astype(int)
        for name in ("JPGExtended.dcm", "JPEG2000.dcm")
    )
    assert first.shape == other.shape == (1024, 256)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] > 0.95  # both are lossy, noise is lost
    assert abs(first.mean() / other.mean() - 1) < 0.1


# What pydicom ships is either read as pydicom reads it, or refused, and then for this reason.
REFUSED = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "its header says 256x1024",  # made to mislead
    "MR_truncated.dcm": "less than expected",
    "badVR.dcm": "32 of 32 bits",
    "liver_1frame.dcm": "1 of 1 bits",
    "liver_expb_1frame.dcm": "1 of 1 bits",
    "rtdose.dcm": "32 of 32 bits",
    "rtdose_1frame.dcm": "32 of 32 bits",
    "rtdose_expb.dcm": "32 of 32 bits",
    "rtdose_expb_1frame.dcm": "32 of 32 bits",
    "rtdose_rle.dcm": "32 of 32 bits",
    "rtdose_rle_1frame.dcm": "32 of 32 bits",
}
# 12-bit JPEG is not for pydicom's own decoders. The first has a wrong scan header around the same scan.
ONLY_HERE = {"JPEG-lossy.dcm", "JPGExtended.dcm"}


def shipped() -> list[Path]:
    """List the greyscale files in the pydicom package, including those of its DICOMDIRs."""
    found = []
    for path in sorted(SHIPPED.rglob("*")):
        if path.is_file():
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            if dataset.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2"):
                found.append(path)
    return found


@pytest.mark.filterwarnings("ignore")
def test_what_pydicom_ships() -> None:
    paths = shipped()
    assert len(paths) > 40
    assert set(REFUSED) | ONLY_HERE < {path.name for path in paths}
    for path in paths:
        if path.name in REFUSED:
            with pytest.raises(UnreadableImage, match=REFUSED[path.name]):
                read_radiograph(path)
        elif path.name not in ONLY_HERE:
            np.testing.assert_allclose(
                read_radiograph(path).pixels, by_pydicom(path), atol=1e-6, err_msg=path.name
            )
    one, other = (read_radiograph(SHIPPED / name).pixels for name in sorted(ONLY_HERE))
    np.testing.assert_array_equal(one, other)


def by_pydicom(path: Path) -> NDArray[np.float64]:
    """Compute a picture with pydicom: modality, VOI, scaling, inversion; for files without look-up tables."""
    dataset = pydicom.dcmread(path)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(float)
    bits, signed = dataset.BitsStored, dataset.PixelRepresentation
    ends = np.array([-(1 << bits - 1), (1 << bits - 1) - 1] if signed else [0, (1 << bits) - 1])
    low, high = apply_modality_lut(ends, dataset).astype(float)
    pixels = ((values - low) / (high - low)).clip(0, 1)
    return 1 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels


def frame_of(dataset: FileDataset) -> bytes:
    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def claiming(stream: bytes, marker: bytes, offset: int, content: bytes) -> bytes:
    """Replace bytes of a stream at `offset` from a marker."""
    start = stream.index(marker) + offset
    return stream[:start] + content + stream[start + len(content) :]


HUGE = {
    "JPEG": (b"\xff\xc0", 5, struct.pack(">HH", 65500, 65500)),
    "JPEG lossless": (b"\xff\xc3", 5, struct.pack(">HH", 65500, 65500)),
    "JPEG-LS": (b"\xff\xf7", 5, struct.pack(">HH", 65500, 65500)),
    "JPEG 2000": (b"\xff\x51", 6, struct.pack(">II", 1 << 31, 1 << 31)),
}


@pytest.mark.parametrize("how", HUGE)
def test_a_stream_that_claims_more_than_the_header_is_not_decoded(how: str) -> None:
    pixels = noise(8, signed=False)
    dataset = jpeg(pixels) if how == "JPEG" else LOSSLESS[how](pixels, 8)
    syntax = dataset.file_meta.TransferSyntaxUID
    stream = claiming(frame_of(dataset), *HUGE[how])
    with pytest.raises(ValueError, match="but its header says 50x37"):
        first_frame(encapsulated(pixels, stream, syntax))


@pytest.mark.parametrize("how", [*LOSSLESS, *LOSSY])
def test_a_stream_cut_off_is_refused(tmp_path: Path, how: str) -> None:
    """A frame padded with grey would be a wrong picture with a correct label."""
    if how in LOSSLESS:
        pixels = noise(12, signed=False)
        dataset = LOSSLESS[how](pixels, 12)
    else:
        syntax, encode, bits = LOSSY[how]
        dataset = encapsulated(smooth(bits), encode(smooth(bits)), syntax, stored=bits)
    if how == "native":
        dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]
    else:
        whole = frame_of(dataset)
        dataset.PixelData = encapsulate([whole[: len(whole) // 2]])
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    with pytest.raises(UnreadableImage):
        read_radiograph(tmp_path / "image.dcm")


def test_a_damaged_scan_is_refused() -> None:
    """Pillow and OpenCV silently continue after a marker in the middle of a scan."""
    pixels = smooth(8)
    stream = frame_of(jpeg(pixels))
    middle = len(stream) // 2
    damaged = stream[:middle] + b"\xff\xd9" + stream[middle + 2 :]
    with pytest.raises(ValueError, match="premature end"):
        first_frame(encapsulated(pixels, damaged, JPEGBaseline8Bit))


def test_a_progressive_jpeg_may_have_only_so_many_scans(tmp_path: Path) -> None:
    pixels = smooth(8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", progressive=True, quality=95)
    stream = (tmp_path / "a.jpg").read_bytes()
    found = first_frame(encapsulated(pixels, stream, JPEGBaseline8Bit)).values
    assert np.abs(found.astype(int) - pixels).max() < 12
    last = stream.rindex(b"\xff\xda")
    bomb = stream[:last] + stream[last:-2] * 100 + stream[-2:]
    with pytest.raises(ValueError, match="scans"):
        first_frame(encapsulated(pixels, bomb, JPEGBaseline8Bit))
