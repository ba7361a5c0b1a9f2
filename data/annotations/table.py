"""The table that annotation files and submissions are: image ids beside run-length encodings.

Promises: `read_table` gives the rows of any file of that kind with the lines on which they start and says how
it is laid out; it judges no encoding. Accepted: spaces around names and values, quotes, a header or none,
a byte order mark (in the middle too, as of files put together), UTF-8, UTF-16 or UTF-32 with such a mark, any
line ends, gzip and zip (`data.annotations.compressed_tables`), commas, semicolons or tabs, further columns
where a header says which two count, blank lines, a first line `sep=;` as Excel knows it. A header that comes
again is in `Table.repeated_headers`. The file may be a pipe: it is opened once and read to its end.

No row is lost in a cell: a quote that is not closed, or that closes rows below, is an error with the line
on which it opens. A mask, or a remark, may be broken over lines within quotes.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from core.base.errors import UserError
from core.files.system_errors import explain_os_errors
from data.annotations import rle
from data.annotations.compressed_tables import unpacked
from data.annotations.image_ids import printable, trimmed

_ID_NAMES = frozenset({"imageid", "image_id"})
_RLE_NAMES = frozenset({"encodedpixels", "encoded_pixels", "rle"})
_PLAUSIBLE_RLE = re.compile(r"\s*|[\s.eE+-]*[0-9][0-9\s.eE+-]*", re.ASCII)  # `data.annotations.rle` judges it
_NUMBER = r"[0-9][0-9.eE+]*"
_CERTAIN_RLE = re.compile(rf"-1(\.0*)?|{_NUMBER}\s+{_NUMBER}(\s+{_NUMBER}\s+{_NUMBER})*", re.ASCII)
_TAB = "\t"
_DELIMITERS = f",;{_TAB}"
_SEPARATOR_LINE = re.compile(  # Excel's; a program that pads rows puts delimiters behind it
    r"(?P<before>[\s\ufeff]*)\"?sep=(?P<mark>\\t|[^\"\r\n])\"?[,;\t ]*(?=[\r\n]|\Z)", re.IGNORECASE
)
_PATIENCE_S = 2.0  # before it is said what a pipe is waited for
_LONGEST_COLUMN_NAME = max(map(len, _ID_NAMES | _RLE_NAMES))
_LONGEST_CELL = 1 << 28  # csv refuses 131,072 characters by default; big masks have more
_LINE_END = re.compile(r"\r\n|\r|\n")
_BOM = "\ufeff"
_ENCODINGS = (  # that a mark at the start tells; the longer mark begins with the shorter
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_SHOWN = 80


class Cells(NamedTuple):
    """One row: the line where it starts (from 1), and its two cells without spaces around, "" if missing."""

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
        rows: Every row that is neither a header nor blank, in the file's order.
        repeated_headers: Lines of the headers below the first row, as in files that were put together.
        separator_line: Line on which Excel's `sep=` names the delimiter; None without.
    """

    sha256: str
    delimiter: str
    header: tuple[str, ...] | None
    rows: tuple[Cells, ...]
    repeated_headers: tuple[int, ...] = ()
    separator_line: int | None = None


def read_table(path: Path, what: str, expected: str) -> Table:
    """Read a table of ids and encodings.

    Args:
        path: The file.
        what: It is, for messages: "annotations".
        expected: One sentence for whoever gave another file.

    Raises:
        UserError: The file is missing, unreadable, or no such table; names the row.
    """
    content = _content(path, what)
    text = _text(path, unpacked(path, content, expected), expected)
    delimiter, separator_line = _delimiter(path, text)
    header: tuple[str, ...] | None = None
    columns: tuple[int, int] | None = None
    width = 0
    rows: list[Cells] = []
    repeated: list[int] = []
    for record in _records(path, text, delimiter, expected):
        row = [trimmed(cell) for cell in record.cells]
        if not any(row) or record.number == separator_line:
            continue
        if columns is None:
            width = len(row)
            columns = _header(path, row, record.number, expected)
            if columns is not None:
                header = record.as_written(delimiter)
                _refuse_swallowed(path, record, columns, width, delimiter, rows=0)
                continue
            columns = _headless(path, row, record, delimiter, expected)
        _refuse_swallowed(path, record, columns, width, delimiter)
        if _is_header(path, row, record.number, columns):
            repeated.append(record.number)
            continue
        image_id, encoding = _pick(row, columns, width)
        rows.append(Cells(record.number, printable(image_id), encoding))
    digest = hashlib.sha256(content).hexdigest()
    return Table(digest, delimiter, header, tuple(rows), tuple(repeated), separator_line)


