"""Radiographs from DICOM files.

Promises: `find` lists the DICOM files of a folder in an order that does not depend on the machine;
`read_radiograph` gives a radiograph as (height, width) float32 in [0, 1], bright meaning dense
(MONOCHROME2). A file that cannot be read, for whatever reason, raises `UnreadableImage` and nothing
else, so one bad file never ends a run.

The pipeline (DICOM PS3.4 N.2, PS3.3 C.11.1 and C.11.2): modality LUT or rescale, then VOI LUT or
window (else the full scale of the stored bits), then division by the range of that result, then the
inversion of MONOCHROME1, last. For 8 bits without LUT, window or rescale: exactly pixel / 255. The
division of whole numbers is put off until somebody asks for the pixels: it commutes with what is left.

`data.frames` decodes. pydicom does the windows. It does not do the look-up tables: its index into a
table of 8-bit entries has 8 bits itself, so 12-bit pixels wrap round (seen in pydicom 3.0.2).
"""

from __future__ import annotations

import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels.processing import apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from core.files import explained
from data.frames import first_frame
from data.identities import has_dicom_suffix, image_id

MOST_PIXELS = 100_000_000
"""A header that claims more is refused before any memory is taken; detectors have 20 million."""

MOST_BYTES = 1 << 29
"""A longer file, deflated or inflated, is refused; the largest image has 200 million bytes."""

KILLED = "reading it killed the process (a decoder's defect, or out of memory)"
"""The reason for a file that a worker died on."""

_INFLATED_AT_ONCE = 1 << 20
_MAGIC_AT = 128
# Media Storage SOP Class UID of an index, in the meta header that follows the mark (PS3.10 7.1, PS3.4 B.5).
_INDEX = re.compile(rb"\x02\0\x02\0UI\x14\x001\.2\.840\.10008\.1\.3\.10")
_INDEX_WITHIN = 256
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_LEAST_BITS, _MOST_BITS = 8, 16
_LONGEST_REASON = 200
_TELLING = (ValueError, RuntimeError, NotImplementedError, OSError)  # whose text is enough


