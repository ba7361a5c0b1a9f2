"""The competition's annotation file (`train-rle.csv`), in every form in which it circulates.

Promises: `read_annotations` gives, per image, its rows with their line numbers, and counts what it
saw. `data.annotations.table` reads the file, in any of its forms. `data.annotations.image_ids.meant` tells of
which image a row speaks: `a.dcm` and `a` are one. What a row means:

- `-1`             the image has no pneumothorax;
- numbers          one annotation; several of an image are joined by OR, never summed, so it does not
  matter that some share pixels: those images are in `overlapping`, the rows in `overlapping_rows`;
- `-1` and numbers for one image: the image is positive, and counted in `contradictory`; the row
  with -1 is in `contradictory_rows`;
- an empty or missing cell: the row says nothing (it is *not* taken for -1), and its line number is
  in `blank_rows`. An image with no other row is therefore unlabelled;
- no numbers, an odd count of them, a negative gap (runs that overlap within the row) or a run beyond
  any image: the row is in `malformed_rows`, and its image must not be used.

It decodes no mask, because it does not know their sizes: `combined_mask` does, and names the
row at fault. It alone can tell that a run lies outside of its image.
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
from data.annotations.image_ids import meant, nearest
from data.annotations.table import Table, read_table, why_one_cell

_EXPECTED = "Expected the competition's train-rle.csv: two columns, ImageId and EncodedPixels."


class Row(NamedTuple):
    """One annotation row: its line in the file (from 1) and its run-length encoding."""

    number: int
    text: str

    @property
    def empty(self) -> bool:
        """Whether the row says that there is no pneumothorax."""
        return rle.is_empty(self.text)


class AnnotationError(ValueError):
    """A row that is no mask of its image; the text names the row and the reason."""


@dataclass(frozen=True)
class Annotations:
    """The content of an annotation file.

    Attributes:
        path: The file.
        sha256: Hash of the file's bytes as they lie on disk, in hexadecimal.
        rows_of: Image id to its rows, in the file's order; each image has at least one.
        runs_of: Image id to what `combined_runs` makes of its rows, for each image with a pneumothorax and
            without malformed row.
        rows: Rows that say something.
        images: Images with a row.
        positives: Images with a row other than -1.
        several: Images with more than one such row.
        overlapping: Images of which two rows set the same pixel.
        contradictory: Images that have both -1 and another row; they count as positive.
        overlapping_rows: Line numbers of the rows that share a pixel with an earlier one of their image.
        contradictory_rows: Line numbers of the rows of -1 where another row says otherwise.
        malformed_rows: Line number and reason of rows that are no mask of any image.
        blank_rows: Line numbers of rows without an id or without a value.
        repeated_headers: Line numbers of headers below the first row.
        shortened: Ids as the file has them, in its order, that were taken without `.dcm`, `.png` or the like.
        blank_reasons: Line number to why the row may have no value, where anything tells.
    """

    path: Path
    sha256: str
    rows_of: Mapping[str, tuple[Row, ...]]
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
        """What was not taken as it stands in the file, and where: line numbers, or ids.

        A reason follows a line number, in a text, where the row before it in the list had not the same one.
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

    def nearest(self, images: Collection[str]) -> str:
        """`data.annotations.image_ids.nearest` for the ids as the file has them."""
        return nearest([*self.shortened, *self.rows_of], images)


def _with_reasons(rows: Sequence[tuple[int, str]]) -> list[object]:
    """Line numbers, each with its reason where that is another than the one before."""
    before = ["", *(reason for _, reason in rows)]
    return [
        f"{number}: {reason}" if reason and reason != last else number
        for (number, reason), last in zip(rows, before, strict=False)
    ]


def read_annotations(path: Path, images: Collection[str] = ()) -> Annotations:
    """Read an annotation file.

    Args:
        path: The file.
        images: Ids of images that are known: what `data.annotations.image_ids.meant` needs.

    Raises:
        UserError: The file is missing, unreadable, or not an annotation file; names the row.
    """
    table = read_table(path, "annotations", _EXPECTED)
    rows_of: dict[str, list[Row]] = {}
    blank: list[int] = []
    blank_reasons: dict[int, str] = {}
    names = shortened(table, images)
    for cells in table.rows:
        number, image_id, text = cells
        if image_id and text:
            rows_of.setdefault(names.get(image_id, image_id), []).append(Row(number, text))
            continue
        blank.append(number)
        if why := why_one_cell(cells, table.delimiter):
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


def shortened(table: Table, images: Collection[str]) -> dict[str, str]:
    """The ids of a table, in its order, that mean another than they are, each with the one that it means."""
    ids = dict.fromkeys(cells.image_id for cells in table.rows)
    found = {written: meant(written, images) for written in ids}
    return {written: image for written, image in found.items() if written != image}


def _runs(rows: Sequence[Row], malformed: list[tuple[int, str]]) -> dict[int, NDArray[np.int64]]:
    """The runs of each well-formed row by its number; what is wrong with others joins `malformed`."""
    found = {}
    for row in rows:
        try:
            found[row.number] = rle.runs(row.text)
        except rle.RleError as error:
            malformed.append((row.number, str(error)))
    return found


def _overlapping(runs_of: Mapping[int, NDArray[np.int64]]) -> list[int]:
    """The numbers of the rows that share a pixel with one before them.

    Indices of pixels tell that without the image's height: equal indices are equal pixels.
    """
    found = []
    starts = ends = np.empty(0, dtype=np.int64)
    for number, runs in runs_of.items() if len(runs_of) > 1 else ():
        # Earlier runs that begin before this one's end, less those that are over when it begins.
        begun, over = np.searchsorted(starts, runs[:, 1]), np.searchsorted(ends, runs[:, 0], side="right")
        if (begun > over).any():
            found.append(number)
        starts, ends = np.sort(np.append(starts, runs[:, 0])), np.sort(np.append(ends, runs[:, 1]))
    return found


def combined_mask(rows: Sequence[Row], height: int, width: int) -> NDArray[np.uint8]:
    """All annotations of one image in one mask.

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


def combined_runs(rows: Sequence[Row]) -> NDArray[np.int64]:
    """The runs of the mask that `combined_mask` gives, which do not depend on its size.

    Args:
        rows: The image's rows.

    Returns:
        (k, 2) as of `data.annotations.rle.union`; none for an image without pneumothorax.

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


def _decoded(row: Row, height: int, width: int) -> NDArray[np.uint8]:
    try:
        return rle.decode(row.text, height, width)
    except rle.RleError as error:
        raise AnnotationError(f"annotation row {row.number}: {error}") from error
