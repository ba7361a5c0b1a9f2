"""A full check whether a data file keeps the format of `data.hdf5.file_format`.

`verify` reads every value of the file, one block at a time, and reports every fault. `Store.open`, in
contrast, stops at the first fault and reads no pixels. A file that is no data file is an error. Files
made by other programs (without the attribute `format`) need only images and masks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from data.annotations import rle
from data.hdf5.file_format import (
    CLAHE,
    FORMAT,
    FORMAT_VERSION,
    GREATEST_SIZE,
    READ_ERRORS,
    checked_dataset,
    dataset_numbers,
    equalization,
    image_scale,
    is_annotated,
    open_file,
    read_attributes,
)
from data.radiographs.resize import covered_area

Progress = Callable[[int, int], None]
"""Called with the number of images checked so far and the number of all images."""

_LABELS = ("ann", "positive", "runs")
_BLOCK_BYTES = 32_000_000
_TYPES = {"sizes": np.dtype(np.int32), "positive": np.dtype(np.uint8), "runs": np.dtype(np.int64)}
_HALF_TOLERANCE = 1e-3  # of a pixel's area; older files, made with OpenCV's sums of areas, lack up to 0.0005
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class VerificationResult:
    """The content of a file and its faults.

    Attributes:
        facts: Name and value, for a table.
        faults: One line each; empty if the file keeps the format.
    """

    facts: tuple[tuple[str, str], ...]
    faults: tuple[str, ...]


def verify(path: Path, progress: Progress | None = None) -> VerificationResult:
    """Check all of a data file.

    Raises:
        UserError: The file is missing, not HDF5, cut off, or has no images.
    """
    with open_file(path) as file:
        inspection = _Inspection(path, file)
        inspection.check(progress or (lambda _done, _total: None))
        return VerificationResult(tuple(inspection.facts()), tuple(inspection.faults))


class _Inspection:
    """The check of one open file; it collects the faults.

    After a fault in one dataset the check goes on with the next dataset, so that one fault hides no other.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self.file = path, file
        self.faults: list[str] = []
        self.numbers = dataset_numbers(path, file)
        self.count = max(self.numbers["images"]) + 1
        self.attributes = read_attributes(file)
        self.ours = "format" in self.attributes
        self.annotated = is_annotated(file)
        self.lengths: dict[int, int] = {}  # number of images in each readable dataset
        self.size: tuple[int, int] | None = None
        self.types = set[str]()
        self.nonempty: dict[int, NDArray[np.bool_]] = {}  # for each readable `ann_<n>`
        self.columns: dict[str, dict[int, NDArray[Any]]] = {}
        self.covered = 0.0  # sum over masks of the share of pixels that are set
        self.flat = 0  # number of images of a single value

    def check(self, progress: Progress) -> None:
        """Do all checks."""
        self._check_numbers()
        images = {number: self._images(number) for number in range(self.count)}
        self._check_lengths()
        total, done = sum(self.lengths.values()), 0
        for number, dataset in images.items():
            if dataset is not None:
                self._check_values(number, dataset)
                done += len(dataset)
                progress(done, total)
        for name in ("ids", "sizes", "positive", "patients", "runs"):
            self.columns[name] = self._column(name)
        self._check_ids()
        self._check_sizes()
        self._check_positives()
        self._check_runs()
        if self.ours:
            self._check_attributes()

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the lines of the table."""
        images = sum(self.lengths.values())
        yield "size of the file", f"{self.path.stat().st_size / 1e6:,.1f} MB"
        yield "format", f"version {self.attributes.get('format_version')}" if self.ours else "of others"
        yield "datasets of images", f"{self.count:,}"
        yield "images", f"{images:,}"
        yield "height and width", "unknown" if self.size is None else f"{self.size[0]} x {self.size[1]}"
        yield "storage", ", ".join(sorted(self.types)) or "unknown"
        yield "images of a single value", f"{self.flat:,}"
        if self.annotated:
            yield from self._label_facts()
        else:
            yield "annotations", "none"
        patients = np.concatenate([[""], *self.columns["patients"].values()])
        yield "patients", f"{len(set(patients.tolist()) - {''}):,}"

    def _label_facts(self) -> Iterator[tuple[str, str]]:
        nonempty = sum(int(some.sum()) for some in self.nonempty.values())
        flags = self.columns["positive"]
        positives = sum(int((flag == 1).sum()) for flag in flags.values()) if flags else nonempty
        looked = sum(map(len, self.nonempty.values()))
        yield "with a pneumothorax", f"{positives:,} ({positives / max(looked, 1):.1%})"
        yield "  too small for this size", f"{max(positives - nonempty, 0):,}"
        yield "  mean share of the image", f"{self.covered / max(nonempty, 1):.2%}"

    def _check_numbers(self) -> None:
        """Check that each column has as many datasets as the images."""
        needed = {"images", *(["ann"] if self.annotated else [])}
        if self.ours:
            needed |= {"ids", "sizes", *(["positive"] if self.annotated else [])}
            if self.annotated and self.attributes.get("format_version") not in (1, 2):
                needed.add("runs")
        for name, numbers in self.numbers.items():
            if not self.annotated and name in _LABELS:
                self.faults += [
                    f"{name}_{number}: there, but 'annotated' is false" for number in sorted(numbers)
                ]
                continue
            wanted = set(range(self.count)) if numbers or name in needed else set()
            self.faults += [f"{name}_{number}: missing" for number in sorted(wanted - numbers)]
            self.faults += [
                f"{name}_{number}: there is no images_{number}" for number in sorted(numbers - wanted)
            ]

    def _dataset(self, name: str, number: int, shape: tuple[int | None, ...]) -> h5py.Dataset | None:
        """Return a dataset of a shape if its content was written; None if it has a fault or is missing."""
        if number not in self.numbers[name]:
            return None
        try:
            least = 0 if name == "runs" else 1
            dataset = checked_dataset(self.path, self.file, f"{name}_{number}", shape, least)
            stored = dataset.nbytes if dataset.chunks else dataset.id.get_storage_size()
        except (UserError, *READ_ERRORS) as error:
            self._add_fault(error)
            return None
        if stored < dataset.nbytes:
            self.faults.append(f"{name}_{number}: {stored} of {dataset.nbytes} bytes were written")
            return None
        return dataset

    def _add_fault(self, error: Exception) -> None:
        message = error.message if isinstance(error, UserError) else str(error)
        self.faults.append(message.removeprefix(f"{self.path}, dataset ").rstrip("."))

    def _images(self, number: int) -> h5py.Dataset | None:
        dataset = self._dataset("images", number, (None, *(self.size or (None, None)), 1))
        if dataset is None:
            return None
        height, width = dataset.shape[1:3]
        if max(height, width) > GREATEST_SIZE:
            self.faults.append(f"images_{number}: images of {height}x{width}; the limit is {GREATEST_SIZE}")
            return None
        self.size = height, width
        self.lengths[number] = len(dataset)
        self.types.add(str(dataset.dtype))
        return dataset

    def _check_lengths(self) -> None:
        """Check that all datasets have the same length; the last may be shorter."""
        lengths = [self.lengths[number] for number in sorted(self.lengths)]
        usual = Counter(lengths[:-1] or lengths).most_common(1)[0][0] if lengths else 0
        for number, length in self.lengths.items():
            if length != usual and not (number == self.count - 1 and length < usual):
                self.faults.append(f"images_{number}: {length} images, but others have {usual}")

    def _check_values(self, number: int, images: h5py.Dataset) -> None:
        try:
            scale = image_scale(self.path, number, images)
        except UserError as error:
            self._add_fault(error)
        else:
            greatest = 1.0 if scale is None else scale
            wrong = _FaultyImages(f"images_{number}", f"values outside [0, {greatest:g}]")
            for start, block in self._blocks(f"images_{number}", images):
                low, high = block.min(axis=(1, 2, 3)), block.max(axis=(1, 2, 3))
                self.flat += int((low == high).sum())
                wrong.add(start, ~((low >= 0) & (high <= greatest)))  # NaN is neither
            self.faults += wrong.fault()
        if self.annotated:
            self._check_masks(number, images.shape)

    def _check_masks(self, number: int, shape: tuple[int, ...]) -> None:
        masks = self._dataset("ann", number, shape)
        if masks is None:
            return
        if masks.dtype != np.uint8:
            self.faults.append(f"ann_{number}: type {masks.dtype}, expected uint8")
            return
        wrong = _FaultyImages(f"ann_{number}", "values other than 0 and 1")
        nonempty = np.zeros(len(masks), dtype=bool)
        for start, block in self._blocks(f"ann_{number}", masks):
            wrong.add(start, block.max(axis=(1, 2, 3)) > 1)
            shares = (block != 0).mean(axis=(1, 2, 3))
            nonempty[start : start + len(block)] = shares > 0
            self.covered += float(shares.sum())
        self.nonempty[number] = nonempty
        self.faults += wrong.fault()

    def _blocks(self, name: str, dataset: h5py.Dataset) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield blocks of images with the index of their first, up to the first that cannot be read."""
        step = max(_BLOCK_BYTES // (dataset.nbytes // len(dataset)), 1)
        for start in range(0, len(dataset), step):
            try:
                block = dataset[start : start + step]
            except READ_ERRORS as error:
                self.faults.append(f"{name}: cannot be read from image {start} on ({error})")
                return
            yield start, block

    def _column(self, name: str) -> dict[int, NDArray[Any]]:
        """Return the readable datasets of a small column, by number; strings as Python strings."""
        found = {}
        for number, length in self.lengths.items():
            if name in _LABELS and not self.annotated:
                continue
            shape = {"sizes": (length, 2), "runs": (None, 3)}.get(name, (length,))
            dataset = self._dataset(name, number, shape)
            if dataset is None:
                continue
            expected = _TYPES.get(name)
            strings = h5py.check_string_dtype(dataset.dtype) is not None
            if (expected is None and not strings) or (expected is not None and dataset.dtype != expected):
                self.faults.append(f"{name}_{number}: type {dataset.dtype}, expected {expected or 'strings'}")
                continue
            try:
                found[number] = dataset.asstr()[:] if strings else dataset[:]
            except READ_ERRORS as error:  # for example strings that are not UTF-8
                self.faults.append(f"{name}_{number}: cannot be read ({error})")
        return found

    def _check_ids(self) -> None:
        places: dict[str, list[str]] = {}
        for number, ids in self.columns["ids"].items():
            for index, image_id in enumerate(ids.tolist()):
                places.setdefault(image_id, []).append(f"ids_{number}[{index}]")
        for image_id, where in places.items():
            if not image_id:
                self.faults.append(f"{where[0]}: an empty id ({len(where)} in all)")
            elif len(where) > 1:
                self.faults.append(f"{', '.join(where[:3])}: {len(where)} images have the id {image_id!r}")

    def _check_sizes(self) -> None:
        for number, sizes in self.columns["sizes"].items():
            wrong = _FaultyImages(f"sizes_{number}", "a height or width below 1")
            wrong.add(0, np.asarray((sizes < 1).any(axis=1)))
            self.faults += wrong.fault()

    def _check_positives(self) -> None:
        for number, flags in self.columns["positive"].items():
            wrong = _FaultyImages(f"positive_{number}", "a value other than 0 and 1")
            wrong.add(0, flags > 1)
            self.faults += wrong.fault()
            if number in self.nonempty:
                wrong = _FaultyImages(f"positive_{number}", f"0, but a mask in ann_{number}")
                wrong.add(0, (flags == 0) & self.nonempty[number])
                self.faults += wrong.fault()

    def _check_runs(self) -> None:
        """Check the annotations at the original size, and that the stored masks were made from them.

        The masks are computed here independently of `preprocess`: with another computation of areas, and a
        second implementation of the rule that a pixel is set if half of its area is covered.
        """
        for number, runs in self.columns["runs"].items():
            sizes, flags = (self.columns[name].get(number) for name in ("sizes", "positive"))
            masks = self.file[f"ann_{number}"] if number in self.nonempty else None
            if sizes is None or flags is None or masks is None or (sizes < 1).any():
                continue  # reported already
            length = len(sizes)
            if len(runs) and not (
                runs[0, 0] >= 0 and (np.diff(runs[:, 0]) >= 0).all() and runs[-1, 0] < length
            ):
                self.faults.append(f"runs_{number}: images that are not ascending from 0 to {length - 1}")
                continue
            first, last = np.searchsorted(runs[:, 0], np.arange(length)[:, None] + [0, 1]).T
            wrong = {
                what: _FaultyImages(f"runs_{number}", what)
                for what in (
                    "overlapping runs, or pixels outside",
                    f"not what positive_{number} says",
                    f"not the mask of ann_{number}",
                )
            }
            for place in range(length):
                found = self._run_faults(
                    runs[first[place] : last[place], 1:], sizes[place], flags[place], masks[place]
                )
                for told, one in zip(found, wrong.values(), strict=True):
                    one.add(place, np.array([told]))
            self.faults += [line for one in wrong.values() for line in one.fault()]

    def _run_faults(
        self, runs: NDArray[np.int64], size: NDArray[np.int32], flag: int, mask: NDArray[Any]
    ) -> tuple[bool, bool, bool]:
        """Return whether one image's runs are not a mask of its size, contradict the flag, or the mask."""
        if not len(runs):
            return False, bool(flag), bool(mask.any())
        try:
            truth = rle.draw(runs, *map(int, size))
        except rle.RleError:
            return True, False, False
        return (
            False,
            truth.any() != bool(flag),
            not _is_half_covered(mask[..., 0], covered_area(truth, *mask.shape[:2])),
        )

    def _check_attributes(self) -> None:
        """Check that the attributes are right; those that only `preprocess` writes may be missing."""
        height, width = self.size or (None, None)
        version = self.attributes.get("format_version")
        expected: dict[str, object] = {
            "format": FORMAT,
            "storage": next(iter(self.types)) if len(self.types) == 1 else None,
            "height": height,
            "width": width,
            "images": sum(self.lengths.values()),
        }
        if version not in range(1, FORMAT_VERSION + 1):
            self._add_attribute_fault("format_version", f"a number from 1 to {FORMAT_VERSION}")
        if version != 1:
            expected["annotated"] = self.annotated
        if "positives" in self.attributes:
            expected["positives"] = sum(int(flags.sum()) for flags in self.columns["positive"].values())
        for name, value in expected.items():
            if self.attributes.get(name) != value:
                self._add_attribute_fault(name, value)
        try:
            equalization(self.attributes)
        except ValueError as error:
            found = [self.attributes.get(name) for name in CLAHE]
            self.faults.append(f"attributes {' and '.join(CLAHE)}: found {found}, expected {error}")
        digest = self.attributes.get("annotations_sha256", "0" * 64)
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            self._add_attribute_fault("annotations_sha256", "64 hexadecimal digits")

    def _add_attribute_fault(self, name: str, expected: object) -> None:
        found = repr(self.attributes[name]) if name in self.attributes else "nothing"
        self.faults.append(f"attribute {name}: found {found}, expected {expected}")


def _is_half_covered(mask: NDArray[Any], shares: NDArray[np.float64]) -> bool:
    """Return whether a mask is set exactly where at least half of the area is covered.

    Where almost half is covered, the mask may have either value.
    """
    near = (abs(shares - 0.5) < _HALF_TOLERANCE) & (shares != 0.5)
    return bool(((mask == (shares >= 0.5)) | near).all())


class _FaultyImages:
    """The images of one dataset that have one kind of fault, for one line of the result."""

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what = name, what
        self.count, self.first = 0, 0

    def add(self, start: int, wrong: NDArray[np.bool_]) -> None:
        """Count the images that are wrong; the first of `wrong` has index `start`."""
        if wrong.any() and not self.count:
            self.first = start + int(np.argmax(wrong))
        self.count += int(wrong.sum())

    def fault(self) -> list[str]:
        """Return the line; empty if no image has the fault."""
        if not self.count:
            return []
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        return [f"{self.name}: {self.what} in image {self.first}{more}"]
