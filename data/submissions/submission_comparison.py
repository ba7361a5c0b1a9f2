"""Comparison of a submission with the annotations.

`compare` counts the pixels that decide every score from the runs alone: no mask is decoded, so the images'
sizes are not needed. Several rows for one image are joined by OR, like annotations; their ids are reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.programs import command_line
from data.annotations import rle
from data.annotations.annotation_file import (
    AnnotationError,
    AnnotationRow,
    Annotations,
    combined_runs,
    resolve_ids,
)
from data.annotations.image_ids import explain_near_miss
from data.annotations.table import AnnotationTable, explain_missing_encoding
from data.submissions.submission_file import abbreviated, image_count, read_submission

Missing = Literal["error", "empty", "skip"]
"""What to do with annotated images that a submission lacks; see `compare`."""


@dataclass(frozen=True)
class SubmissionComparison:
    """The pixel counts of a submission and the annotations.

    Attributes:
        ids: The N images that are scored, in the order of the annotations.
        overlap: (N,) number of pixels that both set.
        predicted: (N,) number of pixels that the submission sets.
        truth: (N,) number of pixels that the annotations set, joined by OR.
        several: Ids with more than one row in the submission, joined by OR.
        missing: Annotated images that the submission lacks.
        unknown: Ids of the submission without an annotation; they are not scored.
        unusable: Images left out because one of their annotations is malformed.
        shortened: Ids of the submission that were read without `.dcm`, `.png` or the like.
        repeated_headers: Lines of the submission that repeat the header.
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
        """What was not read literally: a description, and the line numbers or ids."""
        kinds: dict[str, Sequence[object]] = {
            "submission row that is a header again": self.repeated_headers,
            "submission id taken without its suffix": self.shortened,
        }
        return {what: where for what, where in kinds.items() if where}


def compare(
    path: Path, annotations: Annotations, missing: Missing = "error", table: AnnotationTable | None = None
) -> SubmissionComparison:
    """Count the pixels of a submission, of the annotations and of their overlap.

    `data.annotations.image_ids.resolve_id` says which annotated image an id of the submission means.

    Args:
        path: The submission.
        annotations: The truth. Its images are scored.
        missing: What to do with annotated images that the submission lacks: "error" raises, "empty" counts
            them as empty predictions, "skip" leaves them out.
        table: The result of `read_submission`; None to read the file here.

    Raises:
        UserError: The submission cannot be read, one of its rows is not a mask, images are missing, or none
            of its images is annotated.
    """
    table = table or read_submission(path)
    names = resolve_ids(table, annotations.rows_of)
    found = _rows_of(path, table, names)
    absent = tuple(image_id for image_id in annotations.rows_of if image_id not in found)
    if len(absent) == len(annotations.rows_of):
        submitted = abbreviated(tuple(found)) or "no row"
        raise UserError(
            f"{path} has none of the {image_count(absent)} that {annotations.path} annotates.",
            explain_near_miss([cells.image_id for cells in table.rows], annotations.rows_of)
            or f"The submission has {submitted}; annotated are {abbreviated(absent)}.",
        )
    if absent and missing == "error":
        raise UserError(
            f"{path} lacks {image_count(absent)} that {annotations.path} annotates: {abbreviated(absent)}.",
            "Take them for predictions of nothing (--missing empty), or leave them out (--missing skip).",
        )
    malformed = {number for number, _ in annotations.malformed_rows}
    ids, unusable, counts = [], [], []
    for image_id, rows in annotations.rows_of.items():
        if not malformed.isdisjoint(row.number for row in rows):
            unusable.append(image_id)
        elif missing != "skip" or image_id in found:
            ids.append(image_id)
            counts.append(_pixel_counts(_runs(path, found.get(image_id, ())), combined_runs(rows)))
    if not ids:
        raise UserError(f"no image of {annotations.path} is left to score: its rows are no masks.")
    overlap, predicted, truth = np.array(counts, dtype=np.int64).T
    return SubmissionComparison(
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
            raise UserError(f"{path}, row {number}: {why or 'an empty cell'}.", _check_hint(path))
        found.setdefault(names.get(image_id, image_id), []).append(AnnotationRow(number, text))
    return found


def _runs(path: Path, rows: Sequence[AnnotationRow]) -> NDArray[np.int64]:
    try:
        return combined_runs(rows)
    except AnnotationError as error:
        raise UserError(f"{path}, {str(error).removeprefix('annotation ')}.", _check_hint(path)) from error


def _check_hint(path: Path) -> str:
    return f"`{command_line('check', str(path))}` names every fault."


def _pixel_counts(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> tuple[int, int, int]:
    return rle.overlap(predicted, truth), rle.area(predicted), rle.area(truth)
