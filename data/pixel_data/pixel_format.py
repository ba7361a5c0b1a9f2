"""How a data set's header says that its pixels are stored (DICOM PS3.3 C.7.6.3).

Promises: `pixel_format` gives it for a greyscale image of a sane size, or refuses, before any pixel is
looked at, a header that contradicts itself or describes something else. Each refusal names the element.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from data.pixel_data.elements import Refusal, named, raw, term, whole

MOST_PIXELS = 100_000_000
"""A header that claims more is refused before any memory is taken; detectors have 20 million."""

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
"""The photometric interpretations that are read; in the first, low values are bright."""

_PIXEL_DATA = BaseTag(0x7FE00010)
_MOST_FRAMES = (1 << 31) - 1  # of VR IS


@dataclass(frozen=True)
class PixelFormat:
    """The form of the stored pixels.

    Attributes:
        rows: Height of the image, in pixels.
        columns: Width.
        frames: How many images there are.
        photometric: One of `MONOCHROME`.
        allocated: Bits that each pixel takes: 8 or 16.
        stored: Bits of them that are the pixel's value.
        high: Number of the highest of those, counted from 0; `stored - 1` in all but old files. It may be one
            that cannot be: it counts only where whole words were stored.
        signed: Whether the value is a two's complement.
        syntax: The transfer syntax.
        lossy: Whether it was compressed with loss, ever (Lossy Image Compression, PS3.3 C.7.6.1.1.5).
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
        """Bytes of one image that is not compressed."""
        return self.rows * self.columns * self.allocated // 8


def pixel_format(dataset: Dataset) -> PixelFormat:
    """The form of a data set's pixels.

    Raises:
        Refusal: It has no pixels, is in colour, too large, or its header contradicts itself.
    """
    if _PIXEL_DATA not in dataset:
        raise Refusal(f"it has no {named('PixelData')}, or is cut off before it")
    photometric = term(dataset, "PhotometricInterpretation")
    samples = whole(dataset, "SamplesPerPixel", 1, 65535, default=1)
    if photometric not in MONOCHROME or samples != 1:
        raise Refusal(
            f"{named('PhotometricInterpretation')} is {photometric[:40] or 'missing'} with {samples} samples "
            f"per pixel; greyscale was expected: {' or '.join(MONOCHROME)}, 1 sample"
        )
    rows, columns = whole(dataset, "Rows", 0, 65535), whole(dataset, "Columns", 0, 65535)
    if not 0 < rows * columns <= MOST_PIXELS:
        raise Refusal(
            f"its header claims {columns}x{rows} pixels ({named('Columns')}, {named('Rows')}); "
            f"1 to {MOST_PIXELS:,} are read"
        )
    allocated, stored = whole(dataset, "BitsAllocated", 0, 65535), whole(dataset, "BitsStored", 0, 65535)
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise Refusal(
            f"{named('BitsStored')} and {named('BitsAllocated')} say {stored} of {allocated} bits; "
            "1 to 8 of 8 or 1 to 16 of 16 are read"
        )
    return PixelFormat(
        rows=rows,
        columns=columns,
        frames=max(whole(dataset, "NumberOfFrames", 0, _MOST_FRAMES, default=1), 1),
        photometric=photometric,
        allocated=allocated,
        stored=stored,
        high=whole(dataset, "HighBit", 0, 65535, default=stored - 1),
        signed=bool(whole(dataset, "PixelRepresentation", 0, 1, default=0)),
        syntax=_syntax(dataset),
        lossy=term(dataset, "LossyImageCompression") == "01",
    )


def _syntax(dataset: Dataset) -> UID:
    """The transfer syntax; without a meta header, what the file was parsed as (then entered there)."""
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and (syntax := raw(meta, "TransferSyntaxUID")) is not None:
        bare = str(syntax).strip(" \0")
        return syntax if isinstance(syntax, UID) and bare == syntax else UID(bare)
    if dataset["PixelData"].is_undefined_length:
        raise Refusal(f"its pixels are compressed, but {named('TransferSyntaxUID')} is missing")
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    syntax = ImplicitVRLittleEndian if implicit else explicit
    if isinstance(dataset, FileDataset):
        dataset.file_meta = FileMetaDataset() if meta is None else meta
        dataset.file_meta.TransferSyntaxUID = syntax
    return syntax
