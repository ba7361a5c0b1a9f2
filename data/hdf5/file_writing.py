"""Writing of data files in the format of `data.hdf5.file_format`.

`write` makes a whole file from images in order. Preprocessing instead computes the place of every row first
(`compute_layout`), lets several processes write the rows there (`data.hdf5.row_layout.RowFile`), and turns
the file of rows into a data file without copying them (`complete_file`).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from data.hdf5.file_format import COLUMNS, FORMAT, FORMAT_VERSION, SCALE
from data.hdf5.row_layout import Layout, RowFile

_OVERHEAD = 4096  # bytes that HDF5 itself needs for a dataset; an upper bound


@dataclass(frozen=True)
class ImageMetadata:
    """Everything about a file's images besides their pixels.

    Attributes:
        ids: Image ids.
        sizes: (k, 2) int32, original height and width.
        positive: (k,) bool; None for images without annotations (then there are no masks either).
        patients: Names of the k patients, "" where unknown; empty if no patient is known.
        runs: For each image the runs of its annotation at the original size, (m, 2) as
            `data.annotations.rle.union` returns them; empty if nothing is annotated.
        views: The views of the k images, "" where unknown. A column without any known value is not written;
            the same holds for the next two.
        sexes: The patients' sexes, "" where unknown.
        ages: (k,) the patients' ages in years, -1 where unknown.
    """

    ids: Sequence[str]
    sizes: NDArray[np.int32]
    positive: NDArray[np.bool_] | None
    patients: Sequence[str] = ()
    runs: Sequence[NDArray[np.int64]] = ()
    views: Sequence[str] = ()
    sexes: Sequence[str] = ()
    ages: NDArray[np.int16] | None = None


def write(
    path: Path,
    rows: ImageMetadata,
    size: tuple[int, int],
    blocks: Iterator[tuple[NDArray[Any], ...]],
    *,
    per_dataset: int,
    storage: str,
    attributes: Mapping[str, str | int | float],
) -> int:
    """Write a data file. If this fails, part of the file may exist: the caller must write it atomically.

    Args:
        path: The file, replaced if it is there.
        rows: Metadata of all images.
        size: Height and width of the stored images.
        blocks: Images and masks, (m, H, W) each, in the order of `rows`. m may differ between blocks; the
            sum of m is the number of `rows`. Images alone if `rows.positive` is None.
        per_dataset: Images in each dataset but the last.
        storage: "float32" or "uint8".
        attributes: Attributes of the file besides those of the format.

    Returns:
        The number of datasets of images.

    Raises:
        OSError: The operating system refused (the disk is full, say).
    """
    kinds = [storage] if rows.positive is None else [storage, "uint8"]
    layout = compute_layout(path, len(rows.ids), size, kinds, per_dataset)
    reserve_space(path, layout.end)
    file = RowFile(path, layout)
    try:
        several = (row for block in blocks for row in zip(*block, strict=True))
        for number, row in enumerate(several):
            file.put(number, row)
    finally:
        file.close()
    return complete_file(path, rows, layout, attributes)


def compute_layout(
    scratch: Path, count: int, size: tuple[int, int], kinds: Sequence[str], per_dataset: int
) -> Layout:
    """Compute where the rows of a file will be. The result depends only on the arguments.

    Args:
        scratch: A file in which HDF5 lays out the datasets; replaced if it exists. It stays almost empty.
        count: Rows of the file.
        size: Height and width of the stored images.
        kinds: Type of the images, "float32" or "uint8", and of the masks ("uint8") if there are any.
        per_dataset: Images in each dataset but the last.

    Raises:
        OSError: The operating system refused.
    """
    scratch.write_bytes(b"")
    with _create_around_rows(scratch) as file:
        starts = _create_row_datasets(file, count, size, kinds, per_dataset)
    return Layout(count, per_dataset, size, tuple(kinds), starts, scratch.stat().st_size)


def reserve_space(path: Path, size: int) -> None:
    """Reserve disk space for a file of `size` bytes and HDF5's overhead; the file's content stays.

    A full disk must be noticed before HDF5 writes: when its last flush fails, h5py raises from destructors
    and the process may end with a segmentation fault.

    Raises:
        OSError: There is not enough space.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("ab") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size + 4 * _OVERHEAD)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system cannot reserve
                raise


def complete_file(
    path: Path, rows: ImageMetadata, layout: Layout, attributes: Mapping[str, str | int | float]
) -> int:
    """Turn a file of rows into a data file.

    Everything else is written around the rows. If this is interrupted, the rows stay as they were.

    Args:
        path: The file, which has all rows at the places of the layout.
        rows: Metadata of the rows.
        layout: The places of the rows.
        attributes: Attributes of the file besides those of the format.

    Returns:
        The number of datasets of images.

    Raises:
        OSError: The operating system refused (the disk is full, say).
    """
    with as_os_errors():
        reserve_space(path, layout.end + _metadata_size(rows, layout))
        with _create_around_rows(path) as file:
            starts = _create_row_datasets(file, layout.count, layout.size, layout.kinds, layout.per_dataset)
            if starts != layout.starts:
                raise RuntimeError("HDF5 has laid the rows out differently than before")
            _create_metadata(file, rows, layout, attributes)
    return len(layout.starts)


