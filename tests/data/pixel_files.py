"""DICOM files whose Pixel Data element is written byte by byte, and streams of every compression."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import jpeg_ls
import numpy as np
from dicom_files import make_dataset
from lossless_jpeg import encode_lossless
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom import dcmwrite
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from data.radiographs.dicom import Radiograph, UnreadableImage, read_radiograph

HEIGHT, WIDTH = 41, 53
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


def slope(bits: int) -> NDArray[Any]:
    """(41, 53): a picture that lossy codecs keep well, of nearly the whole range, in no symmetric order."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    values = (0.03 + 0.95 * (0.4 * y / HEIGHT + 0.6 * x / WIDTH)) * ((1 << bits) - 1)
    return values.round().astype(np.uint8 if bits <= 8 else np.uint16)


class Codec(NamedTuple):
    """A compression: its transfer syntax, an encoder of values with so many bits, and which bits it takes."""

    syntax: str
    encode: Callable[[NDArray[Any], int], bytes]
    bits: tuple[int, ...]
    lossless: bool


def _jpeg_ls(values: NDArray[Any], bits: int, error: int = 0) -> bytes:
    height, width = values.shape
    return bytes(jpeg_ls.encode_buffer(values.tobytes(), height, width, 1, bits, error))


def _jpeg(values: NDArray[Any], bits: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, level=98, bitspersample=bits))


CODECS = {
    "JPEG": Codec(JPEGBaseline8Bit, _jpeg, (8,), lossless=False),
    "JPEG 12": Codec(JPEGExtended12Bit, _jpeg, (12,), lossless=False),
    "JPEG lossless": Codec(
        JPEGLosslessSV1, lambda values, bits: encode_lossless(values, bits, 1), (8, 10, 12, 16), lossless=True
    ),
    "JPEG-LS": Codec(JPEGLSLossless, _jpeg_ls, (8, 10, 12, 16), lossless=True),
    "JPEG-LS near": Codec(
        JPEGLSNearLossless, lambda values, bits: _jpeg_ls(values, bits, 2), (8, 10, 12, 16), lossless=False
    ),
    "JPEG 2000": Codec(
        JPEG2000Lossless,
        lambda values, bits: encode_array(values, bits_stored=bits),
        (8, 10, 12, 16),
        lossless=True,
    ),
    "JPEG 2000 lossy": Codec(
        JPEG2000,
        lambda values, bits: encode_array(values, bits_stored=bits, compression_ratios=[4]),
        (8, 10, 12, 16),
        lossless=False,
    ),
}


def item(content: bytes) -> bytes:
    """One item as it is stored (PS3.5 A.4), with the length that the content has, odd or not."""
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content


def even(content: bytes) -> bytes:
    return content + b"\0" * (len(content) % 2)


def write_raw(
    path: Path,
    value: bytes,
    *,
    syntax: str = ExplicitVRLittleEndian,
    bits: int = 8,
    undefined: bool = True,
    after: bytes = b"",
    **elements: Any,
) -> Path:
    """A file of 41x53 pixels whose Pixel Data has this value, and the bytes after it."""
    dataset = make_dataset(slope(bits), stored=bits)
    for keyword, one in elements.items():
        setattr(dataset, keyword, one)
    del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    stream = io.BytesIO()
    dcmwrite(stream, dataset, implicit_vr=False, little_endian=True, force_encoding=True)
    length = b"\xff" * 4 if undefined else struct.pack("<I", len(value))
    path.write_bytes(stream.getvalue() + b"\xe0\x7f\x10\x00OB\0\0" + length + value + after)
    return path


def reading(path: Path) -> Radiograph | str:
    """What is read of a file, or the reason why nothing is."""
    try:
        return read_radiograph(path)
    except UnreadableImage as error:
        return error.reason
