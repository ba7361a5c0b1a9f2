"""The report on the sources of a run of preprocessing, as an object and as JSON.

Every source file and every annotated image is counted. Everything but `resumed` depends only on the sources
and the settings, so an interrupted run that was continued reports the same.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.files.atomic import write_text
from data.annotations.annotation_file import Annotations
from data.preprocessing.staging import JournalEntry

FORMAT_VERSION = 1
"""The version of the report as JSON."""


@dataclass(frozen=True)
class Remark:
    """A note on a source file: its path below the images folder, and the text."""

    file: str
    reason: str


@dataclass(frozen=True)
class PreprocessingReport:
    """The outcome for all source files and annotations.

    Attributes:
        out: The file to write.
        error: The reason why it was not written, "" if it was.
        found: DICOM files found.
        written: Images in the file.
        datasets: Datasets of images in the file.
        size_in_bytes: Size of the file.
        resumed: Source files whose result came from an earlier, interrupted run.
        transfer_syntaxes: Number of files by the name of their transfer syntax, the most common first.
        stored_bits: Number of files by their stored bits, ascending; 0 where they are unknown.
        positives: Images written whose annotation is not empty.
        annotations_per_image: Number of images written by the number of their annotations other than -1.
        several: Images written with more than one annotation.
        overlapping: Images written with two annotations that set the same pixel.
        vanished: Positive images whose mask is empty at the size written.
        contradictory: Images written with both -1 and an annotation (positive).
        without_annotation: Readable files without an annotation row, left out.
        bad_annotation: Files left out because a row is malformed or outside of the image.
        unreadable: Files that could not be read.
        duplicates: Files left out because an earlier file has the same id.
        without_image: Ids of annotations for which no file was found, sorted.
        patients: Number of different known patients of the images written.
        unknown_patients: Images written whose patient is unknown.
        notes: Remarks on images written ("the first of 3 frames").
        annotations: The content of the annotation file, with or without images; None without such a file.
    """

    out: Path
    error: str
    found: int
    written: int
    datasets: int
    size_in_bytes: int
    resumed: int
    transfer_syntaxes: Mapping[str, int]
    stored_bits: Mapping[int, int]
    positives: int
    annotations_per_image: Mapping[int, int]
    several: int
    overlapping: int
    vanished: int
    contradictory: int
    without_annotation: tuple[Remark, ...]
    bad_annotation: tuple[Remark, ...]
    unreadable: tuple[Remark, ...]
    duplicates: tuple[Remark, ...]
    without_image: tuple[str, ...]
    patients: int
    unknown_patients: int
    notes: tuple[Remark, ...]
    annotations: Annotations | None

    @property
    def skipped(self) -> int:
        """Number of files found that are not in the output."""
        return self.found - self.written


def summarise(
    out: Path, entries: Sequence[JournalEntry], annotations: Annotations | None, resumed: int
) -> PreprocessingReport:
    """Make the report after all sources are read and before the output is written."""

    def remarks(status: str) -> tuple[Remark, ...]:
        return tuple(Remark(entry.file, entry.reason) for entry in entries if entry.status == status)

    kept = [entry for entry in entries if entry.kept]
    known = annotations.rows_of if annotations else {}
    rows_of = {entry.image_id: known[entry.image_id] for entry in kept if annotations}
    annotated = [sum(not row.empty for row in rows) for rows in rows_of.values()]
    syntaxes = Counter(entry.syntax for entry in entries)

    def images_with(numbers: Iterable[int]) -> int:
        """Return the number of images written that have one of these annotation rows."""
        wanted = set(numbers)
        return sum(any(row.number in wanted for row in rows) for rows in rows_of.values())

    return PreprocessingReport(
        out=out,
        error="",
        found=len(entries),
        written=len(kept),
        datasets=0,
        size_in_bytes=0,
        resumed=resumed,
        transfer_syntaxes=dict(sorted(syntaxes.items(), key=lambda item: (-item[1], item[0]))),
        stored_bits=dict(sorted(Counter(entry.bits for entry in entries).items())),
        positives=sum(entry.positive for entry in kept),
        annotations_per_image=dict(sorted(Counter(annotated).items())),
        several=sum(count > 1 for count in annotated),
        overlapping=images_with(annotations.overlapping_rows if annotations else ()),
        vanished=sum(entry.vanished for entry in kept),
        contradictory=images_with(annotations.contradictory_rows if annotations else ()),
        without_annotation=remarks("without annotation"),
        bad_annotation=remarks("bad annotation"),
        unreadable=remarks("unreadable"),
        duplicates=remarks("duplicate"),
        without_image=tuple(sorted(set(known) - {entry.image_id for entry in entries})),
        patients=len({entry.patient for entry in kept if entry.patient}),
        unknown_patients=sum(not entry.patient for entry in kept),
        notes=tuple(Remark(entry.file, entry.reason) for entry in kept if entry.reason),
        annotations=annotations,
    )


def as_json(report: PreprocessingReport) -> str:
    """Return the report as one JSON object whose keys are the attributes' names.

    It omits `resumed`, so that the text is the same whether or not the run was interrupted, and the rows in
    `annotations`. Line numbers count from 1.
    """
    content: dict[str, Any] = {
        "format": "pneumoseg-report",
        "format_version": FORMAT_VERSION,
        **_fields(report, without={"resumed", "annotations"}),
        "annotations": None,
    }
    if report.annotations is not None:
        malformed = [{"row": row, "reason": reason} for row, reason in report.annotations.malformed_rows]
        fields = _fields(report.annotations, without={"rows_of", "runs_of", "blank_reasons"})
        content["annotations"] = {**fields, "malformed_rows": malformed}
    return json.dumps(content, indent=1, default=_plain) + "\n"


def write_report(path: Path, report: PreprocessingReport) -> None:
    """Write the report as JSON, atomically.

    Raises:
        UserError: The operating system refused.
    """
    write_text(path, as_json(report))


def _fields(of: PreprocessingReport | Annotations, without: set[str]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(of)]
    return {name: getattr(of, name) for name in names if name not in without}


def _plain(value: Path | Remark) -> object:
    """Convert a type that JSON does not have."""
    return dataclasses.asdict(value) if isinstance(value, Remark) else str(value)
