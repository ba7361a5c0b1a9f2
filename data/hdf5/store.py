"""The file between preprocessing and training (`pneumothorax.h5`).

Promises: `write` produces and `Store` reads this contract, and `Store.open` refuses any file that
breaks it, naming the file, the dataset, what it found and what it expected.

    images_<n>    (k, H, W, 1)  float32 in [0, 1], or uint8 with the attribute `scale` (value / scale)
    ann_<n>       (k, H, W, 1)  uint8 in {0, 1}
    ids_<n>       (k,)          UTF-8 strings: image ids
    sizes_<n>     (k, 2)        int32: height and width of the original image
    positive_<n>  (k,)          uint8: the annotation at the original size is not empty
    patients_<n>  (k,)          UTF-8 strings: equal for images of one patient, "" where that is unknown
    runs_<n>      (m, 3)        int64: the annotations at the original size, run by run

A row of `runs_<n>` is an image's place in `images_<n>`, then the indices of a run's first pixel and of the
first one after it, column by column as in `data.annotations.rle`; rows ascend and runs neither overlap nor
touch. It is what `ann_<n>` was made from, and what a score at the original size is counted against.

What a patient is called tells nothing about the person. By default it is a number, counted in the order
in which patients first appear: as good as a hash whose key was thrown away, and the same whenever the
file is made anew. With a key that the user keeps it is a keyed hash
(`data.radiographs.headers.patient_hash`), so that patients can be found again in other files made with the
same key.

A file of images without annotations says so (attribute `annotated`: false) and has neither `ann_<n>`,
`positive_<n>` nor `runs_<n>`, rather than empty masks, which would claim that nobody is ill. It can be read
for prediction; whoever asks it for masks or positives gets a `UserError`.

`n` counts from 0 without gaps; k is the same in all datasets but the last, which may be shorter. The
layout is contiguous: image by image into a prepared batch that reads fastest (4800 images/s of
384x384 against 70 with fancy indexing on chunks). A file with only `images_<n>` and `ann_<n>` is read
too: its ids are "0", "1", …, and what is positive is found by looking.
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
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.programs import command_line
from core.files.system_errors import explain_os_errors
from data.annotations import rle
from data.hdf5.row_layout import Layout, RowFile
from data.hdf5.row_reader import RowReader

FORMAT = "pneumoseg-data"
FORMAT_VERSION = 3
SCALE = 255.0
"""What uint8 storage divides by."""

GREATEST_SIZE = 8192
"""Of a stored image's height and width, in pixels; `preprocess` writes no larger ones."""

LOCKING = False
"""Whether HDF5 locks files. Ours are complete when they get their names, and `core.files.locks` keeps other
writers away. HDF5's "best-effort" still fails where a file system says ENOLCK or EOPNOTSUPP instead of
ENOSYS."""

DAMAGE = (KeyError, OSError, RuntimeError, TypeError, ValueError)
"""What h5py raises when it meets damage in a file."""

_LARGEST_ATTRIBUTE = 1 << 16  # bytes; ours have less than a hundred
_PLAIN_CLASSES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM)
_GREATEST_BYTE = 255
_BITS_OF_ONE = int(np.float32(1).view(np.uint32))
_OVERHEAD = 4096  # bytes of HDF5's own for a dataset, more than enough
COLUMNS = ("images", "ann", "ids", "sizes", "positive", "patients", "runs")
_NUMBERED = re.compile(rf"({'|'.join(COLUMNS)})_(0|[1-9][0-9]{{0,8}})")


@dataclass(frozen=True)
class ImageMetadata:
    """What is known about some images besides their pixels.

    Attributes:
        ids: Image ids.
        sizes: (k, 2) int32, original height and width.
        positive: (k,) bool; None if nothing is known about any (there are no masks either).
        patients: Names of their patients, "" where unknown; none at all if no patient is known.
        runs: For each image the runs of its annotation at the original size, (m, 2) as of
            `data.annotations.rle.union`; none at all if nothing is annotated.
    """

    ids: Sequence[str]
    sizes: NDArray[np.int32]
    positive: NDArray[np.bool_] | None
    patients: Sequence[str] = ()
    runs: Sequence[NDArray[np.int64]] = ()


