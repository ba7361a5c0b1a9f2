"""The competition's annotation file (`train-rle.csv`).

`read_annotations` groups the rows by image and counts them. `data.annotations.table` reads the file.
`data.annotations.image_ids.resolve_id` finds the image of a row: `a.dcm` and `a` are the same image.
The meaning of a row:

- `-1`: the image has no pneumothorax;
- numbers: one annotation. Several annotations of an image are joined by OR, never summed, so shared pixels do
  no harm. Images with shared pixels are counted in `overlapping`; their rows are in `overlapping_rows`;
- `-1` and numbers for one image: the image is positive and counted in `contradictory`. The row with -1 is
  in `contradictory_rows`;
- an empty or missing cell: the row has no information. It is *not* taken for -1. Its line number is in
  `blank_rows`. An image with no other row is unlabelled;
- no numbers, an odd count of them, a negative gap (runs that overlap within the row) or a run beyond the
  largest possible image: the row is in `malformed_rows`, and its image must not be used.

`read_annotations` does not decode masks, because it does not know the sizes of the images. `combined_mask`
decodes them, and names a row whose runs end outside of its image.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from data.annotations import rle
from data.annotations.image_ids import explain_near_miss, resolve_id
from data.annotations.table import AnnotationTable, explain_missing_encoding, read_table

_EXPECTED = "Expected the competition's train-rle.csv: two columns, ImageId and EncodedPixels."


class AnnotationRow(NamedTuple):
    """One annotation row: its line in the file (from 1) and its run-length encoding."""

    number: int
    text: str

    @property
    def empty(self) -> bool:
        """Whether the row says that there is no pneumothorax."""
        return rle.is_empty(self.text)


class AnnotationError(ValueError):
    """A row is not a valid mask of its image; the text names the row and the reason."""


@dataclass(frozen=True)
class Annotations:
    """The content of an annotation file.

    Attributes:
        path: The file.
        sha256: Hash of the file's bytes as they lie on disk, in hexadecimal.
        rows_of: Rows of each image id, in the file's order; each image has at least one.
        runs_of: The result of `combined_runs` for each image id with a pneumothorax and without a malformed
            row.
        rows: Number of rows with an id and a value.
        images: Number of images with a row.
        positives: Number of images with a row other than -1.
        several: Number of images with more than one such row.
        overlapping: Number of images with two rows that set the same pixel.
        contradictory: Number of images that have both -1 and another row; they count as positive.
        overlapping_rows: Line numbers of the rows that share a pixel with an earlier row of their image.
        contradictory_rows: Line numbers of the rows with -1 whose image has another row, too.
        malformed_rows: Line number and reason of each row that is not a mask of any image.
        blank_rows: Line numbers of rows without an id or without a value.
        repeated_headers: Line numbers of headers below the first row.
        shortened: Ids, as written and in the file's order, that were used without `.dcm`, `.png` or the like.
        blank_reasons: The probable reason why a row has no value, by line number, where it is known.
    """

    path: Path
    sha256: str
    rows_of: Mapping[str, tuple[AnnotationRow, ...]]
    runs_of: Mapping[str, NDArray[np.int64]]
    rows: int
    images: int
    positives: int
    several: int
    overlapping: int
    contradictory: int
    overlapping_rows: tuple[int, ...]
    contradictory_rows: tuple[int, ...]
    malformed_rows: tuple[tuple[int, str], ...]
    blank_rows: tuple[int, ...]
    repeated_headers: tuple[int, ...] = ()
    shortened: tuple[str, ...] = ()
    blank_reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def passed_over(self) -> Mapping[str, Sequence[object]]:
        """Return what was not used as written in the file: the kind, and the line numbers or ids.

        A line number is a text with its reason unless the row before it in the list has the same reason.
        """
        blank = [(number, self.blank_reasons.get(number, "")) for number in self.blank_rows]
        kinds: dict[str, Sequence[object]] = {
            "annotation row without id or value": _with_reasons(blank),
            "annotation row of -1 where another is not": self.contradictory_rows,
            "annotation row that is no mask": _with_reasons(self.malformed_rows),
            "annotation row that is a header again": self.repeated_headers,
            "annotation id taken without its suffix": self.shortened,
        }
        return {what: where for what, where in kinds.items() if where}

    def explain_near_miss(self, images: Collection[str]) -> str:
        """Apply `data.annotations.image_ids.explain_near_miss` to the ids as written in the file."""
        return explain_near_miss([*self.shortened, *self.rows_of], images)


def _with_reasons(rows: Sequence[tuple[int, str]]) -> list[object]:
    """Return line numbers, each with its reason if that differs from the reason before."""
    before = ["", *(reason for _, reason in rows)]
    return [
        f"{number}: {reason}" if reason and reason != last else number
        for (number, reason), last in zip(rows, before, strict=False)
    ]


def read_annotations(path: Path, images: Collection[str] = ()) -> Annotations:
    """Read an annotation file.

    Args:
        path: The file.
        images: Ids of known images, for `data.annotations.image_ids.resolve_id`.

    Raises:
        UserError: The file is missing, unreadable, or not an annotation file; names the row.
    """
    table = read_table(path, "annotations", _EXPECTED)
    rows_of: dict[str, list[AnnotationRow]] = {}
    blank: list[int] = []
    blank_reasons: dict[int, str] = {}
    names = resolve_ids(table, images)
    for cells in table.rows:
        number, image_id, text = cells
        if image_id and text:
            rows_of.setdefault(names.get(image_id, image_id), []).append(AnnotationRow(number, text))
            continue
        blank.append(number)
        if why := explain_missing_encoding(cells, table.delimiter):
            blank_reasons[number] = why
    if not rows_of:
        first = next((f" Row {number}: {why}." for number, why in blank_reasons.items()), "")
        raise UserError(f"{path} contains no annotation.{first}", _EXPECTED)
    annotated = [sum(not row.empty for row in rows) for rows in rows_of.values()]
    malformed: list[tuple[int, str]] = []
    overlapping, runs_of = [], {}
    for (image_id, rows), count in zip(rows_of.items(), annotated, strict=True):
        if not count:
            continue
        runs = _runs(rows, malformed)
        if sharing := _overlapping(runs):
            overlapping.append(sharing)
        if len(runs) == len(rows):
            runs_of[image_id] = rle.union(*runs.values())
    contradictory = [
        [row.number for row in rows if row.empty]
        for count, rows in zip(annotated, rows_of.values(), strict=True)
        if 0 < count < len(rows)
    ]
    return Annotations(
        path=path,
        sha256=table.sha256,
        rows_of={image_id: tuple(rows) for image_id, rows in rows_of.items()},
        runs_of=runs_of,
        rows=sum(map(len, rows_of.values())),
        images=len(rows_of),
        positives=sum(count > 0 for count in annotated),
        several=sum(count > 1 for count in annotated),
        overlapping=len(overlapping),
        contradictory=len(contradictory),
        overlapping_rows=tuple(sorted(itertools.chain(*overlapping))),
        contradictory_rows=tuple(sorted(itertools.chain(*contradictory))),
        malformed_rows=tuple(sorted(malformed)),
        blank_rows=tuple(blank),
        repeated_headers=table.repeated_headers,
        shortened=tuple(names),
        blank_reasons=blank_reasons,
    )


def resolve_ids(table: AnnotationTable, images: Collection[str]) -> dict[str, str]:
    """Return the ids of a table that stand for another id (`a.dcm` for `a`), with that id, in file order."""
    ids = dict.fromkeys(cells.image_id for cells in table.rows)
    found = {written: resolve_id(written, images) for written in ids}
    return {written: image for written, image in found.items() if written != image}


def _runs(rows: Sequence[AnnotationRow], malformed: list[tuple[int, str]]) -> dict[int, NDArray[np.int64]]:
    """Return the runs of each well-formed row by its number; append the other rows to `malformed`."""
    found = {}
    for row in rows:
        try:
            found[row.number] = rle.runs(row.text)
        except rle.RleError as error:
            malformed.append((row.number, str(error)))
    return found


def _overlapping(runs_of: Mapping[int, NDArray[np.int64]]) -> list[int]:
    """Return the numbers of the rows that share a pixel with an earlier row.

    The image's height is not needed: equal indices are the same pixel.
    """
    found = []
    starts = ends = np.empty(0, dtype=np.int64)
    for number, runs in runs_of.items() if len(runs_of) > 1 else ():
        # Number of earlier runs that begin before this run ends, and of those that end before it begins.
        begun, over = np.searchsorted(starts, runs[:, 1]), np.searchsorted(ends, runs[:, 0], side="right")
        if (begun > over).any():
            found.append(number)
        starts, ends = np.sort(np.append(starts, runs[:, 0])), np.sort(np.append(ends, runs[:, 1]))
    return found


def combined_mask(rows: Sequence[AnnotationRow], height: int, width: int) -> NDArray[np.uint8]:
    """Join all annotations of one image in one mask.

    Args:
        rows: The image's rows.
        height: Rows of the original image, in pixels.
        width: Columns of the original image, in pixels.

    Returns:
        (height, width) uint8, 1 where any row sets the pixel.

    Raises:
        AnnotationError: A row is malformed or runs outside of the image.
    """
    masks = [_decoded(row, height, width) for row in rows if not row.empty]
    return functools.reduce(np.bitwise_or, masks) if masks else np.zeros((height, width), dtype=np.uint8)


def combined_runs(rows: Sequence[AnnotationRow]) -> NDArray[np.int64]:
    """Return the runs of the mask that `combined_mask` returns; they do not depend on its size.

    Args:
        rows: The image's rows.

    Returns:
        (k, 2) as `data.annotations.rle.union` returns; none for an image without pneumothorax.

    Raises:
        AnnotationError: A row is malformed.
    """
    found = []
    for row in rows:
        try:
            found.append(rle.runs(row.text))
        except rle.RleError as error:
            raise AnnotationError(f"annotation row {row.number}: {error}") from error
    return rle.union(*found)


def _decoded(row: AnnotationRow, height: int, width: int) -> NDArray[np.uint8]:
    try:
        return rle.decode(row.text, height, width)
    except rle.RleError as error:
        raise AnnotationError(f"annotation row {row.number}: {error}") from error
