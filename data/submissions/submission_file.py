"""Submission files in the competition's format: writing and reading.

A submission is a table `ImageId,EncodedPixels` with one row per image. `write_submission` writes it whole or
not at all, and keeps only the ids in memory. `data.submissions.submission_comparison` compares a submission
with the annotations; `data.submissions.submission_check` looks for its faults.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from core.files.atomic import replacing
from core.files.checks import check_place
from data.annotations.table import AnnotationTable, read_table

HEADER = ("ImageId", "EncodedPixels")
"""The columns of a submission."""

EXPECTED = "Expected a submission: two columns, ImageId and EncodedPixels."
"""The hint of errors about a file that is no submission."""

_MOST_NAMED = 3


def write_submission(path: Path, rows: Iterable[tuple[str, str]]) -> int:
    """Write a submission, one row at a time.

    Args:
        path: The file, or a stream (`core.files.destinations`); compressed if it ends in `.gz`.
        rows: Image id and run-length encoding (`rle.encode`; `rle.EMPTY` for an empty mask), one per image.

    Returns:
        The number of rows.

    Raises:
        UserError: The file cannot be written; an existing file stays as it was.
        ValueError: An id is empty or occurs twice, or an encoding is empty.
    """
    check_place(path)
    with replacing(path, or_stream=True) as partial:
        return write_rows(partial, rows, compressed=path.suffix == ".gz")


def write_rows(path: Path, rows: Iterable[tuple[str, str]], *, compressed: bool) -> int:
    """Write a submission into a file, not atomically; see `write_submission`."""
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
    # No name and no time in gzip's header, so that the same rows give the same bytes.
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
    ):
        yield file


def read_submission(path: Path) -> AnnotationTable:
    """Read a submission without checking its rows.

    Raises:
        UserError: The file cannot be read, or is not a table of ids and encodings.
    """
    return read_table(path, "submission", EXPECTED)


def image_count(ids: Sequence[str]) -> str:
    """Return the number of ids as text: "1 image", "2,000 images"."""
    return f"{len(ids):,} image{'' if len(ids) == 1 else 's'}"


def abbreviated(ids: Sequence[str]) -> str:
    """Return the first ids as text, with the number of the others."""
    more = f" and {len(ids) - _MOST_NAMED:,} more" if len(ids) > _MOST_NAMED else ""
    return ", ".join(ids[:_MOST_NAMED]) + more
