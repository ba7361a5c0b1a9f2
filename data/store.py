"""The file between preprocessing and training (`pneumothorax.h5`).

Promises: `write` produces and `Store` reads this contract, and `Store.open` refuses any file that
breaks it, naming the file, the dataset, what it found and what it expected.

    images_<n>    (k, H, W, 1)  float32 in [0, 1], or uint8 with the attribute `scale` (value / scale)
    ann_<n>       (k, H, W, 1)  uint8 in {0, 1}
    ids_<n>       (k,)          UTF-8 strings: image ids
    sizes_<n>     (k, 2)        int32: height and width of the original image
    positive_<n>  (k,)          uint8: the annotation at the original size is not empty

`n` counts from 0 without gaps; k is the same in all datasets but the last, which may be shorter. The
layout is contiguous: image by image into a prepared batch that reads fastest (4800 images/s of
384x384 against 70 with fancy indexing on chunks). A file with only `images_<n>` and `ann_<n>` is read
too: its ids are "0", "1", …, and what is positive is found by looking.
"""

from __future__ import annotations

import errno
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

from core.errors import UserError
from core.files import explained

FORMAT = "pneumoseg-data"
FORMAT_VERSION = 1
SCALE = 255.0
"""What uint8 storage divides by."""

_MAKE_ONE = "Make one with: python preprocess.py --images dicom-images-train --annotations train-rle.csv"
_OVERHEAD = 4096  # bytes of HDF5's own for a dataset, more than enough
_NUMBERED = re.compile(r"(images|ann|ids|sizes|positive)_(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Rows:
    """What is known about some images besides their pixels.

    Attributes:
        ids: Image ids.
        sizes: (k, 2) int32, original height and width.
        positive: (k,) bool.
    """

    ids: Sequence[str]
    sizes: NDArray[np.int32]
    positive: NDArray[np.bool_]


def write(
    path: Path,
    rows: Rows,
    size: tuple[int, int],
    blocks: Iterator[tuple[NDArray[Any], NDArray[np.uint8]]],
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
        per_dataset: Images in each dataset but the last.
        storage: "float32" or "uint8".
        attributes: Attributes of the file besides those of the format.

    Returns:
        The number of datasets of images.

    Raises:
        OSError: The operating system refused (the disk is full, say).
    """
    try:
        _reserve(path, rows, size, per_dataset, storage)
        return _write(path, rows, size, blocks, per_dataset, storage, attributes)
    except (OSError, RuntimeError) as error:
        raise _os_error(error) from error


def _reserve(path: Path, rows: Rows, size: tuple[int, int], per_dataset: int, storage: str) -> None:
    """Fail now if the disk has no room for the file.

    HDF5 must not be the one to find out: when its last flush fails, h5py raises from destructors and
    the process may end with a segmentation fault.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    count = len(rows.ids)
    pixels = size[0] * size[1] * (np.dtype(storage).itemsize + 1)
    longest = max(len(image_id.encode()) for image_id in rows.ids)
    datasets = 5 * -(-count // per_dataset)
    total = count * (pixels + longest + 9) + datasets * _OVERHEAD + 4 * _OVERHEAD
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, total)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some file systems cannot
                raise


def _write(
    path: Path,
    rows: Rows,
    size: tuple[int, int],
    blocks: Iterator[tuple[NDArray[Any], NDArray[np.uint8]]],
    per_dataset: int,
    storage: str,
    attributes: Mapping[str, str | int | float],
) -> int:
    count = len(rows.ids)
    with h5py.File(path, "w") as file:
        texts: dict[str, str | int | float] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "storage": storage,
        }
        file.attrs.update({name: _fixed(value) for name, value in {**attributes, **texts}.items()})
        file.attrs.update(height=size[0], width=size[1], images=count)
        starts = range(0, count, per_dataset)
        pairs = []
        for number, start in enumerate(starts):
            part = slice(start, min(start + per_dataset, count))
            pairs.append(_create(file, number, part, rows, size, storage))
        _fill(pairs, per_dataset, blocks)
    return len(starts)


def _fixed(value: str | int | float) -> Any:
    """An attribute's value, a text as a string of fixed length.

    One of variable length lies in a heap of the file's, and over a damaged heap HDF5 hangs or crashes.
    """
    if not isinstance(value, str):
        return value
    content = value.encode()
    return np.array(content, dtype=h5py.string_dtype("utf-8", max(len(content), 1)))


def _os_error(error: OSError | RuntimeError) -> OSError:
    """The error of the system behind one of HDF5.

    On a full disk h5py raises RuntimeError while closing, and the system's number is in its text.
    """
    number = re.search(r"errno = (\d+)", str(error))
    if number is None:
        return error if isinstance(error, OSError) else OSError(str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])))


