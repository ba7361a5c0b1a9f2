"""Reading of data files in the format of `data.hdf5.file_format`.

`Store.open` refuses a file that breaks the format: the error names the file, the dataset, what was found and
what was expected. It checks names, shapes and types; `data.hdf5.verification` checks every value.
"""

from __future__ import annotations

import contextlib
import copy
import io
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from core.base.byte_images import WHITE, Images
from core.base.errors import UserError
from data.annotations import rle
from data.hdf5.file_format import (
    CLAHE,
    READ_ERRORS,
    checked_dataset,
    damage_error,
    dataset_numbers,
    equalization,
    format_error,
    image_scale,
    is_annotated,
    no_annotations_error,
    open_file,
    preprocess_hint,
    read_attributes,
)
from data.hdf5.row_reader import RowReader
from data.radiographs.resize import resize_image, resize_mask

_BITS_OF_ONE = int(np.float32(1).view(np.uint32))


@dataclass(frozen=True)
class _Part:
    """The open datasets of one number.

    Attributes:
        start: Index in the file of their first image.
        images: Reader of `images_<n>`.
        masks: Reader of `ann_<n>`; None without annotations.
        scale: Divisor of uint8 images; None for float32.
    """

    start: int
    images: RowReader
    masks: RowReader | None
    scale: float | None


class _Row(NamedTuple):
    """Memory for an image as it is stored (bytes, or float32) and its mask, (H, W, 1) each."""

    bytes: NDArray[np.uint8]
    image: NDArray[np.float32]
    mask: NDArray[np.uint8]