def lay_out(
    scratch: Path, count: int, size: tuple[int, int], kinds: Sequence[str], per_dataset: int
) -> Layout:
    """Where the rows of a file will lie, which depends on nothing else than these.

    Args:
        scratch: A file for HDF5 to try it out in, replaced if it is there; next to nothing is written.
        count: Rows of the file.
        size: Height and width of the stored images.
        kinds: Type of the images, "float32" or "uint8", and of the masks ("uint8") if there are any.
        per_dataset: Images in each dataset but the last.

    Raises:
        OSError: The operating system refused.
    """
    scratch.write_bytes(b"")
    with _around(scratch) as file:
        starts = _create_rows(file, count, size, kinds, per_dataset)
    return Layout(count, per_dataset, size, tuple(kinds), starts, scratch.stat().st_size)


def check_room(path: Path, size: int) -> None:
    """Fail now if the disk has no room for a file of `size` bytes and HDF5's own; what it holds stays.

    HDF5 must not be the one to find out: when its last flush fails, h5py raises from destructors and
    the process may end with a segmentation fault.

    Raises:
        OSError: It has not.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("ab") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size + 4 * _OVERHEAD)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some file systems cannot
                raise


def finish(
    path: Path, rows: ImageMetadata, layout: Layout, attributes: Mapping[str, str | int | float]
) -> int:
    """Make a file of rows that are at their places a file of the contract.

    Everything else is written around them; should that be interrupted, the rows are as they were.

    Args:
        path: The file, in which all of the layout's rows have been put.
        rows: What is known about them besides.
        layout: Where they are.
        attributes: Attributes of the file besides those of the format.

    Returns:
        The number of datasets of images.

    Raises:
        OSError: The operating system refused (the disk is full, say).
    """
    with system_errors():
        check_room(path, layout.end + _length_of_the_rest(rows, layout))
        with _around(path) as file:
            starts = _create_rows(file, layout.count, layout.size, layout.kinds, layout.per_dataset)
            if starts != layout.starts:
                raise RuntimeError("HDF5 has laid the rows out differently than before")
            _create_rest(file, rows, layout, attributes)
    return len(layout.starts)


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
    """Write a file of the contract; the caller sees to it that it appears whole or not at all.

    Args:
        path: The file, replaced if it is there.
        rows: Ids, sizes and positives of all images.
        size: Height and width of the stored images.
        blocks: Images and masks, (m, H, W) each, in the order of `rows`, any m; all in all as many.
            Images alone if `rows.positive` is None.
        per_dataset: Images in each dataset but the last.
        storage: "float32" or "uint8".
        attributes: Attributes of the file besides those of the format.

    Returns:
        The number of datasets of images.

    Raises:
        OSError: The operating system refused (the disk is full, say).
    """
    kinds = [storage] if rows.positive is None else [storage, "uint8"]
    layout = lay_out(path, len(rows.ids), size, kinds, per_dataset)
    check_room(path, layout.end)
    file = RowFile(path, layout)
    try:
        several = (row for block in blocks for row in zip(*block, strict=True))
        for number, row in enumerate(several):
            file.put(number, row)
    finally:
        file.close()
    return finish(path, rows, layout, attributes)


class _Around:
    """A file as HDF5 is shown it: empty at first, so that it makes a new one of it, around what it holds."""

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
def _around(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file made of an existing file, of which it leaves what it does not write itself."""
    with path.open("r+b") as content, h5py.File(_Around(content), "w") as file:
        yield file


def _create_rows(
    file: h5py.File, count: int, size: tuple[int, int], kinds: Sequence[str], per_dataset: int
) -> tuple[tuple[int, ...], ...]:
    """Create the datasets of images and masks, which get their room now but no content; where each begins.

    Nothing may come before them in a file, or their places would depend on it.
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


def _length_of_the_rest(rows: ImageMetadata, layout: Layout) -> int:
    """Bytes that everything but the rows takes, at most."""
    longest = sum(max(len(text.encode()) for text in texts) for texts in (rows.ids, rows.patients or [""]))
    datasets = len(COLUMNS) * len(layout.starts)
    runs = 24 * sum(map(len, rows.runs))
    return layout.count * (longest + 9) + runs + datasets * _OVERHEAD


def _create_rest(
    file: h5py.File, rows: ImageMetadata, layout: Layout, attributes: Mapping[str, str | int | float]
) -> None:
    """Everything but the rows."""
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
        _create_small(file, number, part, rows)


def set_attributes(file: h5py.File, attributes: Mapping[str, str | int | float]) -> None:
    """Attributes of a file; strings are of fixed length: see `attribute`."""
    for name, value in attributes.items():
        file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """What HDF5 raises when the operating system refuses, as the error that it was."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise _os_error(error) from error


