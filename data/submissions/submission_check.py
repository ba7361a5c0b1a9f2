"""A check of a submission before it is sent.

`check` reports every fault of a file with its row and id, and what the masks together make likely
(`data.submissions.mask_appearance`). A submission has one row per image; several are a fault.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.files.checks import is_folder
from data.annotations import rle
from data.annotations.image_ids import Identities, explain_near_miss, name_below, resolve_id
from data.annotations.table import AnnotationTable, TableRow, explain_missing_encoding, read_table
from data.submissions.mask_appearance import EncodedMask, appearance_warnings
from data.submissions.submission_file import EXPECTED, HEADER, abbreviated, image_count, read_submission

Size = tuple[int, int]
"""Height and width of an image, in pixels."""

_MOST_MASKS = 1000  # whose appearance is examined; more give no better evidence


class Fault(NamedTuple):
    """A reason why a submission would be refused or misread.

    Attributes:
        row: Line of the file, from 1; None if the fault is not in one row.
        image_id: The image's id, "" if the fault is not about one image.
        kind: header, cell, double, unknown, malformed, overflow or missing.
        reason: One line for a reader.
    """

    row: int | None
    image_id: str
    kind: str
    reason: str

    def __str__(self) -> str:
        where = "" if self.row is None else f"row {self.row}: "
        return f"{where}{self.image_id}{': ' if self.image_id else ''}{self.reason}"


@dataclass(frozen=True)
class SubmissionCheck:
    """The content of a submission and its faults.

    Attributes:
        rows: Number of rows without the header.
        images: Number of different ids.
        positives: Number of rows with a mask that is not empty.
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
    """Return the ids that a submission for a folder of DICOM files must have, with sizes from their headers.

    Args:
        folder: The folder; files may be at any depth.
        progress: Called with the number of files read so far and the number of all files.
        tell: Called at the end with a line about each kind of file that gives no image.

    Returns:
        Id to size, None where the file cannot be read. Ids are those of `data.annotations.image_ids`. Of
        several files with one id the first that can be read counts, as for `predict`. A folder that cannot be
        listed gives no ids.

    Raises:
        UserError: The folder cannot be listed or has no DICOM file.
    """
    from data.radiographs import dicom  # imports pydicom, which nothing else here needs

    files = dicom.find(folder)
    if not files:
        raise UserError(f"{folder} contains no DICOM file.")
    identities = Identities.of(None, files)
    found: dict[str, Size | None] = {}
    again, unlisted = list[str](), list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library's warnings would break the progress bar
        for done, file in enumerate(files, 1):
            progress(done, len(files))
            if is_folder(file):
                unlisted.append(name_below(folder, file))
                continue
            uid, size = _read_header(file)
            name = identities.choose(file, uid)
            if name in found:
                again.append(name_below(folder, file))
            found[name] = found.get(name) or size
    if tell is not None:
        if again:
            tell(f"files whose id came before, passed over: {len(again):,} ({abbreviated(again)})")
        if unlisted:
            tell(f"folders that cannot be listed: {len(unlisted):,} ({abbreviated(unlisted)})")
    return found


def _read_header(file: Path) -> tuple[str, Size | None]:
    """Read the SOP Instance UID and the size of a file; "" and None where they cannot be read."""
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
    """Return the ids of a sample submission, each with the same size.

    Args:
        sample: The file.
        size: The size of all images.
        tell: Called with a line about rows without an id, if there are any.

    Raises:
        UserError: The file cannot be read or has no ids.
    """
    rows = read_table(sample, "sample", EXPECTED).rows
    found: dict[str, Size | None] = {cells.image_id: size for cells in rows if cells.image_id}
    if not found:
        raise UserError(f"{sample} contains no image id.", EXPECTED)
    blank = [str(cells.number) for cells in rows if not cells.image_id]
    if blank and tell is not None:
        tell(f"rows of {sample} without an id, passed over: {len(blank):,} (row {abbreviated(blank)})")
    return found


def check(path: Path, images: Mapping[str, Size | None] | None, size: Size) -> SubmissionCheck:
    """Find all faults of a submission.

    Args:
        path: The submission.
        images: The ids it must have, with the images' sizes (None if unknown); None to accept any ids.
        size: The size of all images if `images` is None.

    Raises:
        UserError: The file cannot be read, or is not a table of ids and encodings.
    """
    table = read_submission(path)
    faults = list(_header_faults(table))
    image_of = _image_of_each_id(table, images)
    first: dict[str, TableRow] = {}  # the first row of each image
    ids: dict[str, int] = {}  # the first line of each id
    masks: list[tuple[str, Size]] = []
    unusual_numbers: list[TableRow] = []
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
            unusual_numbers += [cells] * (not rle.is_plain(cells.text))
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
    likely = _appearance_warnings(masks)
    likely += _portability_warnings(unusual_numbers, image_of if images is None else {})
    unsized = tuple(image_id for image_id, known in (images or {}).items() if known is None)
    if unsized:
        count = image_count(unsized)
        likely.append(f"{count} cannot be read, so that sizes are not known: {abbreviated(unsized)}")
    return SubmissionCheck(len(table.rows), len(ids), positives, tuple(faults), tuple(likely))


def _image_of_each_id(table: AnnotationTable, images: Collection[str] | None) -> dict[str, str]:
    """Return the image that each id of a table means; ids in `images` may have suffixes too."""
    known = images or ()
    bare = {resolve_id(image_id): image_id for image_id in known}
    found = {cells.image_id: resolve_id(cells.image_id, known) for cells in table.rows}
    return {written: image if image in known else bare.get(image, image) for written, image in found.items()}


def _id_faults(
    cells: TableRow, image: str, images: Collection[str] | None, before: TableRow | None, same: int | None
) -> Iterator[Fault]:
    """Yield the faults of the id of a row.

    Args:
        cells: The row.
        image: The image that the id means.
        images: All images; None if they are unknown.
        before: The first row of that image; None if this is the first.
        same: The line of the first row with exactly this id; None if this is the first.
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


def _portability_warnings(unusual_numbers: Sequence[TableRow], image_of: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each kind of text that this project can read and other programs may not."""
    if unusual_numbers:
        rows = abbreviated([str(cells.number) for cells in unusual_numbers])
        count = f"{len(unusual_numbers):,} row{'' if len(unusual_numbers) == 1 else 's'}"
        yield (
            f"{count} with whole numbers like 12.0, 1e3 or -1.0, which other programs may refuse; "
            f"write 12, 1000, -1: row {rows}"
        )
    if suffixed := [written for written, image in image_of.items() if written != image]:
        yield (
            f"{len(suffixed):,} id{'' if len(suffixed) == 1 else 's'} with the suffix of a file; the ids of "
            f"images have none: {abbreviated(suffixed)}"
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
    """Return the faults of one row by itself, and its runs (None if they cannot be read)."""
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


def _appearance_warnings(masks: Sequence[tuple[str, Size]]) -> list[str]:
    """Examine the appearance of masks; of many, a part spread evenly over the file."""
    step = max(len(masks) // _MOST_MASKS, 1)
    return appearance_warnings([EncodedMask(rle.runs(text), *size) for text, size in masks[::step]])
