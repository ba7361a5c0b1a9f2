"""Submissions, written.

Promises: `write_submission` writes the competition's file, `ImageId,EncodedPixels`, one row an image,
whole or not at all, and keeps no row in memory.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from core.errors import UserError
from core.files import replacing

HEADER = ("ImageId", "EncodedPixels")
"""The columns of a submission."""


def write_submission(path: Path, rows: Iterable[tuple[str, str]]) -> int:
    """Write a submission, row by row as they come.

    Args:
        path: The file; compressed if it ends in `.gz`.
        rows: Image id and run-length encoding (`rle.encode`; `rle.EMPTY` for none), one an image.

    Returns:
        The number of rows.

    Raises:
        UserError: The file cannot be written; what stood there is untouched.
        ValueError: An id is empty or comes twice, or an encoding is empty.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    seen = set[str]()
    with replacing(path) as partial, _text_file(partial, path.suffix == ".gz") as file:
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