def _os_error(error: OSError | RuntimeError) -> OSError:
    """The error of the system behind one of HDF5.

    On a full disk h5py raises RuntimeError while closing, and the system's number is in its text.
    """
    number = re.search(r"errno = (\d+)", str(error))
    if number is None:
        return error if isinstance(error, OSError) else OSError(str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])))


def _create_small(file: h5py.File, number: int, part: slice, rows: ImageMetadata) -> None:
    """Create and fill the datasets of one number that are not of pixels."""
    create_texts(file, f"ids_{number}", rows.ids[part])
    if rows.patients:
        create_texts(file, f"patients_{number}", rows.patients[part])
    file.create_dataset(f"sizes_{number}", data=rows.sizes[part].astype(np.int32))
    if rows.positive is None:
        return
    file.create_dataset(f"positive_{number}", data=rows.positive[part].astype(np.uint8))
    if rows.runs:
        runs = [np.insert(runs, 0, place, axis=1) for place, runs in enumerate(rows.runs[part])]
        file.create_dataset(f"runs_{number}", data=np.concatenate([np.empty((0, 3), np.int64), *runs]))


def create_texts(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    """A column of strings."""
    encoded = [text.encode() for text in texts]
    kind = h5py.string_dtype("utf-8", max(1, *map(len, encoded)))
    file.create_dataset(name, data=np.array(encoded, dtype=kind))


@dataclass(frozen=True)
class _Part:
    """The open datasets of one number, and where its images start."""

    start: int
    images: RowReader
    masks: RowReader | None
    scale: float | None


class Store:
    """An open file of the contract; use as a context manager, or `close` it.

    Attributes:
        path: The file.
        count: Images in it.
        height: Rows of an image.
        width: Columns of an image.
        ids: Image ids, in order.
        sizes: (count, 2) int32, original height and width.
        annotated: Whether there are masks.
        patients: Names of the images' patients, in order; "" where the patient is unknown.
        attributes: The file's attributes, as Python values; what is no single value is left out.
    """

    def __init__(self, path: Path, file: h5py.File, unbuffered: io.FileIO) -> None:
        self.path = path
        self._file, self._bytes = file, unbuffered
        self._parts = _parts(path, file, self._bytes.fileno())
        first, last = self._parts[0], self._parts[-1]
        self._starts = np.array([part.start for part in self._parts], dtype=np.int64)
        self.count: int = last.start + len(last.images)
        self.height, self.width = map(int, first.images.dataset.shape[1:3])
        self.ids = self._read_texts("ids") or tuple(map(str, range(self.count)))
        self.patients = self._read_texts("patients") or ("",) * self.count
        self.sizes = self._read_sizes()
        self.annotated = first.masks is not None
        self._positive = self._read_positive() if self.annotated else None
        self._runs_read: dict[int, NDArray[np.int64]] = {}
        self.attributes = attributes_of(file)

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Which images have an annotation that is not empty, (count,) bool.

        Raises:
            UserError: The file has no annotations.
        """
        if self._positive is None:
            raise _unannotated(self.path)
        return self._positive

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a file and check it against the contract.

        Raises:
            UserError: The file is missing, not HDF5, cut off, or breaks the contract.
        """
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(open_file(path))
            unbuffered = opened.enter_context(io.FileIO(path))
            try:
                store = cls(path, file, unbuffered)
            except BaseException as error:
                raise _damaged(path, error) from error
            opened.pop_all()
        return store

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._file.close()
        self._bytes.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(
        self,
        indices: NDArray[np.int64],
        images_out: NDArray[np.float32],
        masks_out: NDArray[np.uint8] | None,
    ) -> None:
        """Read some images, and their masks if wanted, in the order of the indices.

        Args:
            indices: (k,) integers from 0 to count - 1; repetition is allowed.
            images_out: (k, H, W, 1) float32, C order; filled with values in [0, 1].
            masks_out: (k, H, W, 1) uint8, C order; filled with 0 and 1. None reads no masks.

        Raises:
            IndexError: An index that is not in the file.
            UserError: The file can no longer be read, or masks are wanted and it has none.
        """
        if masks_out is not None and not self.annotated:
            raise _unannotated(self.path)
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.count:
            raise IndexError(f"indices from {wanted.min()} to {wanted.max()} of {self.count} images")
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        raw = np.empty((self.height, self.width, 1), dtype=np.uint8)
        try:
            for row, (index, number) in enumerate(zip(wanted.tolist(), numbers.tolist(), strict=True)):
                part = self._parts[number]
                if part.masks is not None and masks_out is not None:
                    part.masks.read(index - part.start, masks_out[row])
                    self._check_mask(masks_out[row])
                if part.scale is None:
                    part.images.read(index - part.start, images_out[row])
                    self._check_image(images_out[row])
                else:
                    part.images.read(index - part.start, raw)
                    np.divide(raw, np.float32(part.scale), out=images_out[row], dtype=np.float32)
                    if part.scale < _GREATEST_BYTE:
                        self._check_image(images_out[row])
        except Exception as error:
            raise _damaged(self.path, error) from error

    def truth(self, index: int) -> NDArray[np.uint8]:
        """The annotation of an image at its original size.

        Args:
            index: From 0 to count - 1.

        Returns:
            (height, width) uint8 in {0, 1}, as `sizes` says.

        Raises:
            IndexError: An index that is not in the file.
            UserError: The file has no annotations, or not at the original size (it was made by an older
                version), or is damaged.
        """
        if self._positive is None:
            raise _unannotated(self.path)
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} of {self.count} images")
        height, width = map(int, self.sizes[index])
        if not self._complete("runs"):
            return self._stored_truth(index, height, width)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        runs = self._runs(number)
        first, last = np.searchsorted(runs[:, 0], index - self._starts[number] + np.arange(2))
        try:
            return rle.draw(runs[first:last, 1:], height, width)
        except rle.RleError as error:
            raise _broken(
                self.path, f"runs_{number}", f"{error} (image {index})", "runs of its mask"
            ) from error

    def _stored_truth(self, index: int, height: int, width: int) -> NDArray[np.uint8]:
        """The annotation of a file without runs: known where the image was not resized."""
        if (height, width) != (self.height, self.width):
            raise UserError(
                f"{self.path} has its annotations only at {self.height}x{self.width} pixels, but image "
                f"{self.ids[index]} has {height}x{width}; scores are counted at the original size.",
                _how_to_make_one(),
            )
        mask = np.empty((1, height, width, 1), dtype=np.uint8)
        self.read(np.array([index]), np.empty(mask.shape, dtype=np.float32), mask)
        return mask[0, ..., 0]

    def _runs(self, number: int) -> NDArray[np.int64]:
        """All of `runs_<n>`, read once."""
        if number not in self._runs_read:
            dataset = checked_dataset(self.path, self._file, f"runs_{number}", (None, 3), least=0)
            if dataset.dtype != np.int64 or dataset.nbytes > self.path.stat().st_size:
                found = f"{len(dataset)} runs of type {dataset.dtype}"
                raise _broken(self.path, f"runs_{number}", found, "int64, and no more than fit into the file")
            try:
                runs: NDArray[np.int64] = dataset[:]
            except DAMAGE as error:
                raise _damaged(self.path, error) from error
            self._runs_read[number] = runs
        return self._runs_read[number]

    def _check_image(self, image: NDArray[np.float32]) -> None:
        """Refuse what only a damaged file holds; in a loss it would be seen much later, if at all.

        As whole numbers, the bits of the numbers from 0 to 1 are the smallest: their maximum tells of others.
        """
        if image.view(np.uint32).max() > _BITS_OF_ONE and not (image.min() >= 0 and image.max() <= 1):
            raise self._damaged_values("images", image)

    def _check_mask(self, mask: NDArray[np.uint8]) -> None:
        """Likewise."""
        if mask.max() > 1:
            raise self._damaged_values("masks", mask)

    def _damaged_values(self, name: str, values: NDArray[Any]) -> UserError:
        found = f"values from {values.min()} to {values.max()}"
        return UserError(f"{self.path} is damaged: {name} with {found}.", _how_to_make_one())

    def _read_texts(self, name: str) -> tuple[str, ...]:
        """An optional column of strings, () if the file has none."""
        if not self._complete(name):
            return ()
        found: list[str] = []
        for number, part in enumerate(self._parts):
            dataset = self._column(name, number, (len(part.images),))
            if h5py.check_string_dtype(dataset.dtype) is None:
                raise _broken(self.path, f"{name}_{number}", f"type {dataset.dtype}", "strings")
            found.extend(dataset.asstr(errors="replace")[:])
        return tuple(found)

    def _read_sizes(self) -> NDArray[np.int32]:
        if not self._complete("sizes"):
            return np.tile(np.array([[self.height, self.width]], dtype=np.int32), (self.count, 1))
        found = [
            self._column("sizes", number, (len(part.images), 2))[:] for number, part in enumerate(self._parts)
        ]
        sizes: NDArray[np.int32] = np.concatenate(found).astype(np.int32)
        return sizes

    def _read_positive(self) -> NDArray[np.bool_]:
        if self._complete("positive"):
            found = [
                self._column("positive", number, (len(part.images),))[:]
                for number, part in enumerate(self._parts)
            ]
            positive: NDArray[np.bool_] = np.concatenate(found).astype(bool)
            return positive
        greatest = []
        for number, part in enumerate(self._parts):
            assert part.masks is not None
            for mask in part.masks.dataset:
                value = int(mask.max(initial=0))
                if value > 1:
                    raise _broken(self.path, f"ann_{number}", f"the value {value}", "0 and 1 only")
                greatest.append(value)
        return np.array(greatest, dtype=bool)

    def _complete(self, name: str) -> bool:
        """Whether the file has this optional column (then it must have all of it)."""
        return f"{name}_0" in self._file

    def _column(self, name: str, number: int, shape: tuple[int, ...]) -> h5py.Dataset:
        return checked_dataset(self.path, self._file, f"{name}_{number}", shape)


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file to read, whatever is in it.

    Raises:
        UserError: The file is missing, not HDF5, or cut off.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"the data file {path} {what}.", _how_to_make_one())
    with explain_os_errors(path, "read"):
        path.open("rb").close()
    try:
        return h5py.File(path, "r", locking=LOCKING)
    except OSError as error:
        if "unable to lock" in str(error):  # the environment can ask for locks all the same
            hint = "Unset HDF5_USE_FILE_LOCKING, or wait for whoever has the file open."
            raise UserError(f"cannot read {path}: HDF5 cannot lock it: {error}.", hint) from error
        raise UserError(f"{path} is not a whole HDF5 file: {error}.", _how_to_make_one()) from error


