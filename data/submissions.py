"""Submissions: written, compared with the truth, and checked before they are sent.

Promises: `write_submission` writes the competition's file, `ImageId,EncodedPixels`, one row an image,
whole or not at all, and keeps nothing but the ids in memory. `compare` counts the pixels that decide
every score from runs alone: no mask is decoded, so no size is needed. `check` names every fault of a
file by its row and id, and what its masks make likely beyond (`data.appearance`).

Unlike an annotation file, a submission has one row an image. Several are a fault to `check`; `compare`
joins them by OR, like annotations, and names their ids.
"""

from __future__ import annotations

import csv
import gzip
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.files import check_place, replacing
from data import dicom, rle
from data.annotations import AnnotationError, Annotations, Row, combined_runs
from data.appearance import Mask, remarks
from data.identities import Identities
from data.table import Cells, Table, read_table

HEADER = ("ImageId", "EncodedPixels")
"""The columns of a submission."""

Size = tuple[int, int]
"""Height and width of an image, in pixels."""

Missing = Literal["error", "empty", "skip"]
"""What becomes of annotated images that a submission does not have."""

_EXPECTED = "Expected a submission: two columns, ImageId and EncodedPixels."
_MOST_LOOKED_AT = 1000  # masks; more say no more
_MOST_NAMED = 3


def write_submission(path: Path, rows: Iterable[tuple[str, str]]) -> int:
    """Write a submission, row by row as they come.

    Args:
        path: The file, or a stream (`core.streams`); compressed if it ends in `.gz`.
        rows: Image id and run-length encoding (`rle.encode`; `rle.EMPTY` for none), one an image.

    Returns:
        The number of rows.

    Raises:
        UserError: The file cannot be written; what stood there is untouched.
        ValueError: An id is empty or comes twice, or an encoding is empty.
    """
    check_place(path)
    seen = set[str]()
    with replacing(path, or_stream=True) as partial, _text_file(partial, path.suffix == ".gz") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for image_id, text in rows:
            if not image_id or not text or image_id in seen:
                raise ValueError(
                    f"one row an image, neither cell empty. Received: {image_id!r}, {text!r:.40}"
                )
            seen.add(image_id)
            writer.writerow((image_id, text))
    return len(seen)


@contextmanager
def _text_file(path: Path, compressed: bool) -> Iterator[TextIO]:
    if not compressed:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    # Neither name nor time in the header, so that the same rows give the same bytes.
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
    ):
        yield file