def _create(
    file: h5py.File, number: int, part: slice, rows: Rows, size: tuple[int, int], storage: str
) -> tuple[h5py.Dataset, h5py.Dataset]:
    """Create the datasets of one number, and fill the small ones."""
    shape = (part.stop - part.start, *size, 1)
    images = file.create_dataset(f"images_{number}", shape, storage)
    if storage == "uint8":
        images.attrs["scale"] = SCALE
    masks = file.create_dataset(f"ann_{number}", shape, "uint8")
    ids = [image_id.encode() for image_id in rows.ids[part]]
    kind = h5py.string_dtype("utf-8", max(map(len, ids)))
    file.create_dataset(f"ids_{number}", data=np.array(ids, dtype=kind))
    file.create_dataset(f"sizes_{number}", data=rows.sizes[part].astype(np.int32))
    file.create_dataset(f"positive_{number}", data=rows.positive[part].astype(np.uint8))
    return images, masks


def _fill(
    pairs: Sequence[tuple[h5py.Dataset, h5py.Dataset]],
    per_dataset: int,
    blocks: Iterator[tuple[NDArray[Any], NDArray[np.uint8]]],
) -> None:
    """Spread the blocks over the datasets."""
    position = 0
    for block in blocks:
        taken = 0
        while taken < len(block[0]):
            number, offset = divmod(position, per_dataset)
            length = min(len(block[0]) - taken, per_dataset - offset)
            for dataset, values in zip(pairs[number], block, strict=True):
                dataset[offset : offset + length] = values[taken : taken + length, ..., None]
            taken, position = taken + length, position + length


@dataclass(frozen=True)
class _Part:
    """The open datasets of one number, and where its images start."""

    start: int
    images: h5py.Dataset
    masks: h5py.Dataset
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
        positive: (count,) bool.
        attributes: The file's attributes that are numbers or texts, as Python values.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        self._parts = _parts(path, file)
        first, last = self._parts[0], self._parts[-1]
        self._starts = np.array([part.start for part in self._parts], dtype=np.int64)
        self.count: int = last.start + len(last.images)
        self.height, self.width = map(int, first.images.shape[1:3])
        self.ids = self._read_ids()
        self.sizes = self._read_sizes()
        self.positive = self._read_positive()
        self.attributes: dict[str, Any] = _attributes(file)

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a file and check it against the contract.

        Raises:
            UserError: The file is missing, not HDF5, cut off, or breaks the contract.
        """
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise UserError(f"the data file {path} {what}.", _MAKE_ONE)
        with explained(path, "read"):
            path.open("rb").close()
        try:
            # Best effort: some network and read-only file systems cannot lock.
            file = h5py.File(path, "r", locking="best-effort")
        except OSError as error:
            raise UserError(f"{path} is not a whole HDF5 file: {error}.", _MAKE_ONE) from error
        try:
            return cls(path, file)
        except BaseException as error:
            file.close()
            raise _damaged(path, error) from error

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._file.close()

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
        masks_out: NDArray[np.uint8],
    ) -> None:
        """Read some images and masks, in the order of the indices.

        Args:
            indices: (k,) integers from 0 to count - 1; repetition is allowed.
            images_out: (k, H, W, 1) float32, C order; filled with values in [0, 1].
            masks_out: (k, H, W, 1) uint8, C order; filled with 0 and 1.

        Raises:
            IndexError: An index that is not in the file.
            UserError: The file can no longer be read.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.count:
            raise IndexError(f"indices from {wanted.min()} to {wanted.max()} of {self.count} images")
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        raw = np.empty((1, self.height, self.width, 1), dtype=np.uint8)
        try:
            for row, (index, number) in enumerate(zip(wanted.tolist(), numbers.tolist(), strict=True)):
                part = self._parts[number]
                source = np.s_[index - part.start : index - part.start + 1]
                part.masks.read_direct(masks_out, source, np.s_[row : row + 1])
                if part.scale is None:
                    part.images.read_direct(images_out, source, np.s_[row : row + 1])
                else:
                    part.images.read_direct(raw, source)
                    scale = np.float32(part.scale)
                    np.divide(raw[0], scale, out=images_out[row], dtype=np.float32)
        except Exception as error:
            raise _damaged(self.path, error) from error
        self._check_values(images_out, masks_out)

    def _check_values(self, images: NDArray[np.float32], masks: NDArray[np.uint8]) -> None:
        """Refuse what only a damaged file holds; in a loss it would be seen much later, if at all."""
        for name, values in (("images", images), ("masks", masks)):
            if values.size and not (values.min() >= 0 and values.max() <= 1):  # nor for a NaN
                found = f"values from {values.min()} to {values.max()}"
                raise UserError(f"{self.path} is damaged: {name} with {found}.", _MAKE_ONE)

    def _read_ids(self) -> tuple[str, ...]:
        if not self._complete("ids"):
            return tuple(map(str, range(self.count)))
        found: list[str] = []
        for number, part in enumerate(self._parts):
            dataset = self._column("ids", number, (len(part.images),))
            if h5py.check_string_dtype(dataset.dtype) is None:
                raise _broken(self.path, f"ids_{number}", f"type {dataset.dtype}", "strings")
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
            for index in range(len(part.masks)):
                value = int(part.masks[index].max(initial=0))
                if value > 1:
                    raise _broken(self.path, f"ann_{number}", f"the value {value}", "0 and 1 only")
                greatest.append(value)
        return np.array(greatest, dtype=bool)

    def _complete(self, name: str) -> bool:
        """Whether the file has this optional column (then it must have all of it)."""
        return f"{name}_0" in self._file

    def _column(self, name: str, number: int, shape: tuple[int, ...]) -> h5py.Dataset:
        return _dataset(self.path, self._file, f"{name}_{number}", shape)


