"""Radiographs from DICOM files.

`find` lists the DICOM files of a folder in an order that does not depend on the machine. `read_radiograph`
returns a radiograph as (height, width) float32 in [0, 1], where bright means dense (MONOCHROME2). A file that
cannot be read, for any reason, raises `UnreadableImage` and nothing else, so one bad file never ends a run.

The pipeline (DICOM PS3.4 N.2):

1. the stored values of the first frame (`data.pixel_data.frames`);
2. modality LUT or rescale (`data.radiographs.grayscale`);
3. VOI LUT or window, else the full scale of the stored bits (`data.radiographs.grayscale`);
4. division by the range of the result;
5. inversion of MONOCHROME1 (`data.radiographs.grayscale`).

For 8 bits without LUT, window or rescale the result is exactly pixel / 255. The division of whole numbers is
done last, when `Radiograph.pixels` is used: it commutes with the inversion.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from core.files.system_errors import explain_os_errors
from data.annotations.image_ids import has_dicom_suffix, image_id
from data.pixel_data.elements import DicomError, join_notes, label, quoted, terms
from data.pixel_data.frames import first_frame
from data.pixel_data.pixel_format import PixelFormat, pixel_format
from data.radiographs.grayscale import display_values

MOST_BYTES = 1 << 29
"""A longer file, deflated or inflated, is refused; the largest image has 200 million bytes."""

KILLED = "reading it killed the process (a decoder's defect, or out of memory)"
"""The reason for a file that killed its worker process."""

_INFLATED_AT_ONCE = 1 << 20
_MAGIC_AT = 128
# Media Storage SOP Class UID of a DICOMDIR, in the meta header after the `DICM` mark (PS3.10 7.1, PS3.4 B.5).
_INDEX = re.compile(rb"\x02\0\x02\0UI\x14\x001\.2\.840\.10008\.1\.3\.10")
_INDEX_WITHIN = 256
_LONGEST_REASON = 300
_NO_DATA_SET = "its data set is damaged, and cannot be parsed"
_PIXEL_DATA = BaseTag(0x7FE00010)
_SHORT_HEADER, _LONG_HEADER, _UNDEFINED = 8, 12, 0xFFFFFFFF  # bytes of an element's header, PS3.5 7.1


class UnreadableImage(Exception):  # noqa: N818  public name
    """A file cannot be read as a radiograph.

    Args:
        path: The file.
        reason: The reason, in one line.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that the exception can be pickled
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Radiograph:
    """One radiograph.

    Attributes:
        values: (height, width) uint8, uint16 or float32 in [0, full].
        full: The value of white, the densest.
        note: A remark on how the file was read ("the first of 3 frames"), or "".
    """

    values: NDArray[Any]
    full: float
    note: str = ""

    @property
    def pixels(self) -> NDArray[np.float32]:
        """Return values / full: (height, width) float32 in [0, 1], C order, a new array each time."""
        shown: NDArray[np.float32] = np.divide(self.values, np.float32(self.full), dtype=np.float32)
        return shown


