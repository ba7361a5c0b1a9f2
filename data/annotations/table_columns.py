"""The columns of a table: its delimiter, its header, and which cells hold the id and the encoding.

The patterns here only tell a row from other text. `data.annotations.rle` decides if an encoding is valid.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Sequence
from pathlib import Path

from core.base.errors import UserError
from data.annotations import rle
from data.annotations.image_ids import trimmed
from data.annotations.table_text import BYTE_ORDER_MARK, LINE_END, allow_long_cells, count_line_ends

TAB = "\t"
DELIMITERS = f",;{TAB}"
PLAUSIBLE_RLE = re.compile(r"\s*|[\s.eE+-]*[0-9][0-9\s.eE+-]*", re.ASCII)
"""A cell that may be an encoding: it is empty or consists of the characters of numbers."""

_NUMBER = r"[0-9][0-9.eE+]*"
CERTAIN_RLE = re.compile(rf"-1(\.0*)?|{_NUMBER}\s+{_NUMBER}(\s+{_NUMBER}\s+{_NUMBER})*", re.ASCII)
"""A cell that is an encoding: -1, or an even count of numbers."""

_ID_NAMES = frozenset({"imageid", "image_id"})
_RLE_NAMES = frozenset({"encodedpixels", "encoded_pixels", "rle"})
_LONGEST_COLUMN_NAME = max(map(len, _ID_NAMES | _RLE_NAMES))
_SEPARATOR_LINE = re.compile(  # written by Excel; a program that pads rows adds delimiters behind it
    r"(?P<before>[\s\ufeff]*)\"?sep=(?P<mark>\\t|[^\"\r\n])\"?[,;\t ]*(?=[\r\n]|\Z)", re.IGNORECASE
)
_SHOWN = 80


def find_delimiter(path: Path, text: str) -> tuple[str, int | None]:
    """Return the delimiter, and the number of the `sep=` line that names it (None without such a line).

    Without a `sep=` line, the delimiter is the one that separates the two column names of a header. If there
    is no header, it is the one that makes the first row an id and a plausible encoding.
    """
    if (said := _SEPARATOR_LINE.match(text)) is not None:
        mark = "\t" if said["mark"] == "\\t" else said["mark"]
        line = 1 + count_line_ends(text, said.end("before"))
        if mark not in DELIMITERS:
            raise UserError(
                f"{path}, row {line}: the delimiter {mark!r} is none of , ; and tab.",
                "Save the table with one of these.",
            )
        return mark, line
    first_line = LINE_END.split(text.lstrip().lstrip(BYTE_ORDER_MARK), maxsplit=1)[0]
    present = [mark for mark in DELIMITERS if mark in first_line]
    with allow_long_cells(), contextlib.suppress(csv.Error):  # `read_records` reports the error
        rows = {mark: _split_row(first_line, mark) for mark in present}
        for fits in (_has_both_names, _is_plausible):
            for mark, row in rows.items():
                if fits(row):
                    return mark, None
    return present[0] if present else ",", None


def _split_row(line: str, delimiter: str) -> list[str]:
    reader = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    return [trimmed(cell) for cell in next(reader, [])]


def _has_both_names(row: Sequence[str]) -> bool:
    return all(len(found) == 1 for found in _find_names(row))


def _is_plausible(row: Sequence[str]) -> bool:
    """Whether a row looks like an id and an encoding."""
    return len(row) == 2 and bool(row[0]) and PLAUSIBLE_RLE.fullmatch(row[1]) is not None


def _find_names(row: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the indices of the cells that name the id column, and of those that name the encoding column."""
    names = [cell.casefold() if len(cell) <= _LONGEST_COLUMN_NAME else "" for cell in row]
    ids = [index for index, name in enumerate(names) if name in _ID_NAMES]
    return ids, [index for index, name in enumerate(names) if name in _RLE_NAMES]


def columns_of_header(path: Path, row: Sequence[str], number: int, expected: str) -> tuple[int, int] | None:
    """Return the indices of the id and encoding columns, or None if the first row is not a header.

    Raises:
        UserError: The row names only one of the two columns, or one of them twice.
    """
    ids, encodings = _find_names(row)
    if not ids and not encodings:
        return None
    if len(ids) != 1 or len(encodings) != 1:
        raise UserError(f"{path}, row {number}: the columns are {', '.join(row)}.", expected)
    return ids[0], encodings[0]


def is_repeated_header(path: Path, row: Sequence[str], number: int, columns: tuple[int, int]) -> bool:
    """Whether a later row is a header again, as in concatenated files.

    Raises:
        UserError: It has its columns in other places than the first header.
    """
    ids, encodings = _find_names(row)
    if len(ids) != 1 or len(encodings) != 1:
        return False
    if (ids[0], encodings[0]) != columns:
        raise UserError(
            f"{path}, row {number}: another header, with its columns elsewhere: {', '.join(row)}.",
            "Were files put together? Give all of them the same columns.",
        )
    return True


def check_first_row(path: Path, row: Sequence[str], number: int, delimiter: str, expected: str) -> None:
    """Refuse the first row of a table without header unless it looks like an id and an encoding."""
    if _is_plausible(row):
        return
    shown = delimiter.join(row)[:_SHOWN]
    if len(row) == 1:
        why = explain_single_cell(row[0], delimiter)
    else:
        why = next(filter(None, map(rle.explain_odd_characters, row)), "")
    because = f" ({why})" if why else ""
    raise UserError(f"{path}, row {number}: not an id and an encoding: {shown!r}{because}.", expected)


def explain_single_cell(cell: str, delimiter: str) -> str:
    """Return a clause that says why a row has one cell instead of two, or "" if the reason is unknown."""
    for mark in dict.fromkeys((delimiter, *DELIMITERS)):
        parts = [trimmed(part) for part in cell.split(mark)]
        if any(map(CERTAIN_RLE.fullmatch, parts[1:])) or all(_find_names(parts)):
            if mark == delimiter:
                return "the whole row is in quotes: remove them"
            return f"the row has one cell; is its delimiter {'a tab' if mark == TAB else repr(mark)}?"
    return ""


def id_and_encoding(row: Sequence[str], columns: tuple[int, int], width: int) -> tuple[str, str]:
    """Return the id and the encoding of a row, "" if missing; `width` is the first row's cell count."""
    image_id, text = (row[column] if column < len(row) else "" for column in columns)
    surplus = [cell for cell in row[width:] if cell]
    if surplus:
        # The delimiter separates the numbers, too. Keep them all, so that decoding fails and names the row.
        # The first number alone would be taken for the whole annotation.
        text = ",".join([text, *surplus])
    return image_id, text