def set_attributes(file: h5py.File, attributes: Mapping[str, str | int | float]) -> None:
    """Set attributes of a file, with strings of fixed length: see `data.hdf5.file_format.read_attribute`."""
    for name, value in attributes.items():
        file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value


def create_strings(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    """Create a dataset of UTF-8 strings of fixed length."""
    encoded = [text.encode() for text in texts]
    kind = h5py.string_dtype("utf-8", max(1, *map(len, encoded)))
    file.create_dataset(name, data=np.array(encoded, dtype=kind))


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """Convert HDF5's errors about a refusal of the operating system to the `OSError` behind them."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise _os_error(error) from error


def _os_error(error: OSError | RuntimeError) -> OSError:
    """Return the `OSError` behind an error of HDF5.

    On a full disk h5py raises RuntimeError while closing; its text has the system's error number.
    """
    number = re.search(r"errno = (\d+)", str(error))
    if number is None:
        return error if isinstance(error, OSError) else OSError(str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])))


class _PreservingFile:
    """A file wrapper that reports size 0 at first.

    HDF5 then creates a new file without truncating the rows that are already there.
    """

    def __init__(self, file: io.BufferedRandom) -> None:
        self._file, self._end = file, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset + (self._end if whence == io.SEEK_END else 0))

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer)

    def write(self, content: memoryview) -> int:
        written = self._file.write(content)
        self._end = max(self._end, self._file.tell())
        return written

    def truncate(self, size: int) -> int:
        self._end = size
        return self._file.truncate(size)

    def flush(self) -> None:
        self._file.flush()


@contextlib.contextmanager
def _create_around_rows(path: Path) -> Iterator[h5py.File]:
    """Create an HDF5 file in an existing file; bytes that HDF5 does not write stay as they are."""
    with path.open("r+b") as content, h5py.File(_PreservingFile(content), "w") as file:
        yield file


def _create_row_datasets(
    file: h5py.File, count: int, size: tuple[int, int], kinds: Sequence[str], per_dataset: int
) -> tuple[tuple[int, ...], ...]:
    """Allocate the datasets of images and masks without writing content; return where each begins.

    Nothing may be created before them, because their places would depend on it.
    """
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    starts = []
    for number, first in enumerate(range(0, count, per_dataset)):
        shape = (min(per_dataset, count - first), *size, 1)
        datasets = [
            file.create_dataset(f"{name}_{number}", shape, kind, dcpl=settings)
            for name, kind in zip(("images", "ann"), kinds, strict=False)
        ]
        starts.append(tuple(dataset.id.get_offset() for dataset in datasets))
    return tuple(starts)


def _metadata_size(rows: ImageMetadata, layout: Layout) -> int:
    """Return an upper bound of the bytes of everything but the rows."""
    strings = [texts or [""] for texts in (rows.ids, rows.patients, rows.views, rows.sexes)]
    longest = sum(max(len(text.encode()) for text in texts) for texts in strings)
    datasets = len(COLUMNS) * len(layout.starts)
    runs = 24 * sum(map(len, rows.runs))
    return layout.count * (longest + 11) + runs + datasets * _OVERHEAD


def _create_metadata(
    file: h5py.File, rows: ImageMetadata, layout: Layout, attributes: Mapping[str, str | int | float]
) -> None:
    """Create the attributes and all datasets but those of images and masks."""
    storage = layout.kinds[0]
    ours: dict[str, str | int | float] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "storage": storage,
        "height": layout.size[0],
        "width": layout.size[1],
        "images": layout.count,
        "annotated": rows.positive is not None,
    }
    set_attributes(file, {**attributes, **ours})
    for number in range(len(layout.starts)):
        if storage == "uint8":
            file[f"images_{number}"].attrs["scale"] = SCALE
        part = slice(number * layout.per_dataset, (number + 1) * layout.per_dataset)
        _create_metadata_datasets(file, number, part, rows)


def _create_metadata_datasets(file: h5py.File, number: int, part: slice, rows: ImageMetadata) -> None:
    """Create and fill the datasets of one number that hold metadata."""
    create_strings(file, f"ids_{number}", rows.ids[part])
    if rows.patients:
        create_strings(file, f"patients_{number}", rows.patients[part])
    for name, texts in (("views", rows.views), ("sexes", rows.sexes)):
        if any(texts):
            create_strings(file, f"{name}_{number}", texts[part])
    if rows.ages is not None and (rows.ages >= 0).any():
        file.create_dataset(f"ages_{number}", data=rows.ages[part].astype(np.int16))
    file.create_dataset(f"sizes_{number}", data=rows.sizes[part].astype(np.int32))
    if rows.positive is None:
        return
    file.create_dataset(f"positive_{number}", data=rows.positive[part].astype(np.uint8))
    if rows.runs:
        runs = [np.insert(runs, 0, place, axis=1) for place, runs in enumerate(rows.runs[part])]
        file.create_dataset(f"runs_{number}", data=np.concatenate([np.empty((0, 3), np.int64), *runs]))