def find(folder: Path) -> list[Path]:
    """List the DICOM files below a folder at any depth, sorted by their path's parts.

    A DICOM file has the suffix `.dcm` or `.dicom`, or the `DICM` mark at byte 128. Links are followed, but
    each real folder is visited once. macOS' `._*` files and DICOMDIR files are skipped: they hold no image.
    A DICOMDIR is a file called `DICOMDIR`, in any case, or a file without suffix, or called `DICOMDIR.dcm`,
    whose meta header says so. Entries that cannot be opened are listed, so that reading them reports why:
    broken links and pipes with such a suffix, and folders without permission.

    Raises:
        UserError: The folder itself cannot be listed.
    """
    with explain_os_errors(folder, "list"):
        os.scandir(folder).close()
    return sorted(_walk(folder), key=lambda path: path.parts)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the DICOM files below a folder, and subfolders that cannot be listed, in any order."""
    waiting, seen = [folder], set[tuple[int, int]]()
    while waiting:
        current = waiting.pop()
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link to a folder that was visited
            seen.add((status.st_dev, status.st_ino))
            # Sorted, so that every machine follows the same one of two links to a folder.
            entries = sorted(os.scandir(current), key=lambda entry: entry.name, reverse=True)
        except OSError:
            yield current
            continue
        for entry in entries:
            path = current / entry.name
            if _ask(entry.is_dir):
                waiting.append(path)
            elif _is_dicom(path, entry.is_file):
                yield path


def _ask(question: Callable[[], bool]) -> bool:
    """Ask the system about an entry; return False for a link that leads back to itself."""
    try:
        return question()
    except OSError:
        return False


def looks_like_dicom(path: Path) -> bool:
    """Whether `find` would list the file."""
    return _is_dicom(path, path.is_file)


def _is_dicom(path: Path, is_file: Callable[[], bool]) -> bool:
    if path.name.startswith("._") or path.name.casefold() == "dicomdir":
        return False
    suffix = has_dicom_suffix(path)
    if suffix and image_id(path).casefold() != "dicomdir":
        return True
    if not _ask(is_file):  # opening a pipe would block until it has a writer
        return suffix
    try:
        with path.open("rb") as file:
            file.seek(_MAGIC_AT)
            head = file.read(_INDEX_WITHIN)
        return (suffix or head.startswith(b"DICM")) and not _INDEX.search(head)
    except OSError:
        return True  # it may be DICOM: reading it reports the error


def read_dataset(path: Path) -> Dataset:
    """Read the data set of a file, with or without preamble and meta header.

    If the file ends within its pixels, the data set has the part that is there.

    Raises:
        UnreadableImage: Not DICOM, too large, or refused by the operating system.
    """
    try:
        return _parse(_read_bytes(path))
    except Exception as error:  # see `_reason`
        raise UnreadableImage(path, _reason(error, _NO_DATA_SET)) from error


def parse(path: Path, content: bytes) -> Dataset:
    """Parse the data set of a file's content; `path` names it in errors.

    Raises:
        UnreadableImage: Not DICOM, or too large.
    """
    try:
        _check_length(len(content))
        return _parse(content)
    except Exception as error:  # see `_reason`
        raise UnreadableImage(path, _reason(error, _NO_DATA_SET)) from error


def sop_instance_uid(dataset: Dataset) -> str:
    """Return the SOP Instance UID of a data set, "" if it has none."""
    return str(dataset.get("SOPInstanceUID", "") or "").strip()


def check(path: Path, dataset: Dataset) -> int:
    """Refuse, by its header alone, a data set that is not a grey image of an acceptable size.

    Returns:
        The number of frames.

    Raises:
        UnreadableImage: The data set is refused.
    """
    return _format(path, dataset).frames


def _format(path: Path, dataset: Dataset) -> PixelFormat:
    try:
        return pixel_format(dataset)
    except Exception as error:  # see `_reason`
        raise UnreadableImage(path, _reason(error, "its header is damaged")) from error


def read_radiograph(path: Path) -> Radiograph:
    """Read a file's radiograph; the module's docstring describes the pipeline.

    Raises:
        UnreadableImage: The file is not DICOM, in colour, cut off or damaged, or has an impossible header.
        ModuleNotFoundError: The decoder of its compression is not installed.
    """
    return radiograph(path, read_dataset(path))


def radiograph(path: Path, dataset: Dataset) -> Radiograph:
    """Return the radiograph of a data set that `read_dataset` returned for `path`.

    Raises:
        UnreadableImage: The data set is refused, as in `read_radiograph`.
        ModuleNotFoundError: The decoder of its compression is not installed.
    """
    form = _format(path, dataset)
    try:
        # Overflow is either harmless (1 / (1 + inf), far below a sigmoid's centre) or refused.
        with np.errstate(over="ignore", invalid="ignore"):
            frame = first_frame(dataset, form)
            values, full, note = display_values(
                frame,
                dataset,
                stream_bits=frame.bits != form.stored,
                is_monochrome1=form.photometric == "MONOCHROME1",
            )
    except ModuleNotFoundError:  # a missing decoder is not an error of the file
        raise
    except Exception as error:  # see `_reason`
        raise UnreadableImage(
            path, _reason(error, "its pixels are damaged, and cannot be decoded")
        ) from error
    several = f"the first of {form.frames} frames" if form.frames > 1 else ""
    notes = several, frame.note, note, _shape_note(dataset, form)
    return Radiograph(values, full, join_notes(*notes))


def _shape_note(dataset: Dataset, form: PixelFormat) -> str:
    """Return a note on a Presentation LUT Shape that would invert the picture (PS3.3 C.8.11.3.1.2)."""
    shape = terms(dataset, "PresentationLUTShape")
    fitting = "INVERSE" if form.photometric == "MONOCHROME1" else "IDENTITY"
    if shape in ([], [""], [fitting]):
        return ""
    return (
        f"{label('PresentationLUTShape')} is {quoted(shape)}, which does not go with {form.photometric}; "
        "the latter counts"
    )


def _read_bytes(path: Path) -> bytes:
    """Read a whole file. Parsed from memory, an element with a wrong length cannot allocate that length."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DicomError("it is not a file of bytes (but a pipe or a device)")
        _check_length(status.st_size)
        return file.read(status.st_size)