class UnreadableImage(Exception):  # noqa: N818  the design's name for it
    """A file that is no radiograph that can be read.

    Args:
        path: The file.
        reason: Why, in one line.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that it survives being pickled
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Radiograph:
    """One radiograph.

    Attributes:
        values: (height, width) uint8, uint16 or float32 in [0, full].
        full: The value that is the densest (white).
        note: What a careful reader would want to know ("the first of 3 frames"), or "".
    """

    values: NDArray[Any]
    full: float
    note: str = ""

    @property
    def pixels(self) -> NDArray[np.float32]:
        """What is shown, values / full: (height, width) float32 in [0, 1], C order, a new array each time."""
        return np.divide(self.values, np.float32(self.full), dtype=np.float32)


def find(folder: Path) -> list[Path]:
    """The DICOM files below a folder at any depth, sorted by their path's parts.

    A file counts by its suffix (`.dcm`, `.dicom`) or, whatever its name, by the `DICM` mark at byte
    128. Links are followed, each real folder once. macOS' `._*` companions and indexes are passed over:
    neither holds an image. An index is what is called `DICOMDIR`, in any case, or what has no suffix or is
    called `DICOMDIR.dcm` and says that it is one. What cannot be looked into is listed too, so that reading
    it reports why: a link to nowhere or a pipe with such a suffix, a folder that must not be listed.

    Raises:
        UserError: The folder itself cannot be listed.
    """
    with explained(folder, "list"):
        os.scandir(folder).close()
    return sorted(_walk(folder), key=lambda path: path.parts)


def _walk(folder: Path) -> Iterator[Path]:
    """The DICOM files below a folder, and subfolders that refuse, in no particular order."""
    waiting, seen = [folder], set[tuple[int, int]]()
    while waiting:
        current = waiting.pop()
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link back to a folder above or beside
            seen.add((status.st_dev, status.st_ino))
            # Sorted, so that of two links to one folder the same one is followed everywhere.
            entries = sorted(os.scandir(current), key=lambda entry: entry.name, reverse=True)
        except OSError:
            yield current
            continue
        for entry in entries:
            path = current / entry.name
            if _holds(entry.is_dir):
                waiting.append(path)
            elif _is_dicom(path, entry):
                yield path


def _holds(question: Callable[[], bool]) -> bool:
    """What the system says of an entry; no to everything for a link that leads back to itself."""
    try:
        return question()
    except OSError:
        return False


def _is_dicom(path: Path, entry: os.DirEntry[str]) -> bool:
    if path.name.startswith("._") or path.name.casefold() == "dicomdir":
        return False
    suffix = has_dicom_suffix(path)
    if suffix and image_id(path).casefold() != "dicomdir":
        return True
    if not _holds(entry.is_file):  # opening a pipe would wait for its other end
        return suffix
    try:
        with path.open("rb") as file:
            file.seek(_MAGIC_AT)
            head = file.read(_INDEX_WITHIN)
        return (suffix or head.startswith(b"DICM")) and not _INDEX.search(head)
    except OSError:
        return True  # it may be one: let reading it report why not


def read_dataset(path: Path) -> Dataset:
    """The data set of a file, preamble and meta header or not.

    Raises:
        UnreadableImage: Not DICOM, cut off, too large, or refused by the operating system.
    """
    try:
        content = _content(path)
        _check_deflated(content)
        try:
            return pydicom.dcmread(io.BytesIO(content))
        except InvalidDicomError:
            return _read_bare(content)
    except Exception as error:  # see `_reason`
        raise UnreadableImage(path, _reason(error)) from error


def sop_instance_uid(dataset: Dataset) -> str:
    """The SOP Instance UID of a data set, "" if it has none."""
    return str(dataset.get("SOPInstanceUID", "") or "").strip()


def check(path: Path, dataset: Dataset) -> int:
    """Refuse, by its header alone, a data set that is no grey image of a sane size.

    Returns:
        The number of frames.

    Raises:
        UnreadableImage: With the reason.
    """
    try:
        return _check_header(dataset)
    except Exception as error:  # see `_reason`
        raise UnreadableImage(path, _reason(error)) from error


def read_radiograph(path: Path) -> Radiograph:
    """Read a file's radiograph; see the module's text for the pipeline.

    Raises:
        UnreadableImage: With the reason: not DICOM, colour, no decoder, cut off, impossible header.
    """
    return radiograph(path, read_dataset(path))


def radiograph(path: Path, dataset: Dataset) -> Radiograph:
    """The radiograph of a data set that `read_dataset` gave for `path`.

    Raises:
        UnreadableImage: As `read_radiograph`.
    """
    frames = check(path, dataset)
    try:
        # What overflows is either harmless (1 / (1 + inf) far below a sigmoid's centre) or refused.
        with np.errstate(over="ignore", invalid="ignore"):
            values, full = _ranged(first_frame(dataset), dataset)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            values = np.subtract(values.dtype.type(full), values)
    except Exception as error:  # see `_reason`
        raise UnreadableImage(path, _reason(error)) from error
    return Radiograph(values, full, f"the first of {frames} frames" if frames > 1 else "")


def _content(path: Path) -> bytes:
    """All of a file. From memory, a length that lies gets what is there; a file would make room first."""
    with open(path, "rb", opener=_open_now) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a file of bytes (a pipe or a device)")
        if status.st_size > MOST_BYTES:
            raise ValueError(f"it has {status.st_size:,} bytes; the limit is {MOST_BYTES:,}")
        return file.read(status.st_size)


def _open_now(name: str, flags: int) -> int:
    """Open without waiting for somebody at the other end, should it be a pipe."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _check_deflated(content: bytes) -> None:
    """Refuse a deflated data set that would inflate beyond bounds: pydicom inflates it in one go."""
    if DeflatedExplicitVRLittleEndian.encode() not in content:
        return
    file = io.BytesIO(content)
    read_preamble(file, force=True)
    if _read_file_meta_info(file).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflater, rest, length = zlib.decompressobj(-zlib.MAX_WBITS), file.read(), 0
    while rest and not inflater.eof:
        length += len(inflater.decompress(rest, _INFLATED_AT_ONCE))
        if length > MOST_BYTES:
            raise ValueError(f"its deflated content is longer than {MOST_BYTES:,} bytes, the limit")
        rest = inflater.unconsumed_tail


def _read_bare(content: bytes) -> Dataset:
    """A file without preamble, accepted only if it looks like an image all the same."""
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise ValueError("not a DICOM file")
    return dataset


def _check_header(dataset: Dataset) -> int:
    """Refuse what is no grey image of a sane size; return the number of frames."""
    if "PixelData" not in dataset:  # also what pydicom makes of a file that is cut off
        raise ValueError("it has no pixel data, or is cut off before their end")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    samples = dataset.get("SamplesPerPixel", 1)
    if photometric not in _MONOCHROME or samples != 1:
        raise ValueError(
            f"colour or unknown photometric interpretation ({photometric or 'none'}, {samples} "
            f"samples per pixel); {' and '.join(_MONOCHROME)} are read"
        )
    height, width = int(dataset.Rows), int(dataset.Columns)
    if not 0 < height * width <= MOST_PIXELS:
        raise ValueError(f"its header claims {width}x{height} pixels; the limit is {MOST_PIXELS}")
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise ValueError(f"{stored} of {allocated} bits; 8 to 16 are read")
    _complete_meta(dataset)
    return int(dataset.get("NumberOfFrames", 1) or 1)


