"""Submissions: written, compared with the truth, and checked before they are sent.

Promises: `write_submission` writes the competition's file, `ImageId,EncodedPixels`, one row an image,
whole or not at all, and keeps nothing but the ids in memory. `compare` counts the pixels that decide
every score from runs alone: no mask is decoded, so no size is needed. `check` names every fault of a
file by its row and id, and what its masks make likely beyond (`data.submissions.mask_appearance`).

Unlike an annotation file, a submission has one row an image. Several are a fault to `check`; `compare`
joins them by OR, like annotations, and names their ids.
"""

from __future__ import annotations

import csv
import gzip
import io
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.programs import command_line
from core.files.atomic import replacing
from core.files.checks import check_place, is_folder
from data.annotations import rle
from data.annotations.annotation_file import (
    AnnotationError,
    AnnotationRow,
    Annotations,
    combined_runs,
    resolve_ids,
)
from data.annotations.image_ids import Identities, explain_near_miss, name_below, resolve_id
from data.annotations.table import AnnotationTable, TableRow, explain_missing_encoding, read_table
from data.submissions.mask_appearance import Mask, remarks

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
        path: The file, or a stream (`core.files.destinations`); compressed if it ends in `.gz`.
        rows: Image id and run-length encoding (`rle.encode`; `rle.EMPTY` for none), one an image.

    Returns:
        The number of rows.

    Raises:
        UserError: The file cannot be written; what stood there is untouched.
        ValueError: An id is empty or comes twice, or an encoding is empty.
    """
    check_place(path)
    with replacing(path, or_stream=True) as partial:
        return write_rows(partial, rows, compressed=path.suffix == ".gz")


def write_rows(path: Path, rows: Iterable[tuple[str, str]], *, compressed: bool) -> int:
    """Write a submission's rows into a file, which is half written if that fails; see `write_submission`."""
    seen = set[str]()
    with _text_file(path, compressed) as file:
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
        shortened: Ids of the submission that were taken without `.dcm`, `.png` or the like.
        repeated_headers: Lines of the submission with a header again.
    """

    ids: tuple[str, ...]
    overlap: NDArray[np.int64]
    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    several: tuple[str, ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    unusable: tuple[str, ...]
    shortened: tuple[str, ...] = ()
    repeated_headers: tuple[int, ...] = ()

    @property
    def passed_over(self) -> Mapping[str, Sequence[object]]:
        """What was not taken as it stands in the submission, and where: line numbers, or ids."""
        kinds: dict[str, Sequence[object]] = {
            "submission row that is a header again": self.repeated_headers,
            "submission id taken without its suffix": self.shortened,
        }
        return {what: where for what, where in kinds.items() if where}


def read_submission(path: Path) -> AnnotationTable:
    """Read a submission, whatever its rows say.

    Raises:
        UserError: The file cannot be read, or is no table of ids and encodings.
    """
    return read_table(path, "submission", _EXPECTED)


def compare(
    path: Path, annotations: Annotations, missing: Missing = "error", table: AnnotationTable | None = None
) -> Comparison:
    """Count a submission's pixels against the truth.

    An id of the submission means an annotated image as `data.annotations.image_ids.resolve_id` says.

    Args:
        path: The submission.
        annotations: The truth. Its images are those that count.
        missing: Of annotated images that the submission lacks: "error" refuses, "empty" takes them for
            predictions of nothing, "skip" leaves them out.
        table: What `read_submission` gave for it; None to read it here.

    Raises:
        UserError: The submission cannot be read; a row of it is no mask; images are missing; or none of
            its images is annotated.
    """
    table = table or read_submission(path)
    names = resolve_ids(table, annotations.rows_of)
    found = _rows_of(path, table, names)
    absent = tuple(image_id for image_id in annotations.rows_of if image_id not in found)
    if len(absent) == len(annotations.rows_of):
        raise UserError(
            f"{path} has none of the {_images(absent)} that {annotations.path} annotates.",
            explain_near_miss([cells.image_id for cells in table.rows], annotations.rows_of)
            or f"The submission has {named(tuple(found)) or 'no row'}; annotated are {named(absent)}.",
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
        shortened=tuple(names),
        repeated_headers=table.repeated_headers,
    )


def _rows_of(path: Path, table: AnnotationTable, names: Mapping[str, str]) -> dict[str, list[AnnotationRow]]:
    found: dict[str, list[AnnotationRow]] = {}
    for cells in table.rows:
        number, image_id, text = cells
        if not image_id or not text:
            why = explain_missing_encoding(cells, table.delimiter)
            raise UserError(f"{path}, row {number}: {why or 'an empty cell'}.", _ask_check(path))
        found.setdefault(names.get(image_id, image_id), []).append(AnnotationRow(number, text))
    return found


def _runs(path: Path, rows: Sequence[AnnotationRow]) -> NDArray[np.int64]:
    try:
        return combined_runs(rows)
    except AnnotationError as error:
        raise UserError(f"{path}, {str(error).removeprefix('annotation ')}.", _ask_check(path)) from error


def _ask_check(path: Path) -> str:
    return f"`{command_line('check', str(path))}` names every fault."


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


def images_of(
    folder: Path, progress: Callable[[int, int], None], tell: Callable[[str], None] | None = None
) -> dict[str, Size | None]:
    """The ids that a submission for a folder of DICOM files has, with sizes from their headers.

    Args:
        folder: Files at any depth.
        progress: Called with the number of files looked at, and of all.
        tell: Called with a line about each kind of file that gives no image, at the end.

    Returns:
        Id to size, None where the file cannot be read. Ids are those of `data.annotations.image_ids`. Of
        several files with one id the first that can be read counts, as for `predict`; a folder that cannot be
        listed gives none.

    Raises:
        UserError: The folder cannot be listed or holds no DICOM file.
    """
    from data.radiographs import dicom  # pydicom, which nothing else here needs

    files = dicom.find(folder)
    if not files:
        raise UserError(f"{folder} contains no DICOM file.")
    identities = Identities.of(None, files)
    found: dict[str, Size | None] = {}
    again, unlisted = list[str](), list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library's remarks would tear the progress bar; errors count
        for done, file in enumerate(files, 1):
            progress(done, len(files))
            if is_folder(file):
                unlisted.append(name_below(folder, file))
                continue
            uid, size = _header(file)
            name = identities.choose(file, uid)
            if name in found:
                again.append(name_below(folder, file))
            found[name] = found.get(name) or size
    if tell is not None:
        if again:
            tell(f"files whose id came before, passed over: {len(again):,} ({named(again)})")
        if unlisted:
            tell(f"folders that cannot be listed: {len(unlisted):,} ({named(unlisted)})")
    return found


def _header(file: Path) -> tuple[str, Size | None]:
    """SOP Instance UID and size, as far as they can be read."""
    from data.radiographs import dicom

    uid = ""
    try:
        dataset = dicom.read_dataset(file)
        uid = dicom.sop_instance_uid(dataset)
        dicom.check(file, dataset)
    except dicom.UnreadableImage:
        return uid, None
    return uid, (int(dataset.Rows), int(dataset.Columns))


def images_of_sample(
    sample: Path, size: Size, tell: Callable[[str], None] | None = None
) -> dict[str, Size | None]:
    """The ids of a sample submission, all of one size.

    Args:
        sample: The file.
        size: Of all images.
        tell: Called with a line about rows without an id, if there are any.

    Raises:
        UserError: The file cannot be read or holds no ids.
    """
    rows = read_table(sample, "sample", _EXPECTED).rows
    found: dict[str, Size | None] = {cells.image_id: size for cells in rows if cells.image_id}
    if not found:
        raise UserError(f"{sample} contains no image id.", _EXPECTED)
    blank = [str(cells.number) for cells in rows if not cells.image_id]
    if blank and tell is not None:
        tell(f"rows of {sample} without an id, passed over: {len(blank):,} (row {named(blank)})")
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
    table = read_submission(path)
    faults = list(_header_faults(table))
    image_of = _images_meant(table, images)
    first: dict[str, TableRow] = {}  # of each image
    ids: dict[str, int] = {}
    masks: list[tuple[str, Size]] = []
    unlike: list[TableRow] = []
    positives = 0
    for cells in table.rows:
        image = image_of[cells.image_id]
        known = size if images is None else images.get(image)
        wrong, runs = _row_faults(cells, known, table.delimiter)
        faults += wrong
        if cells.image_id:
            faults += _id_faults(cells, image, images, first.get(image), ids.get(cells.image_id))
            ids.setdefault(cells.image_id, cells.number)
            first.setdefault(image, cells)
        if runs is not None:
            unlike += [cells] * (not rle.is_plain(cells.text))
        if runs is not None and len(runs):
            positives += 1
            if known is not None:
                masks.append((cells.text, known))
    faults += [
        Fault(None, image_id, "missing", "there is no row for this image")
        for image_id in images or ()
        if image_id not in first
    ]
    if images and first.keys().isdisjoint(images) and (near := explain_near_miss(ids, images)):
        faults = [Fault(None, "", "unknown", f"no id is that of an image. {near}"), *faults]
    likely = [*_looked_at(masks), *_unusual(unlike, image_of if images is None else {})]
    unsized = tuple(image_id for image_id, known in (images or {}).items() if known is None)
    if unsized:
        likely.append(f"{_images(unsized)} cannot be read, so that sizes are not known: {named(unsized)}")
    return Verdict(len(table.rows), len(ids), positives, tuple(faults), tuple(likely))


def _images_meant(table: AnnotationTable, images: Collection[str] | None) -> dict[str, str]:
    """Each id of a table and the image that it means, where `images` have suffixes too."""
    known = images or ()
    bare = {resolve_id(image_id): image_id for image_id in known}
    found = {cells.image_id: resolve_id(cells.image_id, known) for cells in table.rows}
    return {written: image if image in known else bare.get(image, image) for written, image in found.items()}


def _id_faults(
    cells: TableRow, image: str, images: Collection[str] | None, before: TableRow | None, same: int | None
) -> Iterator[Fault]:
    """What is wrong with the id of a row.

    Args:
        cells: The row.
        image: What its id means.
        images: Which there are, if that is known.
        before: The first row of that image, if one came before.
        same: The line of the first row with that very id, if one came before.
    """
    if images is not None and cells.image_id not in images:
        where = "" if before is None else f", which row {before.number} is about"
        hint = f"; there is {image}{where}" if image in images else ""
        yield _fault(cells, "unknown", f"there is no such image{hint}")
    if same is not None:
        yield _fault(cells, "double", f"the id has come before, in row {same}; one row an image")
    elif before is not None and (images is None or cells.image_id in images):
        reason = f"the image has come before, in row {before.number} as {before.image_id}; one row an image"
        yield _fault(cells, "double", reason)


def _unusual(unlike: Sequence[TableRow], image_of: Mapping[str, str]) -> Iterator[str]:
    """What this project reads and others may not."""
    if unlike:
        rows = named([str(cells.number) for cells in unlike])
        count = f"{len(unlike):,} row{'' if len(unlike) == 1 else 's'}"
        yield (
            f"{count} with whole numbers like 12.0, 1e3 or -1.0, which other programs may refuse; "
            f"write 12, 1000, -1: row {rows}"
        )
    if suffixed := [written for written, image in image_of.items() if written != image]:
        yield (
            f"{len(suffixed):,} id{'' if len(suffixed) == 1 else 's'} with the suffix of a file; the ids of "
            f"images have none: {named(suffixed)}"
        )


def _header_faults(table: AnnotationTable) -> Iterator[Fault]:
    wanted = ",".join(HEADER)
    if table.header is None:
        yield Fault(None, "", "header", f"there is no header; the first line must be {wanted}")
    elif (line := table.delimiter.join(table.header)) != wanted:
        yield Fault(None, "", "header", f"the header is {line[:80]!r}; it must be {wanted!r}")
    elif not table.rows:
        yield Fault(None, "", "header", "there is nothing below the header")
    if table.separator_line is not None:
        yield Fault(table.separator_line, "", "header", "sep= is a line for Excel alone; remove it")
    for number in table.repeated_headers:
        yield Fault(number, "", "header", "the header comes again; were files put together?")


def _row_faults(
    cells: TableRow, size: Size | None, delimiter: str
) -> tuple[list[Fault], NDArray[np.int64] | None]:
    """What is wrong with one row by itself, and its runs if it has any."""
    if not cells.image_id:
        return [_fault(cells, "cell", "there is no image id")], None
    if not cells.text:
        why = (
            explain_missing_encoding(cells, delimiter)
            or f"there is no encoding; a mask of nothing is {rle.EMPTY}"
        )
        return [_fault(cells, "cell", why)], None
    try:
        runs = rle.runs(cells.text)
    except rle.RleError as error:
        return [_fault(cells, "malformed", str(error))], None
    faults = []
    if none := rle.count_empty_runs(cells.text):
        faults.append(_fault(cells, "malformed", f"{none} of its runs have a length of 0"))
    if size is not None and len(runs) and runs[-1, 1] > size[0] * size[1]:
        reason = f"its runs end at pixel {runs[-1, 1]}, but the image has {size[1]}x{size[0]} = "
        faults.append(_fault(cells, "overflow", f"{reason}{size[0] * size[1]}"))
    return faults, runs


def _fault(cells: TableRow, kind: str, reason: str) -> Fault:
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