def _check_length(length: int) -> None:
    if length > MOST_BYTES:
        raise DicomError(f"it has {length:,} bytes; the limit is {MOST_BYTES:,}")


def _open_without_waiting(name: str, flags: int) -> int:
    """Open a file; do not wait for a writer if it is a pipe."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _check_deflated(content: bytes) -> None:
    """Refuse a deflated data set that is damaged or too large: pydicom inflates it without a limit."""
    if DeflatedExplicitVRLittleEndian.encode() not in content:
        return
    file = io.BytesIO(content)
    read_preamble(file, force=True)
    if _read_file_meta_info(file).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflater, rest, length = zlib.decompressobj(-zlib.MAX_WBITS), file.read(), 0
    try:
        while rest and not inflater.eof:
            length += len(inflater.decompress(rest, _INFLATED_AT_ONCE))
            if length > MOST_BYTES:
                raise DicomError(f"its deflated content is longer than {MOST_BYTES:,} bytes, the limit")
            rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise DicomError("its deflated data set is damaged") from error
    if not inflater.eof:
        raise DicomError("its deflated data set is cut off")


def _parse(content: bytes) -> Dataset:
    """Parse the data set of a file's content."""
    _check_deflated(content)
    try:
        dataset: Dataset = pydicom.dcmread(io.BytesIO(content))
    except InvalidDicomError:
        dataset = pydicom.dcmread(io.BytesIO(content), force=True)
        if "Rows" not in dataset or "Columns" not in dataset:  # accepted only if it looks like an image
            raise DicomError("it is no DICOM file") from None
    return dataset if _PIXEL_DATA in dataset else _with_unterminated_pixels(dataset, content)


def _with_unterminated_pixels(dataset: Dataset, content: bytes) -> Dataset:
    """Add Pixel Data without an end (no delimiter, for example) to a data set; else return it unchanged.

    pydicom drops pixels that have no end, or that are followed by something that is not an element.
    """
    file = io.BytesIO(content)
    before = pydicom.dcmread(file, force=True, stop_before_pixels=True)
    implicit, little = before.original_encoding
    order, position = "<" if little else ">", file.tell()
    header = content[position : position + _LONG_HEADER]
    if len(header) < _LONG_HEADER or struct.unpack_from(f"{order}HH", header) != (0x7FE0, 0x0010):
        return dataset  # this includes a deflated data set that is cut off
    short = implicit or header[4:6] not in (b"OB", b"OW", b"UN")
    begin = position + (_SHORT_HEADER if short else _LONG_HEADER)
    (length,) = struct.unpack_from(f"{order}I", content, begin - 4)
    undefined = length == _UNDEFINED
    value = content[begin:] if undefined else content[begin : begin + length]
    before.add(DataElement(_PIXEL_DATA, "OW" if short else header[4:6].decode(), value))
    before["PixelData"].is_undefined_length = undefined
    return before


def _reason(error: Exception, otherwise: str) -> str:
    """Return one line for the user about any exception: `otherwise` if nothing more exact is known.

    On hostile files, parsers and decoders raise anything (struct.error, KeyError, RecursionError, their own
    exceptions), so callers catch `Exception`, to raise nothing but `UnreadableImage`.
    """
    if isinstance(error, UnreadableImage):
        return error.reason
    if isinstance(error, DicomError):
        text = str(error)
        return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "there is not enough memory to read it"
    return otherwise