def why_one_cell(cells: Cells, delimiter: str) -> str:
    """Why a row may lack its encoding, in one clause; "" where nothing tells.

    Args:
        cells: The row.
        delimiter: Of its file.
    """
    return "" if cells.text else _why_one_cell(cells.image_id, delimiter)


def _why_one_cell(cell: str, delimiter: str) -> str:
    for mark in dict.fromkeys((delimiter, *_DELIMITERS)):
        parts = [trimmed(part) for part in cell.split(mark)]
        if any(map(_CERTAIN_RLE.fullmatch, parts[1:])) or all(_named(parts)):
            if mark == delimiter:
                return "the whole row is in quotes: remove them"
            return f"the row has one cell; is its delimiter {'a tab' if mark == _TAB else repr(mark)}?"
    return ""


def _content(path: Path, what: str) -> bytes:
    """The bytes of a file, or of a pipe; where that has no writer, it is said that one is waited for."""
    note = threading.Timer(
        _PATIENCE_S,
        lambda: print(
            f"waiting for something to write the {what} into {printable(str(path))}, which is a pipe",
            file=sys.stderr,
            flush=True,
        ),
    )
    note.daemon = True
    with explain_os_errors(path, f"read the {what}"):
        if path.is_fifo():
            note.start()
        try:
            file = path.open("rb")  # waits until a pipe has a writer
        finally:
            note.cancel()
        with file:
            return file.read()


def _delimiter(path: Path, text: str) -> tuple[str, int | None]:
    """What stands between cells, and the line that says so, if there is one.

    It is what makes cells of the two names of a header, or else of a plausible first row.
    """
    if (said := _SEPARATOR_LINE.match(text)) is not None:
        mark = "\t" if said["mark"] == "\\t" else said["mark"]
        line = 1 + _lines_before(text, said.end("before"))
        if mark not in _DELIMITERS:
            raise UserError(
                f"{path}, row {line}: the delimiter {mark!r} is none of , ; and tab.",
                "Save the table with one of these.",
            )
        return mark, line
    first_line = _LINE_END.split(text.lstrip().lstrip(_BOM), maxsplit=1)[0]
    present = [mark for mark in _DELIMITERS if mark in first_line]
    with _long_cells(), contextlib.suppress(csv.Error):  # `_records` says what is wrong
        rows = {mark: _first_row(first_line, mark) for mark in present}
        for fits in (_has_both_names, _is_plausible):
            for mark, row in rows.items():
                if fits(row):
                    return mark, None
    return present[0] if present else ",", None


def _first_row(line: str, delimiter: str) -> list[str]:
    reader = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    return [trimmed(cell) for cell in next(reader, [])]


def _has_both_names(row: Sequence[str]) -> bool:
    return all(len(found) == 1 for found in _named(row))


def _is_plausible(row: Sequence[str]) -> bool:
    """Whether a row is an id and an encoding, as far as that can be seen."""
    return len(row) == 2 and bool(row[0]) and _PLAUSIBLE_RLE.fullmatch(row[1]) is not None


