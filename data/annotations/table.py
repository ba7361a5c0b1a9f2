"""The reader for tables of image ids and run-length encodings: annotation files and submissions.

`read_table` returns all rows with their line numbers, and the file's layout. It does not check encodings.
It accepts:

- CSV with commas, semicolons or tabs, a first line `sep=;` as Excel writes it, and any line ends;
- UTF-8, UTF-16 or UTF-32 with a byte order mark (one between rows, too), and gzip or zip around it;
- with or without a header; further columns if a header names the two that count; a repeated header;
- blank lines, quotes, and spaces around names and values; a quoted mask or remark over several lines.

The file may be a pipe: it is opened once and read to its end. No row is lost in a cell: a quote that is never
closed, or that encloses other rows, is an error that names the line on which it opens.

The parts: `data.annotations.table_text` (bytes, encoding), `compressed_tables` (gzip, zip), `table_columns`
(delimiter, header, columns) and `table_records` (rows, quotes), all in this folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.annotations import table_columns
from data.annotations.compressed_tables import unpack
from data.annotations.image_ids import printable, trimmed
from data.annotations.table_records import read_records, refuse_swallowed_rows
from data.annotations.table_text import decode_text, read_bytes


class TableRow(NamedTuple):
    """One row: the line on which it starts (from 1), and its two cells, trimmed; "" for a missing cell."""

    number: int
    image_id: str
    text: str


@dataclass(frozen=True)
class AnnotationTable:
    """The content of a table file.

    Attributes:
        sha256: Hash of the file's bytes on disk, in hexadecimal.
        delimiter: The character between cells.
        header: The names of all columns exactly as written; None if the first row is not a header.
        rows: Every row that is neither a header nor blank, in the file's order.
        repeated_headers: Line numbers of the headers below the first row, as in concatenated files.
        separator_line: Number of the line `sep=`, with which Excel names the delimiter; None without.
    """

    sha256: str
    delimiter: str
    header: tuple[str, ...] | None
    rows: tuple[TableRow, ...]
    repeated_headers: tuple[int, ...] = ()
    separator_line: int | None = None


def read_table(path: Path, what: str, expected: str) -> AnnotationTable:
    """Read a table of ids and encodings.

    Args:
        path: The file.
        what: The table's name in messages: "annotations".
        expected: A sentence that tells the user which file was expected.

    Raises:
        UserError: The file is missing, unreadable, or not such a table; names the row.
    """
    content = read_bytes(path, what)
    text = decode_text(path, unpack(path, content, expected), expected)
    delimiter, separator_line = table_columns.find_delimiter(path, text)
    header: tuple[str, ...] | None = None
    columns: tuple[int, int] | None = None
    width = 0
    rows: list[TableRow] = []
    repeated: list[int] = []
    for record in read_records(path, text, delimiter, expected):
        row = [trimmed(cell) for cell in record.cells]
        if not any(row) or record.number == separator_line:
            continue
        is_first = columns is None
        if columns is None:
            width = len(row)
            columns = table_columns.columns_of_header(path, row, record.number, expected)
            if columns is not None:
                header = record.cells_as_written(delimiter)
                refuse_swallowed_rows(path, record, columns, width, delimiter, rows=0)
                continue
            columns = 0, 1
        refuse_swallowed_rows(path, record, columns, width, delimiter)
        if is_first:
            table_columns.check_first_row(path, row, record.number, delimiter, expected)
        if table_columns.is_repeated_header(path, row, record.number, columns):
            repeated.append(record.number)
            continue
        image_id, encoding = table_columns.id_and_encoding(row, columns, width)
        rows.append(TableRow(record.number, printable(image_id), encoding))
    digest = hashlib.sha256(content).hexdigest()
    return AnnotationTable(digest, delimiter, header, tuple(rows), tuple(repeated), separator_line)


def explain_missing_encoding(row: TableRow, delimiter: str) -> str:
    """Return a clause that says why a row may lack its encoding, or "" if the reason is unknown.

    Args:
        row: The row.
        delimiter: The delimiter of its file.
    """
    return "" if row.text else table_columns.explain_single_cell(row.image_id, delimiter)