class Store:
    """An open data file. Use it as a context manager, or `close` it.

    Attributes:
        path: The file.
        count: Images in it.
        height: Rows of an image.
        width: Columns of an image.
        ids: Image ids, in order.
        sizes: (count, 2) int32, original height and width.
        annotated: Whether there are masks.
        patients: Names of the images' patients, in order; "" where the patient is unknown.
        clahe: How the images were equalised; None if they were not.
        views: The images' views, in order; "" where unknown. See `data.hdf5.file_format`, also for the next.
        sexes: The patients' sexes, in order; "" where unknown.
        ages: (count,) int16, the patients' ages in years; -1 where unknown.
        attributes: The file's attributes as Python values; only those that are single values.
    """

    def __init__(self, path: Path, file: h5py.File, unbuffered: io.FileIO) -> None:
        self.path = path
        self._file, self._bytes = file, unbuffered
        self._parts = _open_datasets(path, file, self._bytes.fileno())
        first, last = self._parts[0], self._parts[-1]
        self._starts = np.array([part.start for part in self._parts], dtype=np.int64)
        self.count: int = last.start + len(last.images)
        self.height, self.width = map(int, first.images.dataset.shape[1:3])
        self.ids = self._read_strings("ids") or tuple(map(str, range(self.count)))
        self.patients = self._read_strings("patients") or ("",) * self.count
        self.views = self._read_strings("views") or ("",) * self.count
        self.sexes = self._read_strings("sexes") or ("",) * self.count
        self.ages = self._read_ages()
        self.sizes = self._read_sizes()
        self.annotated = first.masks is not None
        self._positive = self._read_positive() if self.annotated else None
        self._runs_read: dict[int, NDArray[np.int64]] = {}
        self.attributes = read_attributes(file)
        try:
            self.clahe = equalization(self.attributes)
        except ValueError as error:
            found = [self.attributes.get(name) for name in CLAHE]
            raise UserError(
                f"{path}, attributes {' and '.join(CLAHE)}: found {found}, expected {error}.",
                preprocess_hint(),
            ) from error

    @property
    def positive(self) -> NDArray[np.bool_]:
        """The images with an annotation that is not empty, (count,) bool.

        Raises:
            UserError: The file has no annotations.
        """
        if self._positive is None:
            raise no_annotations_error(self.path)
        return self._positive

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a file and check that it keeps the format.

        Raises:
            UserError: The file is missing, not HDF5, cut off, or breaks the format.
        """
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(open_file(path))
            unbuffered = opened.enter_context(io.FileIO(path))
            try:
                store = cls(path, file, unbuffered)
            except BaseException as error:
                raise damage_error(path, error) from error
            opened.pop_all()
        return store

    def at_size(self, height: int, width: int) -> Store:
        """Return the same images and masks, reduced to a size as `data.radiographs.resize` does it.

        Both read the same file, and are closed together. Annotations keep their original size (`truth`).

        Raises:
            UserError: The file's images are smaller, or are equalised, which depends on the size.
        """
        own_height, own_width = self._parts[0].images.dataset.shape[1:3]
        if self.clahe is not None and (height, width) != (own_height, own_width):
            raise UserError(
                f"{self.path} has images that were equalised at {own_height}x{own_width} (--clahe)",
                f"Equalising depends on the size: preprocess to {height}x{width}.",
            )
        if height > own_height or width > own_width:
            raise UserError(
                f"{self.path} has images of {own_height}x{own_width}, smaller than {height}x{width}",
                f"{preprocess_hint()} --size {height}" if height == width else preprocess_hint(),
            )
        reduced = copy.copy(self)
        reduced.height, reduced.width = height, width
        return reduced

    @property
    def is_in_bytes(self) -> bool:
        """Whether `read` can give bytes: all images are stored so, in the usual scale and at this size."""
        stored = self._parts[0].images.dataset.shape[1:3] == (self.height, self.width)
        return stored and all(part.scale == WHITE for part in self._parts)

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
        images_out: Images,
        masks_out: NDArray[np.uint8] | None,
    ) -> None:
        """Read some images, and their masks if wanted, in the order of the indices.

        Args:
            indices: (k,) integers from 0 to count - 1; repetition is allowed.
            images_out: (k, H, W, 1) float32, C order; filled with values in [0, 1]. It may be uint8 if the
                store `is_in_bytes`, and is then filled with their bytes (`core.base.byte_images`).
            masks_out: (k, H, W, 1) uint8, C order; filled with 0 and 1. None reads no masks.

        Raises:
            IndexError: An index is not in the file.
            UserError: The file cannot be read any more, or masks are asked for and it has none.
            ValueError: Bytes are asked for, and the store is not in bytes.
        """
        if images_out.dtype == np.uint8 and not self.is_in_bytes:
            raise ValueError(f"the images of {self.path} are not bytes")
        if masks_out is not None and not self.annotated:
            raise no_annotations_error(self.path)
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.count:
            raise IndexError(f"indices from {wanted.min()} to {wanted.max()} of {self.count} images")
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        shape = self._parts[0].images.dataset.shape[1:]
        stored = _Row(np.empty(shape, np.uint8), np.empty(shape, np.float32), np.empty(shape, np.uint8))
        is_reduced = shape[:2] != (self.height, self.width)
        try:
            for row, (index, number) in enumerate(zip(wanted.tolist(), numbers.tolist(), strict=True)):
                part, masks = self._parts[number], masks_out
                if part.masks is not None and masks is not None:
                    mask = stored.mask if is_reduced else masks[row]
                    part.masks.read(index - part.start, mask)
                    self._check_mask(mask)
                    if is_reduced:
                        masks[row, ..., 0] = resize_mask(mask[..., 0], self.height, self.width)
                image = stored.image if is_reduced else images_out[row]
                if images_out.dtype == np.uint8:
                    part.images.read(index - part.start, image)
                elif part.scale is None:
                    part.images.read(index - part.start, image)
                    self._check_image(image)
                else:
                    part.images.read(index - part.start, stored.bytes)
                    np.divide(stored.bytes, np.float32(part.scale), out=image, dtype=np.float32)
                    if part.scale < WHITE:
                        self._check_image(image)
                if is_reduced:
                    images_out[row, ..., 0] = resize_image(image[..., 0], self.height, self.width)
        except Exception as error:
            raise damage_error(self.path, error) from error

    def truth(self, index: int) -> NDArray[np.uint8]:
        """Return the annotation of an image at its original size.

        Args:
            index: From 0 to count - 1.

        Returns:
            (height, width) uint8 in {0, 1}; height and width are those in `sizes`.

        Raises:
            IndexError: The index is not in the file.
            UserError: The file has no annotations, or none at the original size (an older version made it),
                or is damaged.
        """
        if self._positive is None:
            raise no_annotations_error(self.path)
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} of {self.count} images")
        height, width = map(int, self.sizes[index])
        if not self._has_column("runs"):
            return self._truth_without_runs(index, height, width)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        runs = self._runs(number)
        first, last = np.searchsorted(runs[:, 0], index - self._starts[number] + np.arange(2))
        try:
            return rle.draw(runs[first:last, 1:], height, width)
        except rle.RleError as error:
            raise format_error(
                self.path, f"runs_{number}", f"{error} (image {index})", "runs of its mask"
            ) from error

    def _truth_without_runs(self, index: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return the annotation from a file without runs: the stored mask, if the image was not resized."""
        stored = self._parts[0].images.dataset.shape[1:3]
        if (height, width) != stored:
            raise UserError(
                f"{self.path} has its annotations only at {stored[0]}x{stored[1]} pixels, but image "
                f"{self.ids[index]} has {height}x{width}; scores are counted at the original size.",
                preprocess_hint(),
            )
        mask = np.empty((1, height, width, 1), dtype=np.uint8)
        self.at_size(height, width).read(np.array([index]), np.empty(mask.shape, dtype=np.float32), mask)
        return mask[0, ..., 0]

    def _runs(self, number: int) -> NDArray[np.int64]:
        """Return all of `runs_<n>`; it is read once."""
        if number not in self._runs_read:
            dataset = checked_dataset(self.path, self._file, f"runs_{number}", (None, 3), least=0)
            if dataset.dtype != np.int64 or dataset.nbytes > self.path.stat().st_size:
                found = f"{len(dataset)} runs of type {dataset.dtype}"
                raise format_error(
                    self.path, f"runs_{number}", found, "int64, and no more than fit into the file"
                )
            try:
                runs: NDArray[np.int64] = dataset[:]
            except READ_ERRORS as error:
                raise damage_error(self.path, error) from error
            self._runs_read[number] = runs
        return self._runs_read[number]

    def _check_image(self, image: NDArray[np.float32]) -> None:
        """Raise if a value is outside [0, 1]: the file is damaged, and a loss would show it late or never.

        The bit patterns of the float32 numbers from 0 to 1, read as integers, are the smallest of all. So one
        maximum tells whether other numbers may be there.
        """
        if image.view(np.uint32).max() > _BITS_OF_ONE and not (image.min() >= 0 and image.max() <= 1):
            raise self._damaged_values("images", image)

    def _check_mask(self, mask: NDArray[np.uint8]) -> None:
        """Raise if a value is neither 0 nor 1."""
        if mask.max() > 1:
            raise self._damaged_values("masks", mask)

    def _damaged_values(self, name: str, values: NDArray[Any]) -> UserError:
        found = f"values from {values.min()} to {values.max()}"
        return UserError(f"{self.path} is damaged: {name} with {found}.", preprocess_hint())

    def _read_strings(self, name: str) -> tuple[str, ...]:
        """Read an optional column of strings; () if the file does not have it."""
        if not self._has_column(name):
            return ()
        found: list[str] = []
        for number, part in enumerate(self._parts):
            dataset = self._column(name, number, (len(part.images),))
            if h5py.check_string_dtype(dataset.dtype) is None:
                raise format_error(self.path, f"{name}_{number}", f"type {dataset.dtype}", "strings")
            found.extend(dataset.asstr(errors="replace")[:])
        return tuple(found)

    def _read_sizes(self) -> NDArray[np.int32]:
        if not self._has_column("sizes"):
            return np.tile(np.array([[self.height, self.width]], dtype=np.int32), (self.count, 1))
        found = [
            self._column("sizes", number, (len(part.images), 2))[:] for number, part in enumerate(self._parts)
        ]
        sizes: NDArray[np.int32] = np.concatenate(found).astype(np.int32)
        return sizes

    def _read_ages(self) -> NDArray[np.int16]:
        if not self._has_column("ages"):
            return np.full(self.count, -1, dtype=np.int16)
        parts = [
            self._column("ages", number, (len(part.images),))[:] for number, part in enumerate(self._parts)
        ]
        ages: NDArray[np.int16] = np.concatenate(parts).astype(np.int16)
        return ages

    def _read_positive(self) -> NDArray[np.bool_]:
        if self._has_column("positive"):
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
                    raise format_error(self.path, f"ann_{number}", f"the value {value}", "0 and 1 only")
                greatest.append(value)
        return np.array(greatest, dtype=bool)

    def _has_column(self, name: str) -> bool:
        """Return whether the file has an optional column; if so, it must have all of it."""
        return f"{name}_0" in self._file

    def _column(self, name: str, number: int, shape: tuple[int, ...]) -> h5py.Dataset:
        return checked_dataset(self.path, self._file, f"{name}_{number}", shape)


def _open_datasets(path: Path, file: h5py.File, descriptor: int) -> list[_Part]:
    """Check the image and mask datasets of a file and open them."""
    numbers = dataset_numbers(path, file)
    annotated = is_annotated(file)
    if not annotated and numbers["ann"]:
        raise format_error(path, f"ann_{min(numbers['ann'])}", "masks", "none, as 'annotated' is false")
    parts: list[_Part] = []
    start, shape = 0, (None, None, None, 1)
    for number in range(max(numbers["images"] | numbers["ann"]) + 1):
        images = checked_dataset(path, file, f"images_{number}", shape)
        masks = checked_dataset(path, file, f"ann_{number}", images.shape) if annotated else None
        if masks is not None and masks.dtype != np.uint8:
            raise format_error(path, f"ann_{number}", f"type {masks.dtype}", "uint8")
        columns = (
            RowReader(images, descriptor),
            None if masks is None else RowReader(masks, descriptor),
        )
        parts.append(_Part(start, *columns, image_scale(path, number, images)))
        start, shape = start + len(images), (None, *images.shape[1:])
    return parts