def numbers_of(path: Path, file: h5py.File) -> dict[str, set[int]]:
    """The numbers that the file's datasets bear, by name ("images", "ann", ...).

    Raises:
        UserError: There are no images: this is some other file.
    """
    numbers: dict[str, set[int]] = {name: set() for name in COLUMNS}
    try:
        keys = [str(key) for key in file]  # a name that is no UTF-8 comes as bytes
    except DAMAGE as error:
        raise UserError(f"{path} is damaged: {error}.", _how_to_make_one()) from error
    for key in keys:
        match = _NUMBERED.fullmatch(key)
        if match:
            numbers[match[1]].add(int(match[2]))
    if not numbers["images"]:
        found = ", ".join(sorted(keys)[:8]) or "nothing"
        raise _broken(path, "images_0", f"no such dataset (the file has {found})", "it")
    return numbers


def _parts(path: Path, file: h5py.File, number_of_file: int) -> list[_Part]:
    """The image and mask datasets of a file, checked."""
    numbers = numbers_of(path, file)
    annotated = is_annotated(file)
    if not annotated and numbers["ann"]:
        raise _broken(path, f"ann_{min(numbers['ann'])}", "masks", "none, as 'annotated' is false")
    parts: list[_Part] = []
    start, shape = 0, (None, None, None, 1)
    for number in range(max(numbers["images"] | numbers["ann"]) + 1):
        images = checked_dataset(path, file, f"images_{number}", shape)
        masks = checked_dataset(path, file, f"ann_{number}", images.shape) if annotated else None
        if masks is not None and masks.dtype != np.uint8:
            raise _broken(path, f"ann_{number}", f"type {masks.dtype}", "uint8")
        columns = (
            RowReader(images, number_of_file),
            None if masks is None else RowReader(masks, number_of_file),
        )
        parts.append(_Part(start, *columns, scale_of(path, number, images)))
        start, shape = start + len(images), (None, *images.shape[1:])
    return parts


