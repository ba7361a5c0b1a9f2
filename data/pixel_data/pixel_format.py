"""The pixel format in a data set's header (DICOM PS3.3 C.7.6.3).

`pixel_format` reads it for a greyscale image of an acceptable size. It refuses a header that contradicts
itself or describes another kind of image, before any pixel is read. The message names the element.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from data.pixel_data.elements import DicomError, integer, label, raw_value, term

MOST_PIXELS = 100_000_000
"""A header that claims more is refused before memory is allocated; detectors have 20 million."""

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
"""The photometric interpretations that are read; in the first, low values are bright."""

_PIXEL_DATA = BaseTag(0x7FE00010)
_MOST_FRAMES = (1 << 31) - 1  # the largest value of VR IS


@dataclass(frozen=True)
class PixelFormat:
    """The format of the stored pixels.

    Attributes:
        rows: Height of the image, in pixels.
        columns: Width of the image, in pixels.
        frames: Number of frames.
        photometric: Photometric Interpretation, one of `MONOCHROME`.
        allocated: Bits Allocated: 8 or 16.
        stored: Bits Stored: the number of bits of the pixel's value.
        high: High Bit: the highest bit of the value, counted from 0; `stored - 1` in all but old files. It is
            not checked here, because it only matters where whole words were stored.
        signed: Whether the value is in two's complement.
        syntax: The transfer syntax.
        lossy: Whether it was ever compressed with loss (Lossy Image Compression, PS3.3 C.7.6.1.1.5).
    """

    rows: int
    columns: int
    frames: int
    photometric: str
    allocated: int
    stored: int
    high: int
    signed: bool
    syntax: UID
    lossy: bool

    @property
    def frame_bytes(self) -> int:
        """Number of bytes of one uncompressed frame."""
        return self.rows * self.columns * self.allocated // 8


def pixel_format(dataset: Dataset) -> PixelFormat:
    """Return the format of a data set's pixels.

    Raises:
        DicomError: There are no pixels, the image is in colour or too large, or the header is contradictory.
    """
    if _PIXEL_DATA not in dataset:
        raise DicomError(f"it has no {label('PixelData')}, or is cut off before it")
    photometric = term(dataset, "PhotometricInterpretation")
    samples = integer(dataset, "SamplesPerPixel", 1, 65535, default=1)
    if photometric not in MONOCHROME or samples != 1:
        raise DicomError(
            f"{label('PhotometricInterpretation')} is {photometric[:40] or 'missing'} with {samples} samples "
            f"per pixel; greyscale was expected: {' or '.join(MONOCHROME)}, 1 sample"
        )
    rows, columns = integer(dataset, "Rows", 0, 65535), integer(dataset, "Columns", 0, 65535)
    if not 0 < rows * columns <= MOST_PIXELS:
        raise DicomError(
            f"its header claims {columns}x{rows} pixels ({label('Columns')}, {label('Rows')}); "
            f"1 to {MOST_PIXELS:,} are read"
        )
    allocated, stored = (
        integer(dataset, "BitsAllocated", 0, 65535),
        integer(dataset, "BitsStored", 0, 65535),
    )
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise DicomError(
            f"{label('BitsStored')} and {label('BitsAllocated')} say {stored} of {allocated} bits; "
            "1 to 8 of 8 or 1 to 16 of 16 are read"
        )
    return PixelFormat(
        rows=rows,
        columns=columns,
        frames=max(integer(dataset, "NumberOfFrames", 0, _MOST_FRAMES, default=1), 1),
        photometric=photometric,
        allocated=allocated,
        stored=stored,
        high=integer(dataset, "HighBit", 0, 65535, default=stored - 1),
        signed=bool(integer(dataset, "PixelRepresentation", 0, 1, default=0)),
        syntax=_syntax(dataset),
        lossy=term(dataset, "LossyImageCompression") == "01",
    )


def _syntax(dataset: Dataset) -> UID:
    """Return the transfer syntax; without a meta header, add the one that the file was parsed with."""
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and (syntax := raw_value(meta, "TransferSyntaxUID")) is not None:
        bare = str(syntax).strip(" \0")
        return syntax if isinstance(syntax, UID) and bare == syntax else UID(bare)
    if dataset["PixelData"].is_undefined_length:
        raise DicomError(f"its pixels are compressed, but {label('TransferSyntaxUID')} is missing")
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    syntax = ImplicitVRLittleEndian if implicit else explicit
    if isinstance(dataset, FileDataset):
        dataset.file_meta = FileMetaDataset() if meta is None else meta
        dataset.file_meta.TransferSyntaxUID = syntax
    return syntax
