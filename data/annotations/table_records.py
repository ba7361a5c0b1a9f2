"""The rows of a table's text: cells, quotes and line numbers.

`read_records` splits the text into rows and refuses a quote that is never closed. `refuse_swallowed_rows`
refuses a quoted cell that contains other rows. So no row is lost in a cell.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from core.base.errors import UserError
from data.annotations.image_ids import trimmed
from data.annotations.table_columns import CERTAIN_RLE, DELIMITERS, PLAUSIBLE_RLE
from data.annotations.table_text import BYTE_ORDER_MARK, LINE_END, allow_long_cells, count_line_ends


class Record(NamedTuple):
    """One row of a table.

    Attributes:
        number: Line on which it starts, from 1.
        lines: Number of lines that it takes.
        text: Its text as written.
        cells: Its cells as `csv` reads them.
    """

    number: int
    lines: int
    text: str
    cells: list[str]

    def cells_as_written(self, delimiter: str) -> tuple[str, ...]:
        """Return the cells with their leading spaces, which `cells` lacks."""
        return tuple(next(csv.reader(io.StringIO(self.text, newline=""), delimiter=delimiter)))


def read_records(path: Path, text: str, delimiter: str, expected: str) -> Iterator[Record]:
    """Yield each row of a text, blank rows included.

    Raises:
        UserError: A quote is never closed, or closes in the middle of a cell; names the row.
    """
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line.lstrip(BYTE_ORDER_MARK) if line[0] == BYTE_ORDER_MARK else line)
            yield taken[-1]

    number = 1
    with allow_long_cells():
        reader = csv.reader(lines(), delimiter=delimiter, skipinitialspace=True)
        try:
            for cells in reader:
                written = taken[0] if len(taken) == 1 else "".join(taken)
                if '"' in written:
                    _refuse_loose_quotes(path, written, number, delimiter)
                yield Record(number, len(taken), written, cells)
                number += len(taken)
                taken.clear()
        except csv.Error as error:
            raise UserError(f"{path}, row {number}: {error}.", expected) from error


class _QuotedCell(NamedTuple):
    """A cell that begins with a quote.

    Attributes:
        cell: Its index in the row.
        opens: Offset of the opening quote in the row's text.
        closes: Offset of the closing quote; -1 if there is none.
        rest: The text between the closing quote and the end of the cell.
    """

    cell: int
    opens: int
    closes: int
    rest: str


def _quoted_cells(text: str, delimiter: str) -> Iterator[_QuotedCell]:
    """Yield the cells of a row that begin with a quote, by the rules of `csv`."""
    tail = re.compile(rf"[^{delimiter}\r\n]*")
    inside = re.compile(r'[^"]*(?:""[^"]*)*')
    at = cell = 0
    while True:
        while text[at : at + 1] == " ":
            at += 1
        if text[at : at + 1] == '"':
            end = inside.match(text, at + 1).end()  # type: ignore[union-attr]  # it matches anything
            if end == len(text):
                yield _QuotedCell(cell, at, -1, "")
                return
            rest = tail.match(text, end + 1)
            assert rest is not None
            yield _QuotedCell(cell, at, end, rest[0])
            at = rest.end()
        else:
            at = tail.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] != delimiter:
            return
        at, cell = at + 1, cell + 1


def _refuse_loose_quotes(path: Path, text: str, number: int, delimiter: str) -> None:
    """Refuse a row, on line `number`, in which a quote opens and does not close where its cell ends."""
    suspect = 0  # the line of a quoted cell over several lines that holds something else than numbers
    for found in _quoted_cells(text, delimiter):
        line = number + count_line_ends(text, found.opens)
        if found.closes < 0:
            raise UserError(
                f'{path}, row {suspect or line}: a quote (") opens here and is never closed.',
                "All rows below would be one cell. Close the quote where its cell ends, or remove it.",
            )
        content = text[found.opens + 1 : found.closes]
        if not suspect and LINE_END.search(content) and PLAUSIBLE_RLE.fullmatch(content) is None:
            suspect = line
        if rest := trimmed(found.rest):
            closes = number + count_line_ends(text, found.closes)
            where = "" if closes == line else f" in row {closes}"
            raise UserError(
                f'{path}, row {line}: a quote (") opens here and closes{where} before {rest[:20]!r}, '
                "in the middle of a cell.",
                "Remove the quote that is too much; a quote within quotes is written twice.",
            )


def refuse_swallowed_rows(
    path: Path, record: Record, columns: tuple[int, int], width: int, delimiter: str, rows: int = 1
) -> None:
    """Refuse a row over several lines if one of its quoted cells contains other rows.

    A mask may be broken over lines. But two quotes that do not belong together make one cell of all rows
    between them.

    Args:
        path: The file, for messages.
        record: The row.
        columns: Indices of the id and the encoding column.
        width: Number of cells of the first row.
        delimiter: The file's delimiter.
        rows: Number of table rows that `record` holds: 0 for a header, else 1.

    Raises:
        UserError: A cell contains other rows; names the lines of its quotes.
    """
    if record.lines == 1:
        return
    several = [
        found
        for found in _quoted_cells(record.text, delimiter)
        if LINE_END.search(record.text, found.opens, found.closes)
    ]
    for found in several:
        content = record.text[found.opens + 1 : found.closes]
        needed = LINE_END.split(trimmed(content)) if found.cell in columns or found.cell >= width else []
        if (
            (len(needed) > 1 and any(delimiter in line.lstrip() for line in needed))  # a tab may indent
            or any(_looks_like_a_row(line, columns, width, delimiter) for line in LINE_END.split(content)[1:])
            or (found is several[0] and _count_rows(record.text, columns, width, delimiter) > rows)
        ):
            first = record.number + count_line_ends(record.text, found.opens)
            last = record.number + count_line_ends(record.text, found.closes)
            raise UserError(
                f'{path}, row {first}: a quote (") opens here and closes in row {last}, with other cells or '
                "rows in between.",
                "Close the quote where its cell ends, or remove both.",
            )


def _count_rows(text: str, columns: tuple[int, int], width: int, delimiter: str) -> int:
    """Return the number of lines of a row that would be rows by themselves if quotes did not count."""
    lines = LINE_END.split(text)
    return sum(_looks_like_a_row(line, columns, width, delimiter) for line in lines)


def _looks_like_a_row(line: str, columns: tuple[int, int], width: int, delimiter: str) -> bool:
    """Whether a line within a quoted cell is a row, of this file or of one with another delimiter.

    It may have more or fewer cells than the header. Prose with a number behind a comma is not a row.
    """
    for mark in DELIMITERS:
        cells = line.split(mark)
        if mark not in line or len(cells) <= max(columns):
            continue
        image_id, encoding = (trimmed(trimmed(cells[column]).strip('"')) for column in columns)
        if not image_id or not encoding:
            continue
        if mark == delimiter:
            is_alike = len(cells) == width and len(image_id.split()) == 1
            found = (PLAUSIBLE_RLE if is_alike else CERTAIN_RLE).fullmatch(encoding) is not None
        else:  # tabs between the numbers of a mask are white space
            is_mask = "-" not in line and PLAUSIBLE_RLE.fullmatch(line.strip('"')) is not None
            found = not is_mask and CERTAIN_RLE.fullmatch(encoding) is not None
        if found:
            return True
    return False