def is_annotated(file: h5py.File) -> bool:
    """Whether a file is meant to have masks: it is unless it says that it is not."""
    return attribute(file, "annotated") is not False


def attributes_of(file: h5py.File) -> dict[str, Any]:
    """The attributes of a file that are single values, as Python values."""
    try:
        names = [str(name) for name in file.attrs]
    except DAMAGE:
        return {}
    found = {name: attribute(file, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def attribute(of: h5py.File | h5py.Dataset, name: str) -> Any:
    """An attribute that is one number, truth value or string of fixed length; None if there is none such.

    Strings of variable length lie in HDF5's global heap, and HDF5 reads a damaged heap for ever; an
    array may claim to be huge. Neither is read.
    """
    try:
        attribute_id = of.attrs.get_id(name)
        kind = attribute_id.get_type()
        if attribute_id.shape != () or kind.get_size() > _LARGEST_ATTRIBUTE:
            return None
        variable = isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()
        if kind.get_class() not in _PLAIN_CLASSES or variable:
            return None
        value = of.attrs[name]
        value = value.item() if isinstance(value, np.generic) else value
        return value.decode() if isinstance(value, bytes) else value
    except DAMAGE:
        return None


def checked_dataset(
    path: Path, file: h5py.File, name: str, shape: tuple[int | None, ...], least: int = 1
) -> h5py.Dataset:
    """A dataset of a shape; None stands for any length from `least` on.

    Raises:
        UserError: There is none of that name, or it has another shape.
    """
    expected = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
    try:
        dataset = file.get(name)
        getattr(dataset, "dtype", None)  # damaged ones raise here
    except DAMAGE as error:
        raise _broken(path, name, f"damage ({error})", f"shape {expected}") from error
    if not isinstance(dataset, h5py.Dataset):
        found = "no such dataset" if dataset is None else "something else than a dataset"
        raise _broken(path, name, found, f"shape {expected}")
    actual = dataset.shape
    fits = actual is not None and len(actual) == len(shape)
    if not fits or any(
        n < least if want is None else n != want for n, want in zip(actual, shape, strict=True)
    ):
        raise _broken(path, name, f"shape {actual}", f"shape {expected}")
    return dataset


def scale_of(path: Path, number: int, images: h5py.Dataset) -> float | None:
    """The scale of uint8 images, None for float32 ones.

    Raises:
        UserError: The images are of another type, or lack a scale.
    """
    if images.dtype == np.float32:
        return None
    if images.dtype != np.uint8:
        raise _broken(path, f"images_{number}", f"type {images.dtype}", "float32 or uint8")
    scale = attribute(images, "scale")
    if not isinstance(scale, (int, float)) or not 0 < scale < np.inf:
        raise _broken(path, f"images_{number}", "uint8 without a scale", "an attribute 'scale' > 0")
    return float(scale)


def _damaged(path: Path, error: BaseException) -> BaseException:
    """What to raise for an error met in an open file: h5py raises anything over damaged ones."""
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return error
    return UserError(f"{path} is damaged: {type(error).__name__}: {error}.", _how_to_make_one())


def _how_to_make_one() -> str:
    options = ("--images", "dicom-images-train", "--annotations", "train-rle.csv")
    return f"Make one with: {command_line('preprocess', *options)}"


def _broken(path: Path, name: str, found: str, expected: str) -> UserError:
    return UserError(f"{path}, dataset {name}: found {found}, expected {expected}.", _how_to_make_one())


def _unannotated(path: Path) -> UserError:
    return UserError(
        f"{path} has images without annotations (it was made with --no-annotations): they can be "
        "predicted on, but neither trained on nor scored.",
        _how_to_make_one(),
    )
