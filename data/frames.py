"""The first frame of a data set, as the integers that were stored.

Promises: `first_frame` gives (height, width) integers of the type that the header names, or raises.
What a compressed stream says of itself (size, samples, bits) is compared with the data set's header
before anything is decoded, so no stream can ask for more memory than the header does. A stream that
is cut off is refused, never filled up with grey.

    native, deflated, RLE            pydicom
    JPEG of 8 bits                   libjpeg-turbo, by simplejpeg
    JPEG of 12 bits, lossless JPEG   libjpeg-turbo, by imagecodecs
    JPEG-LS                          CharLS, by pydicom
    JPEG 2000, HTJ2K                 OpenJPEG, by pydicom

simplejpeg is the fastest way into libjpeg-turbo and the only one that reports what the decoder merely
warns about: Pillow and OpenCV turn a damaged scan into a picture. imagecodecs is slow to import and
seldom needed, so it is imported when it is.

Sources: DICOM PS3.5 8.2 and A.4; ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000).
"""

from __future__ import annotations

import struct
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
)

_LIBRARIES = ("imagecodecs", "pydicom", "pyjpegls", "pylibjpeg-openjpeg", "simplejpeg")

_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
_MOST_SCANS = 64  # a progressive JPEG has about ten; each one costs the time of a whole image

_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_JPEG_LOSSLESS = 0xC3
_JPEG_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_J2K_START = b"\xff\x4f\xff\x51"
_END_OF_IMAGE = b"\xff\xd9"


class _Stream(NamedTuple):
    """What a compressed stream says of itself; `process` is the marker of JPEG's frame header."""

    height: int
    width: int
    samples: int
    bits: int
    process: int = 0


def versions() -> tuple[str, ...]:
    """The versions of the libraries that decode, on which pixels may depend."""
    return tuple(map(version, _LIBRARIES))


def first_frame(dataset: Dataset) -> NDArray[np.integer[Any]]:
    """The stored values of the first frame.

    Args:
        dataset: A greyscale one with 8 or 16 bits allocated and a transfer syntax.

    Returns:
        (Rows, Columns) int8, uint8, int16 or uint16, as bits allocated and pixel representation say.

    Raises:
        Exception: Of any kind, from any decoder: the pixels do not fit the header, are cut off or
            damaged.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _JPEG:
        values = _jpeg(dataset)
    else:
        if syntax in JPEGLSTransferSyntaxes:
            frame = _frame(dataset)
            _check(dataset, _jpeg_header(frame))
            _check_end(frame)
        elif syntax in JPEG2000TransferSyntaxes:
            _check(dataset, _j2k_header(_frame(dataset)))
        # One decoder alone: pydicom would otherwise take the next, laxer one when the first refuses.
        decoder = "pylibjpeg" if syntax in JPEG2000TransferSyntaxes else ""
        values = pixel_array(dataset, index=0, decoding_plugin=decoder)
    expected = (dataset.Rows, dataset.Columns)
    if values.shape != expected:
        raise ValueError(f"it decodes to shape {values.shape}, but its header says {expected}")
    return values


def _frame(dataset: Dataset) -> bytes:
    """The first frame's compressed stream."""
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    return next(generate_frames(dataset.PixelData, number_of_frames=frames))


def _check(dataset: Dataset, stream: _Stream) -> None:
    """Refuse a stream that is not what the header says."""
    if (stream.height, stream.width) != (dataset.Rows, dataset.Columns):
        raise ValueError(
            f"its compressed image has {stream.width}x{stream.height} pixels, "
            f"but its header says {dataset.Columns}x{dataset.Rows}"
        )
    if stream.samples != 1:
        raise ValueError(f"its compressed image is not grey: {stream.samples} samples per pixel")
    if stream.bits > dataset.BitsAllocated:
        raise ValueError(
            f"its compressed image has {stream.bits} bits, its header only {dataset.BitsAllocated}"
        )


def _jpeg(dataset: Dataset) -> NDArray[np.integer[Any]]:
    """A frame of any of JPEG's processes, by what the stream is, not by what the syntax calls it."""
    frame = _frame(dataset)
    stream = _jpeg_header(frame)
    _check(dataset, stream)
    # Of one component alone, the other processes read no more than one scan.
    scans = frame.count(b"\xff\xda") if stream.process in _JPEG_PROGRESSIVE else 1
    if scans > _MOST_SCANS:
        raise ValueError(f"its JPEG has {scans} scans; the limit is {_MOST_SCANS}")
    if stream.bits == 8 and stream.process != _JPEG_LOSSLESS:
        values: NDArray[np.integer[Any]] = simplejpeg.decode_jpeg(frame, colorspace="GRAY")[..., 0]
    else:
        values = _uncommon_jpeg(frame)
    return _represented(values, dataset)


def _uncommon_jpeg(frame: bytes) -> NDArray[np.integer[Any]]:
    import imagecodecs

    _check_end(frame)
    values: NDArray[np.integer[Any]] = imagecodecs.jpeg8_decode(frame)
    return values


def _check_end(frame: bytes) -> None:
    """Refuse a JPEG or JPEG-LS stream that is cut off.

    imagecodecs would fill it up, with no more than a warning that nobody sees; CharLS notices, but
    may count to 2^31 first.
    """
    if not frame.rstrip(b"\0\xff").endswith(_END_OF_IMAGE):  # both are met as padding
        raise ValueError("its compressed image is cut off")


def _represented(values: NDArray[np.integer[Any]], dataset: Dataset) -> NDArray[np.integer[Any]]:
    """JPEG knows no sign: give the values the width and the sign that the header says they have."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    values = values.astype(f"u{allocated // 8}", copy=False)
    if not dataset.get("PixelRepresentation"):
        return values
    unused = allocated - stored
    return (values << unused).view(f"i{allocated // 8}") >> unused


def _jpeg_header(frame: bytes) -> _Stream:
    """The frame header (T.81 B.2.2, T.87 C.2.2) of a JPEG or JPEG-LS stream.

    Raises:
        ValueError: There is none before the first scan.
    """
    position = 2
    while position + 10 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF:  # any number of these may come before a marker
            position += 1
            continue
        length, bits, height, width, samples = struct.unpack_from(">HBHHB", frame, position + 2)
        if marker in _START_OF_FRAME:
            return _Stream(height, width, samples, bits, marker)
        position += 2 + length
    raise ValueError("its compressed image has no frame header")


def _j2k_header(frame: bytes) -> _Stream:
    """The image and tile size (T.800 A.5.1), with or without the boxes of a JP2 file before it.

    Raises:
        ValueError: There is none.
    """
    start = frame.find(_J2K_START)
    if start < 0 or start + 45 > len(frame):
        raise ValueError("its compressed image has no size")
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    return _Stream(bottom - top, right - left, samples, (depth & 0x7F) + 1)