def _complete_meta(dataset: Dataset) -> None:
    """Name the transfer syntax of a file that had no meta header: what it was just parsed as."""
    if not isinstance(dataset, FileDataset):
        return
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and "TransferSyntaxUID" in meta:
        return
    if dataset["PixelData"].is_undefined_length:
        raise ValueError("compressed pixels, but no transfer syntax says how")
    implicit, little = dataset.original_encoding
    syntax = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta = FileMetaDataset() if meta is None else meta
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else syntax


def _ranged(stored: NDArray[np.integer[Any]], dataset: Dataset) -> tuple[NDArray[Any], float]:
    """Modality, then VOI: values from 0 on, and the greatest that the result could have."""
    values, low, high = _modality(stored, dataset)
    lut = _whole_lut(dataset, "VOILUTSequence")
    if lut is not None:
        values = _looked_up(values, lut, dataset)
        low, high = 0.0, _greatest_entry(lut)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        # Its output runs from the image of the smallest stored value to that of the greatest, even
        # when a negative slope makes the former the larger number.
        values = apply_windowing(values, dataset)
    else:
        low, high = min(low, high), max(low, high)
    if not np.isfinite([low, high]).all() or low == high:
        raise ValueError(f"its rescaled values span {low} to {high}")
    if low == 0 and values.dtype.kind == "u":  # nearly every file: nothing is rounded yet
        whole = high == np.iinfo(values.dtype).max
        return values if whole else np.minimum(values, values.dtype.type(high)), high
    scaled = np.subtract(values, low, dtype=np.float64)
    scaled /= high - low
    pixels = scaled.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError("its rescaled values are not all finite")
    return np.clip(pixels, 0, 1, out=pixels), 1.0


def _modality(stored: NDArray[np.integer[Any]], dataset: Dataset) -> tuple[NDArray[Any], float, float]:
    """Modality LUT or rescale; also what the smallest and the greatest stored value become by it."""
    slope, intercept = _rescale(dataset)
    identity = (slope, intercept) == (1, 0)
    lut = _whole_lut(dataset, "ModalityLUTSequence")
    if lut is not None:
        if not identity:
            raise ValueError("it has both a modality LUT and a rescale slope or intercept")
        return _looked_up(stored, lut, dataset), 0.0, _greatest_entry(lut)
    bits = int(dataset.BitsStored)
    signed = stored.dtype.kind == "i"
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if identity:  # spared: it would change nothing but the type, and so cost exactness and time
        return stored, low, high
    return stored * slope + intercept, low * slope + intercept, high * slope + intercept


def _rescale(dataset: Dataset) -> tuple[float, float]:
    """Slope and intercept; they count together or not at all."""
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return 1.0, 0.0
    return float(slope), float(intercept)


def _whole_lut(dataset: Dataset, keyword: str) -> Dataset | None:
    """The (first) look-up table of a sequence, if there is one with both of its elements."""
    sequence = dataset.get(keyword)
    if not sequence:
        return None
    item: Dataset = sequence[0]
    whole = item.get("LUTDescriptor") is not None and item.get("LUTData") is not None
    return item if whole else None


def _greatest_entry(lut: Dataset) -> float:
    bits = int(lut.LUTDescriptor[2])
    if not _LEAST_BITS <= bits <= _MOST_BITS:
        raise ValueError(f"its look-up table has entries of {bits} bits; 8 to 16 are read")
    return 2.0**bits - 1


def _looked_up(values: NDArray[Any], lut: Dataset, dataset: Dataset) -> NDArray[np.uint16]:
    """Values through a look-up table (PS3.3 C.11.1.1.1, C.11.2.1.1); ends beyond its ends."""
    count, first = int(lut.LUTDescriptor[0]) or 1 << 16, int(lut.LUTDescriptor[1])
    data = lut.LUTData
    if isinstance(data, bytes):  # OW: words in the file's byte order, or bytes packed into them
        order = "<" if dataset.original_encoding[1] is not False else ">"
        table = np.frombuffer(data, np.uint8 if len(data) in (count, count + 1) else f"{order}u2")
    else:
        table = np.array(data, dtype=np.uint16, ndmin=1)
    if len(table) < count:
        raise ValueError(f"its look-up table has {len(table)} entries, its descriptor says {count}")
    # In float64, which holds all of these exactly: the difference may need 17 bits and a sign.
    places = np.clip(np.subtract(values, first, dtype=np.float64), 0, count - 1)
    return table.astype(np.uint16)[places.astype(np.int64)]


def _reason(error: Exception) -> str:
    """One line for any exception.

    Parsers and decoders of hostile files raise anything (struct.error, KeyError, RecursionError,
    the libraries' own), so callers catch `Exception`: that is the promise of `UnreadableImage`.
    """
    if isinstance(error, UnreadableImage):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or "no reason given"
    if type(error) not in _TELLING:
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