def _attributes(item: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """The numbers and texts among the attributes.

    Others are not ours, and HDF5 may crash over what damage has made one (an array of arrays, say).
    """
    found = {}
    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        plain = attribute.dtype.kind in "biufS" or h5py.check_string_dtype(attribute.dtype) is not None
        if attribute.shape == () and plain:
            value = item.attrs[name]
            value = value.item() if isinstance(value, np.generic) else value
            found[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found


def _parts(path: Path, file: h5py.File) -> list[_Part]:
    """The image and mask datasets of a file, checked."""
    numbers: dict[str, set[int]] = {"images": set(), "ann": set()}
    for key in file:
        match = _NUMBERED.fullmatch(key)
        if match and match[1] in numbers:
            numbers[match[1]].add(int(match[2]))
    if not numbers["images"]:
        found = ", ".join(sorted(map(str, file))[:8]) or "nothing"
        raise _broken(path, "images_0", f"no such dataset (the file has {found})", "it")
    parts: list[_Part] = []
    start, shape = 0, (None, None, None, 1)
    for number in range(max(numbers["images"] | numbers["ann"]) + 1):
        images = _dataset(path, file, f"images_{number}", shape)
        masks = _dataset(path, file, f"ann_{number}", images.shape)
        parts.append(_Part(start, images, masks, _check_types(path, number, images, masks)))
        start, shape = start + len(images), (None, *images.shape[1:])
    return parts


def _dataset(path: Path, file: h5py.File, name: str, shape: tuple[int | None, ...]) -> h5py.Dataset:
    """A dataset of a shape; None stands for any length above zero."""
    expected = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
    try:
        dataset = file.get(name)
    except (KeyError, OSError, RuntimeError) as error:  # what h5py raises on damaged files
        raise _broken(path, name, f"damage ({error})", f"shape {expected}") from error
    if not isinstance(dataset, h5py.Dataset):
        found = "no such dataset" if dataset is None else "something else than a dataset"
        raise _broken(path, name, found, f"shape {expected}")
    actual = dataset.shape
    fits = actual is not None and len(actual) == len(shape)
    if not fits or any(n < 1 if want is None else n != want for n, want in zip(actual, shape, strict=True)):
        raise _broken(path, name, f"shape {actual}", f"shape {expected}")
    return dataset


def _check_types(path: Path, number: int, images: h5py.Dataset, masks: h5py.Dataset) -> float | None:
    """The scale of uint8 images, None for float32 ones."""
    if masks.dtype != np.uint8:
        raise _broken(path, f"ann_{number}", f"type {masks.dtype}", "uint8")
    if images.dtype == np.float32:
        return None
    if images.dtype != np.uint8:
        raise _broken(path, f"images_{number}", f"type {images.dtype}", "float32 or uint8")
    try:
        scale = float(_attributes(images)["scale"])
    except (KeyError, TypeError, ValueError):
        scale = 0.0
    if not scale > 0:
        raise _broken(path, f"images_{number}", "uint8 without a scale", "an attribute 'scale' > 0")
    return scale


def _damaged(path: Path, error: BaseException) -> BaseException:
    """What to raise for an error met in an open file: h5py raises anything over damaged ones."""
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return error
    return UserError(f"{path} is damaged: {type(error).__name__}: {error}.", _MAKE_ONE)


def _broken(path: Path, name: str, found: str, expected: str) -> UserError:
    return UserError(f"{path}, dataset {name}: found {found}, expected {expected}.", _MAKE_ONE)
