"""DICOM files made to order, for the tests of `data`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage


def make_dataset(
    pixels: NDArray[Any], *, stored: int | None = None, syntax: str = ExplicitVRLittleEndian
) -> FileDataset:
    """A minimal greyscale data set with native pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    meta.TransferSyntaxUID = UID(syntax)
    dataset = FileDataset(
        "", {}, file_meta=meta, preamble=b"\0" * 128, is_little_endian=meta.TransferSyntaxUID.is_little_endian
    )
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored = bits, stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = pixels.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    return dataset


def encapsulated(
    pixels: NDArray[Any], stream: bytes, syntax: str, *, stored: int | None = None
) -> FileDataset:
    """The same with one compressed frame in place of the pixels."""
    dataset = make_dataset(pixels, stored=stored, syntax=syntax)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def jpeg(pixels: NDArray[np.uint8], **elements: Any) -> Dataset:
    """A baseline JPEG data set; `elements` then lie about it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    grey = pixels[..., 0] if pixels.ndim == 3 else pixels
    dataset = encapsulated(grey, stream.getvalue(), JPEGBaseline8Bit)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def lut(entries: NDArray[Any], first: int, bits: int) -> Sequence:
    """A sequence with one look-up table; `first` is the value that its first entry stands for."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", [int(value) for value in entries])
    return Sequence([item])
