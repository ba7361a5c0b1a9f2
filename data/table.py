"""The table that annotation files and submissions are: image ids beside run-length encodings.

Promises: `read_table` gives the rows of any file of that kind with their line numbers and says how it
is laid out; it judges no encoding. Accepted: spaces around names and values, a header or none, a byte
order mark, CRLF, gzip (told by content), commas, semicolons or tabs, further columns where a header
says which two count, blank lines.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from core.errors import UserError
from core.files import explained

_ID_NAMES = frozenset({"imageid", "image_id"})
_RLE_NAMES = frozenset({"encodedpixels", "encoded_pixels", "rle"})
_PLAUSIBLE_RLE = re.compile(r"[0-9\s]*|\s*-1\s*", re.ASCII)
_LONGEST_CELL = 1 << 28  # csv refuses 131,072 characters by default; big masks have more


class Cells(NamedTuple):
    """One row: its line in the file (from 1), and its two cells without spaces around, "" if missing."""

    number: int
    image_id: str
    text: str


@dataclass(frozen=True)
class Table:
    """The content of a file.

    Attributes:
        sha256: Hash of the file's bytes as they lie on disk, in hexadecimal.
        delimiter: What stands between cells.
        header: The names of all columns exactly as written; None if the first row is no header.
        rows: Every row that is neither the header nor blank, in the file's order.
    """

    sha256: str
    delimiter: str
    header: tuple[str, ...] | None
    rows: tuple[Cells, ...]


def read_table(path: Path, what: str, expected: str) -> Table:
    """Read a table of ids and encodings.

    Args:
        path: The file.
        what: It is, for messages: "annotations".
        expected: One sentence for whoever gave another file.

    Raises:
        UserError: The file is missing, unreadable, or no such table; names the row.
    """
    with explained(path, f"read the {what}"):
        content = path.read_bytes()
    text = _text(path, content, expected)
    first_line = text.lstrip().split("\n", 1)[0]
    delimiter = next((mark for mark in ",;\t" if mark in first_line), ",")
    header: tuple[str, ...] | None = None
    columns: tuple[int, int] | None = None
    width = 0
    rows = []
    for number, raw in _lines(path, text, delimiter, expected):
        row = [cell.strip() for cell in raw]
        if columns is None:
            width = len(row)
            columns = _header(path, row, number, expected)
            if columns is not None:
                header = tuple(raw)
                continue
            columns = _headless(path, row, number, expected)
        rows.append(Cells(number, *_pick(row, columns, width)))
    return Table(hashlib.sha256(content).hexdigest(), delimiter, header, tuple(rows))


def _text(path: Path, content: bytes, expected: str) -> str:
    """The file's characters, gzip and byte order mark removed."""
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from error
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        found = content[error.start : error.start + 8]
        raise UserError(f"{path}, row {row}: not UTF-8 text ({found!r}).", expected) from error


def _lines(path: Path, text: str, delimiter: str, expected: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells, as written, of each row that is not blank."""
    with _long_cells():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise UserError(f"{path}, row {reader.line_num}: {error}.", expected) from error


def _header(path: Path, row: Sequence[str], number: int, expected: str) -> tuple[int, int] | None:
    """Where the two columns are if this row is a header; None if it is none."""
    names = [name.casefold() for name in row]
    ids = [index for index, name in enumerate(names) if name in _ID_NAMES]
    encodings = [index for index, name in enumerate(names) if name in _RLE_NAMES]
    if not ids and not encodings:
        return None
    if len(ids) != 1 or len(encodings) != 1:
        raise UserError(f"{path}, row {number}: the columns are {', '.join(row)}.", expected)
    return ids[0], encodings[0]


def _headless(path: Path, row: Sequence[str], number: int, expected: str) -> tuple[int, int]:
    """The two columns of a file without header, whose first row this must plausibly be."""
    if len(row) != 2 or not row[0] or _PLAUSIBLE_RLE.fullmatch(row[1]) is None:
        shown = ",".join(row)[:80]
        raise UserError(f"{path}, row {number}: not an id and an encoding: {shown!r}.", expected)
    return 0, 1


def _pick(row: Sequence[str], columns: tuple[int, int], width: int) -> tuple[str, str]:
    """Id and encoding of a row, empty where the cell is missing; `width` is the first row's."""
    image_id, text = (row[column] if column < len(row) else "" for column in columns)
    surplus = [cell for cell in row[width:] if cell]
    if surplus:
        # Numbers separated by the delimiter: keep them, so that decoding fails and names the row,
        # rather than taking the first number for the whole annotation.
        text = ",".join([text, *surplus])
    return image_id, text


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Let csv read long cells meanwhile; its limit is a setting of the whole process."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