@dataclass(frozen=True)
class Comparison:
    """A submission beside the truth.

    Attributes:
        ids: The images that count, N of them, in the order of the annotations.
        overlap: (N,) pixels that both set.
        predicted: (N,) pixels that the submission sets.
        truth: (N,) pixels that the annotations set, joined by OR.
        several: Ids with more than one row in the submission, joined by OR.
        missing: Annotated images that the submission does not have.
        unknown: Ids of the submission without an annotation; they do not count.
        unusable: Images left out because an annotation of theirs is malformed.
    """

    ids: tuple[str, ...]
    overlap: NDArray[np.int64]
    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    several: tuple[str, ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    unusable: tuple[str, ...]


def compare(path: Path, annotations: Annotations, missing: Missing = "error") -> Comparison:
    """Count a submission's pixels against the truth.

    Args:
        path: The submission.
        annotations: The truth. Its images are those that count.
        missing: Of annotated images that the submission lacks: "error" refuses, "empty" takes them for
            predictions of nothing, "skip" leaves them out.

    Raises:
        UserError: The submission cannot be read; a row of it is no mask; images are missing; or none of
            its images is annotated.
    """
    found = _rows_of(path)
    absent = tuple(image_id for image_id in annotations.rows_of if image_id not in found)
    if len(absent) == len(annotations.rows_of):
        raise UserError(
            f"{path} has none of the {_images(absent)} that {annotations.path} annotates.",
            f"The submission has {named(tuple(found)) or 'no row'}; annotated are {named(absent)}.",
        )
    if absent and missing == "error":
        raise UserError(
            f"{path} lacks {_images(absent)} that {annotations.path} annotates: {named(absent)}.",
            "Take them for predictions of nothing (--missing empty), or leave them out (--missing skip).",
        )
    malformed = {number for number, _ in annotations.malformed_rows}
    ids, unusable, counts = [], [], []
    for image_id, rows in annotations.rows_of.items():
        if not malformed.isdisjoint(row.number for row in rows):
            unusable.append(image_id)
        elif missing != "skip" or image_id in found:
            ids.append(image_id)
            counts.append(_counted(_runs(path, found.get(image_id, ())), combined_runs(rows)))
    if not ids:
        raise UserError(f"no image of {annotations.path} is left to score: its rows are no masks.")
    overlap, predicted, truth = np.array(counts, dtype=np.int64).T
    return Comparison(
        ids=tuple(ids),
        overlap=overlap,
        predicted=predicted,
        truth=truth,
        several=tuple(image_id for image_id, rows in found.items() if len(rows) > 1),
        missing=absent,
        unknown=tuple(image_id for image_id in found if image_id not in annotations.rows_of),
        unusable=tuple(unusable),
    )


def _rows_of(path: Path) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for number, image_id, text in read_table(path, "submission", _EXPECTED).rows:
        if not image_id or not text:
            raise UserError(f"{path}, row {number}: an empty cell.", _ask_check(path))
        found.setdefault(image_id, []).append(Row(number, text))
    return found


def _runs(path: Path, rows: Sequence[Row]) -> NDArray[np.int64]:
    try:
        return combined_runs(rows)
    except AnnotationError as error:
        raise UserError(f"{path}, {str(error).removeprefix('annotation ')}.", _ask_check(path)) from error


def _ask_check(path: Path) -> str:
    return f"`python run.py check {path}` names every fault."


def _counted(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> tuple[int, int, int]:
    return rle.overlap(predicted, truth), rle.area(predicted), rle.area(truth)


class Fault(NamedTuple):
    """Why a submission would be refused or misread.

    Attributes:
        row: Line of the file, from 1; None if it is not about a row.
        image_id: Of the image, "" if it is not about one.
        kind: header, cell, double, unknown, malformed, overflow or missing.
        reason: In one line.
    """

    row: int | None
    image_id: str
    kind: str
    reason: str

    def __str__(self) -> str:
        where = "" if self.row is None else f"row {self.row}: "
        return f"{where}{self.image_id}{': ' if self.image_id else ''}{self.reason}"


@dataclass(frozen=True)
class Verdict:
    """What a submission holds and what is wrong with it.

    Attributes:
        rows: Rows but the header.
        images: Different ids.
        positives: Rows with a mask that sets a pixel.
        faults: In the order of the rows, then the missing images.
        warnings: What may be wrong, one line each.
    """

    rows: int
    images: int
    positives: int
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]


def images_of(folder: Path, progress: Callable[[int, int], None]) -> dict[str, Size | None]:
    """The ids that a submission for a folder of DICOM files has, with sizes from their headers.

    Args:
        folder: Files at any depth.
        progress: Called with the number of files looked at, and of all.

    Returns:
        Id to size, None where the file cannot be read. An id is the file's name without suffix, or its SOP
        Instance UID where several files are called the same, as in `data.preprocessing`.

    Raises:
        UserError: The folder cannot be listed or holds no DICOM file.
    """
    files = dicom.find(folder)
    if not files:
        raise UserError(f"{folder} contains no DICOM file.")
    identities = Identities.of(None, files)
    found: dict[str, Size | None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library's remarks would tear the progress bar; errors count
        for done, file in enumerate(files, 1):
            uid, size = _header(file)
            found.setdefault(identities.choose(file, uid), size)
            progress(done, len(files))
    return found


def _header(file: Path) -> tuple[str, Size | None]:
    """SOP Instance UID and size, as far as they can be read."""
    uid = ""
    try:
        dataset = dicom.read_dataset(file)
        uid = dicom.sop_instance_uid(dataset)
        dicom.check(file, dataset)
    except dicom.UnreadableImage:
        return uid, None
    return uid, (int(dataset.Rows), int(dataset.Columns))


def images_of_sample(sample: Path, size: Size) -> dict[str, Size | None]:
    """The ids of a sample submission, all of one size.

    Raises:
        UserError: The file cannot be read or holds no ids.
    """
    found: dict[str, Size | None] = {
        cells.image_id: size for cells in read_table(sample, "sample", _EXPECTED).rows if cells.image_id
    }
    if not found:
        raise UserError(f"{sample} contains no image id.", _EXPECTED)
    return found


def check(path: Path, images: Mapping[str, Size | None] | None, size: Size) -> Verdict:
    """Look for everything that is wrong with a submission.

    Args:
        path: The submission.
        images: Which ids it must have, with their images' sizes (None: not known); None to take any ids.
        size: Of all images where `images` is None.

    Raises:
        UserError: The file cannot be read, or is no table of ids and encodings.
    """
    table = read_table(path, "submission", _EXPECTED)
    faults = list(_header_faults(table))
    first: dict[str, int] = {}
    masks: list[tuple[str, Size]] = []
    positives = 0
    for cells in table.rows:
        known = size if images is None else images.get(cells.image_id)
        wrong, runs = _row_faults(cells, known)
        faults += wrong
        if cells.image_id:
            if images is not None and cells.image_id not in images:
                bare = cells.image_id.removesuffix(".dcm")
                hint = f"; there is {bare}" if bare in images else ""
                faults.append(_fault(cells, "unknown", f"there is no such image{hint}"))
            if cells.image_id in first:
                reason = f"the id has come before, in row {first[cells.image_id]}; one row an image"
                faults.append(_fault(cells, "double", reason))
            first.setdefault(cells.image_id, cells.number)
        if runs is not None and len(runs):
            positives += 1
            if known is not None:
                masks.append((cells.text, known))
    faults += [
        Fault(None, image_id, "missing", "there is no row for this image")
        for image_id in images or ()
        if image_id not in first
    ]
    likely = _looked_at(masks)
    unsized = tuple(image_id for image_id, known in (images or {}).items() if known is None)
    if unsized:
        likely.append(f"{_images(unsized)} cannot be read, so that sizes are not known: {named(unsized)}")
    return Verdict(len(table.rows), len(first), positives, tuple(faults), tuple(likely))


def _header_faults(table: Table) -> Iterator[Fault]:
    wanted = ",".join(HEADER)
    if table.header is None:
        yield Fault(None, "", "header", f"there is no header; the first line must be {wanted}")
    elif (line := table.delimiter.join(table.header)) != wanted:
        yield Fault(None, "", "header", f"the header is {line[:80]!r}; it must be {wanted!r}")
    elif not table.rows:
        yield Fault(None, "", "header", "there is nothing below the header")


def _row_faults(cells: Cells, size: Size | None) -> tuple[list[Fault], NDArray[np.int64] | None]:
    """What is wrong with one row by itself, and its runs if it has any."""
    if not cells.image_id:
        return [_fault(cells, "cell", "there is no image id")], None
    if not cells.text:
        return [_fault(cells, "cell", f"there is no encoding; a mask of nothing is {rle.EMPTY}")], None
    try:
        runs = rle.runs(cells.text)
    except rle.RleError as error:
        return [_fault(cells, "malformed", str(error))], None
    faults = []
    if cells.text != rle.EMPTY and (none := sum(int(word) == 0 for word in cells.text.split()[1::2])):
        faults.append(_fault(cells, "malformed", f"{none} of its runs have a length of 0"))
    if size is not None and len(runs) and runs[-1, 1] > size[0] * size[1]:
        reason = f"its runs end at pixel {runs[-1, 1]}, but the image has {size[1]}x{size[0]} = "
        faults.append(_fault(cells, "overflow", f"{reason}{size[0] * size[1]}"))
    return faults, runs


def _fault(cells: Cells, kind: str, reason: str) -> Fault:
    return Fault(cells.number, cells.image_id, kind, reason)


def _looked_at(masks: Sequence[tuple[str, Size]]) -> list[str]:
    """What the masks look like; of many, some that are spread over the file."""
    step = max(len(masks) // _MOST_LOOKED_AT, 1)
    return remarks([Mask(rle.runs(text), *size) for text, size in masks[::step]])


def _images(ids: Sequence[str]) -> str:
    return f"{len(ids):,} image{'' if len(ids) == 1 else 's'}"


def named(ids: Sequence[str]) -> str:
    """The first of some ids, and how many more."""
    more = f" and {len(ids) - _MOST_NAMED:,} more" if len(ids) > _MOST_NAMED else ""
    return ", ".join(ids[:_MOST_NAMED]) + more