def _text(path: Path, content: bytes, expected: str) -> str:
    """The file's characters, byte order mark removed."""
    encoding = next((name for mark, name in _ENCODINGS if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        whole: bytes = error.object  # without the mark
        row = 1 + len(_LINE_END.findall(whole[: error.start].decode(encoding, "replace")))
        found = whole[error.start : error.start + 8]
        kind = "UTF-8" if encoding == "utf-8-sig" else encoding.upper()
        raise UserError(
            f"{path}, row {row}: not {kind} text ({found!r}).", f"{expected} Save it as CSV in UTF-8."
        ) from error
    if (at := text.find("\0")) >= 0:
        row = 1 + len(_LINE_END.findall(text, 0, at))
        raise UserError(
            f"{path}, row {row}: it contains a NUL byte, so it is not plain text or was damaged.",
            f"{expected} Save it as CSV in UTF-8.",
        )
    return text


class _Record(NamedTuple):
    """One row: the line on which it starts, how many lines it takes, its text, its cells."""

    number: int
    lines: int
    text: str
    cells: list[str]

    def as_written(self, delimiter: str) -> tuple[str, ...]:
        """The cells with the spaces before them, which `csv` left out."""
        return tuple(next(csv.reader(io.StringIO(self.text, newline=""), delimiter=delimiter)))


def _records(path: Path, text: str, delimiter: str, expected: str) -> Iterator[_Record]:
    """Each row, blank ones too."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line.lstrip(_BOM) if line[0] == _BOM else line)
            yield taken[-1]

    number = 1
    with _long_cells():
        reader = csv.reader(lines(), delimiter=delimiter, skipinitialspace=True)
        try:
            for cells in reader:
                written = taken[0] if len(taken) == 1 else "".join(taken)
                if '"' in written:
                    _refuse_loose_quotes(path, written, number, delimiter)
                yield _Record(number, len(taken), written, cells)
                number += len(taken)
                taken.clear()
        except csv.Error as error:
            raise UserError(f"{path}, row {number}: {error}.", expected) from error


class _Quoted(NamedTuple):
    """A cell in quotes: its place in the row, its quotes' places in the row's text, what follows them."""

    cell: int
    opens: int
    closes: int
    rest: str


def _quoted(text: str, delimiter: str) -> Iterator[_Quoted]:
    """The cells of a row that begin with a quote, as `csv` sees them; `closes` is -1 where none does."""
    tail = re.compile(rf"[^{delimiter}\r\n]*")
    inside = re.compile(r'[^"]*(?:""[^"]*)*')
    at = cell = 0
    while True:
        while text[at : at + 1] == " ":
            at += 1
        if text[at : at + 1] == '"':
            end = inside.match(text, at + 1).end()  # type: ignore[union-attr]  # it matches anything
            if end == len(text):
                yield _Quoted(cell, at, -1, "")
                return
            rest = tail.match(text, end + 1)
            assert rest is not None
            yield _Quoted(cell, at, end, rest[0])
            at = rest.end()
        else:
            at = tail.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] != delimiter:
            return
        at, cell = at + 1, cell + 1


def _refuse_loose_quotes(path: Path, text: str, number: int, delimiter: str) -> None:
    """Refuse a row, on line `number`, in which a quote opens and does not close where its cell ends."""
    suspect = 0  # the line of a quote that took something else than numbers from further lines
    for found in _quoted(text, delimiter):
        line = number + _lines_before(text, found.opens)
        if found.closes < 0:
            raise UserError(
                f'{path}, row {suspect or line}: a quote (") opens here and is never closed.',
                "All rows below would be one cell. Close the quote where its cell ends, or remove it.",
            )
        content = text[found.opens + 1 : found.closes]
        if not suspect and _LINE_END.search(content) and _PLAUSIBLE_RLE.fullmatch(content) is None:
            suspect = line
        if rest := trimmed(found.rest):
            closes = number + _lines_before(text, found.closes)
            where = "" if closes == line else f" in row {closes}"
            raise UserError(
                f'{path}, row {line}: a quote (") opens here and closes{where} before {rest[:20]!r}, '
                "in the middle of a cell.",
                "Remove the quote that is too much; a quote within quotes is written twice.",
            )


def _refuse_swallowed(
    path: Path, record: _Record, columns: tuple[int, int], width: int, delimiter: str, rows: int = 1
) -> None:
    """Refuse a row of several lines, a header where `rows` is 0, if a cell of it has other rows in it.

    A mask may be broken over lines. Two quotes that do not belong together make one cell of all rows between.
    """
    if record.lines == 1:
        return
    several = [
        found
        for found in _quoted(record.text, delimiter)
        if _LINE_END.search(record.text, found.opens, found.closes)
    ]
    for found in several:
        content = record.text[found.opens + 1 : found.closes]
        needed = _LINE_END.split(trimmed(content)) if found.cell in columns or found.cell >= width else []
        if (
            (len(needed) > 1 and any(delimiter in line.lstrip() for line in needed))  # a tab may indent
            or any(
                _looks_like_a_row(line, columns, width, delimiter) for line in _LINE_END.split(content)[1:]
            )
            or (found is several[0] and _rows_within(record.text, columns, width, delimiter) > rows)
        ):
            first = record.number + _lines_before(record.text, found.opens)
            last = record.number + _lines_before(record.text, found.closes)
            raise UserError(
                f'{path}, row {first}: a quote (") opens here and closes in row {last}, with other cells or '
                "rows in between.",
                "Close the quote where its cell ends, or remove both.",
            )


def _rows_within(text: str, columns: tuple[int, int], width: int, delimiter: str) -> int:
    """How many lines of a row are rows by themselves, the quotes left aside."""
    lines = _LINE_END.split(text)
    return sum(_looks_like_a_row(line, columns, width, delimiter) for line in lines)


def _looks_like_a_row(line: str, columns: tuple[int, int], width: int, delimiter: str) -> bool:
    """Whether a line within a quoted cell is a row, of this file or of one with another delimiter.

    It may have more or fewer cells than the header. Prose with a number behind a comma is no row.
    """
    for mark in _DELIMITERS:
        cells = line.split(mark)
        if mark not in line or len(cells) <= max(columns):
            continue
        image_id, encoding = (trimmed(trimmed(cells[column]).strip('"')) for column in columns)
        if not image_id or not encoding:
            continue
        if mark == delimiter:
            is_alike = len(cells) == width and len(image_id.split()) == 1
            found = (_PLAUSIBLE_RLE if is_alike else _CERTAIN_RLE).fullmatch(encoding) is not None
        else:  # tabs between the numbers of a mask are white space
            is_mask = "-" not in line and _PLAUSIBLE_RLE.fullmatch(line.strip('"')) is not None
            found = not is_mask and _CERTAIN_RLE.fullmatch(encoding) is not None
        if found:
            return True
    return False


def _lines_before(text: str, offset: int) -> int:
    return len(_LINE_END.findall(text, 0, offset))


def _header(path: Path, row: Sequence[str], number: int, expected: str) -> tuple[int, int] | None:
    """Where the two columns are if this first row is a header; None if it is none."""
    ids, encodings = _named(row)
    if not ids and not encodings:
        return None
    if len(ids) != 1 or len(encodings) != 1:
        raise UserError(f"{path}, row {number}: the columns are {', '.join(row)}.", expected)
    return ids[0], encodings[0]


def _is_header(path: Path, row: Sequence[str], number: int, columns: tuple[int, int]) -> bool:
    """Whether a later row is a header again: of another file, appended to the first."""
    ids, encodings = _named(row)
    if len(ids) != 1 or len(encodings) != 1:
        return False
    if (ids[0], encodings[0]) != columns:
        raise UserError(
            f"{path}, row {number}: another header, with its columns elsewhere: {', '.join(row)}.",
            "Were files put together? Give all of them the same columns.",
        )
    return True


def _named(row: Sequence[str]) -> tuple[list[int], list[int]]:
    """Which cells have the names of ids, and which those of encodings."""
    names = [cell.casefold() if len(cell) <= _LONGEST_COLUMN_NAME else "" for cell in row]
    ids = [index for index, name in enumerate(names) if name in _ID_NAMES]
    return ids, [index for index, name in enumerate(names) if name in _RLE_NAMES]


def _headless(
    path: Path, row: Sequence[str], record: _Record, delimiter: str, expected: str
) -> tuple[int, int]:
    """The two columns of a file without header, whose first row this must plausibly be."""
    columns = 0, 1
    _refuse_swallowed(path, record, columns, len(row), delimiter)
    if not _is_plausible(row):
        shown = delimiter.join(row)[:_SHOWN]
        if len(row) == 1:
            why = _why_one_cell(row[0], delimiter)
        else:
            why = next(filter(None, map(rle.odd_characters, row)), "")
        because = f" ({why})" if why else ""
        raise UserError(
            f"{path}, row {record.number}: not an id and an encoding: {shown!r}{because}.", expected
        )
    return columns


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
