"""Inputs that mean harm: whole files of every kind, and what is done to them.

Promises: `seeds` gives small whole files by kind; `mutated` gives, for a seed file and a random state, the
same damaged file every time. `lies` rewrites single elements of a DICOM header, lengths kept right, which
blind damage seldom does.
"""

from __future__ import annotations

import gzip
import io
import random
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pydicom
from dicom_files import encapsulated, jpeg, lut, make_dataset
from lossless_jpeg import encode_lossless
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from data.annotations import rle
from data.hdf5.file_writing import ImageMetadata, write

HEIGHT, WIDTH = 41, 35
LARGEST_REAL = 700_000  # bytes; copying larger files about takes the time of many mutations


def noise(kind: str, high: int) -> NDArray[Any]:
    return np.random.default_rng(high).integers(0, high, (HEIGHT, WIDTH)).astype(kind)


def dicom_seeds(real: Path | None) -> dict[str, bytes]:
    """Whole files of every transfer syntax, by name."""
    grey, deep = noise("u1", 256), noise("u2", 4096)
    found = {
        "native": make_dataset(grey),
        "implicit": make_dataset(deep, stored=12, syntax=ImplicitVRLittleEndian),
        "big endian": make_dataset(deep.astype(">u2"), stored=12, syntax=ExplicitVRBigEndian),
        "deflated": make_dataset(deep, stored=12, syntax=DeflatedExplicitVRLittleEndian),
        "frames": make_dataset(np.stack([grey, grey[::-1], grey // 2])),
        "tables": make_dataset(deep, stored=12),
        "baseline": jpeg(grey),
        "lossless": encapsulated(deep, encode_lossless(deep, 12, 1), JPEGLosslessSV1, stored=12),
        "J2K": encapsulated(deep, encode_array(deep, bits_stored=12), JPEG2000Lossless, stored=12),
    }
    found["frames"].NumberOfFrames = 3
    found["tables"].ModalityLUTSequence = lut(np.arange(400) * 10, 5, 16)
    found["tables"].VOILUTSequence = lut(np.arange(3000), 100, 12)
    found["native"].WindowCenter, found["native"].WindowWidth = [100, 50], [90, 20]
    for name, syntax in (("RLE", RLELossless), ("JPEG-LS", JPEGLSLossless)):
        found[name] = make_dataset(deep, stored=12)
        found[name].compress(UID(syntax), generate_instance_uid=False)
    contents = {name: saved(dataset) for name, dataset in found.items()}
    contents["extended"] = (Path(pydicom.__file__).parent / "data/test_files/JPGExtended.dcm").read_bytes()
    contents["bare"] = contents["native"][contents["native"].index(b"\x08\x00\x16\x00UI") :]
    if real is not None:
        for path in sorted(real.rglob("*.dcm")):
            if path.stat().st_size <= LARGEST_REAL:
                contents[path.name] = path.read_bytes()
    return contents


def saved(dataset: FileDataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def annotation_seeds() -> dict[str, bytes]:
    """Annotation files of every dialect, for images of HEIGHT x WIDTH."""
    masks = [np.random.default_rng(n).random((HEIGHT, WIDTH)) < 0.2 for n in range(3)]
    texts = [rle.encode(mask) for mask in masks]
    plain = "ImageId, EncodedPixels\n" + "".join(f"{n % 2}, {text}\n" for n, text in enumerate(texts))
    plain += "2, -1\n3,\n2, 5 4\n"
    return {
        "plain": plain.encode(),
        "BOM, CRLF, no header": b"\xef\xbb\xbf" + plain.split("\n", 1)[1].replace("\n", "\r\n").encode(),
        "semicolons": plain.replace(",", ";").encode(),
        "gzip": gzip.compress(plain.encode(), mtime=0),
        "zip": _zipped(plain.encode()),
        "quotes": "\n".join('"' + line.replace(", ", '","') + '"' for line in plain.splitlines()).encode(),
        "floats": re.sub(r"(?<=\d)(?=[ \n])", ".0", plain.replace("ImageId, ", "ImageId,")).encode(),
        "UTF-16, CR": plain.replace("\n", "\r").encode("utf-16"),
    }


def _zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("train-rle.csv"), content)
    return buffer.getvalue()


def store_seeds(folder: Path) -> dict[str, bytes]:
    """HDF5 files of both storages, and one made by somebody else."""
    count, size = 7, (6, 5)
    draw = np.random.default_rng(1)
    masks = (draw.random((count, *size)) < 0.4).astype(np.uint8)
    path, contents = folder / "seed.h5", {}
    for storage in ("float32", "uint8"):
        pixels = draw.integers(0, 256, (count, *size), dtype=np.uint8)
        images = pixels if storage == "uint8" else (pixels / 255).astype(np.float32)
        rows = ImageMetadata(
            [f"id-{n}" for n in range(count)], np.full((count, 2), 9, np.int32), masks.any((1, 2))
        )
        blocks = iter([(images, masks)])
        write(path, rows, size, blocks, per_dataset=4, storage=storage, attributes={"hash": "abc"})
        contents[storage] = path.read_bytes()
    with h5py.File(path, "w") as file:
        file.create_dataset("images_0", data=images[..., None] / np.float32(255), compression="gzip")
        file.create_dataset("ann_0", data=masks[..., None], chunks=(1, *size, 1), shuffle=True)
    contents["foreign"] = path.read_bytes()
    return contents


Mutation = Callable[[bytearray, random.Random], None]
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flip_bits(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def change_bytes(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 2, 5, 20))):
        content[chance.randrange(len(content))] = chance.randrange(256)


def truncate(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def remove(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    del content[start : start + chance.choice((1, 2, 4, 16, 100))]


def repeat(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    part = content[start : start + chance.choice((1, 2, 8, 64, 300))]
    content[start:start] = part * chance.choice((1, 1, 3, 50))


def set_number(content: bytearray, chance: random.Random) -> None:
    """A number at the edge of its type: what lengths, counts and offsets are made of."""
    kind = chance.choice(("B", "<H", ">H", "<I", ">I"))
    number = chance.choice(EDGES) % (1 << 8 * struct.calcsize(kind))
    packed = struct.pack(kind, number)
    start = chance.randrange(max(len(content) - len(packed), 0) + 1)
    content[start : start + len(packed)] = packed


MUTATIONS: tuple[Mutation, ...] = (flip_bits, change_bytes, truncate, remove, repeat, set_number, set_number)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content with one to three damages, half of them in its head, where the structure is."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        limit = chance.choice((len(content), min(len(content), 1500)))
        head = bytearray(content[:limit])
        if head:
            chance.choice(MUTATIONS)(head, chance)
        content = bytes(head) + content[limit:]
    return content


SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
    "1.2.840.10008.1.2.4.201",  # HTJ2K
    "1.2.840.10008.1.2.4.100",  # MPEG-2
    "1.2.3",
)
LIES: dict[str, tuple[Any, ...]] = {
    "Rows": (0, 1, HEIGHT - 1, HEIGHT + 1, 9999, 65535),
    "Columns": (0, 1, WIDTH - 1, WIDTH + 1, 9999, 65535),
    "BitsAllocated": (0, 1, 8, 12, 16, 32, 64, 65535),
    "BitsStored": (0, 1, 7, 8, 12, 16, 17, 65535),
    "HighBit": (0, 7, 15, 65535),
    "PixelRepresentation": (0, 1, 2, 65535),
    "SamplesPerPixel": (0, 1, 3, 65535),
    "PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "", "MONOCHROME"),
    "NumberOfFrames": ("0", "1", "2", "1000000", "2147483647", "-1"),
    "RescaleSlope": ("0", "-1", "1e300", "1e-300", "nan", "inf", ""),
    "RescaleIntercept": ("0", "-1e308", "1e308", "nan", ""),
    "WindowCenter": ("0", "-1e308", "1e308", "nan", "", ["5", "6"]),
    "WindowWidth": ("0", "1", "-3", "1e308", "nan", "", ["5", "6"]),
    "VOILUTFunction": ("LINEAR", "LINEAR_EXACT", "SIGMOID", "CUBIC", ""),
}


def lies(content: bytes, chance: random.Random) -> bytes:
    """A DICOM file with one to three elements, or its transfer syntax, that are not true."""
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    for _ in range(chance.choice((1, 1, 2, 3))):
        keyword = chance.choice((*LIES, "table", "syntax", "data", "absent"))
        if keyword == "table":
            name = chance.choice(("ModalityLUTSequence", "VOILUTSequence"))
            setattr(dataset, name, lut(np.arange(chance.choice((1, 3, 300))), 0, 16))
            descriptor = [chance.choice((0, 1, 3, 300, 65535)), chance.choice((0, 5, 65535))]
            getattr(dataset, name)[0].LUTDescriptor = [*descriptor, chance.choice((0, 7, 8, 12, 16, 65535))]
        elif keyword == "syntax":
            swap(dataset, chance)
        elif keyword == "data" and "PixelData" in dataset:
            value = dataset.PixelData
            dataset.PixelData = chance.choice((b"", value[: len(value) // 2], value * 2, b"\0" * 64))
        elif keyword == "absent":
            dataset.pop(chance.choice(list(dataset.keys()) or [0x00280010]), None)
        elif keyword in LIES:
            value = chance.choice(LIES[keyword])
            dataset.add_new(keyword, pydicom.datadict.dictionary_VR(keyword), value)
    stream = io.BytesIO()
    implicit, little = dataset.original_encoding
    try:
        pydicom.dcmwrite(stream, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    except (AttributeError, TypeError, ValueError):  # a lie that pydicom does not write
        return mutated(content, chance)
    return stream.getvalue()


def swap(dataset: FileDataset, chance: random.Random) -> None:
    """Another transfer syntax, while everything stays written as it is."""
    if "TransferSyntaxUID" in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = UID(chance.choice(SYNTAXES))
