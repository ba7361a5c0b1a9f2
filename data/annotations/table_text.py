"""The text of a table file: its bytes, its encoding and its line ends.

`read_bytes` reads a file or a pipe. `decode_text` decodes UTF-8, UTF-16 or UTF-32 and refuses all else.
`data.annotations.table_records` splits the text into rows.
"""

from __future__ import annotations

import contextlib
import csv
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from core.base.errors import UserError
from core.files.system_errors import explain_os_errors
from data.annotations.image_ids import printable

LINE_END = re.compile(r"\r\n|\r|\n")
BYTE_ORDER_MARK = "\ufeff"

_SECONDS_BEFORE_NOTE = 2.0  # how long a pipe may have no writer before a message says so
_LONGEST_CELL = 1 << 28  # csv refuses more than 131,072 characters by default; large masks have more
_ENCODINGS = (  # by the byte order mark at the start; the UTF-32 mark begins with the UTF-16 mark
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def read_bytes(path: Path, what: str) -> bytes:
    """Read a file or a pipe to its end. A message on stderr says if a pipe has no writer yet."""
    note = threading.Timer(
        _SECONDS_BEFORE_NOTE,
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


def decode_text(path: Path, content: bytes, expected: str) -> str:
    """Decode the bytes of a table and remove the byte order mark.

    Raises:
        UserError: The bytes do not fit the encoding, or contain NUL; names the row.
    """
    encoding = next((name for mark, name in _ENCODINGS if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        whole: bytes = error.object  # without the byte order mark
        row = 1 + len(LINE_END.findall(whole[: error.start].decode(encoding, "replace")))
        found = whole[error.start : error.start + 8]
        kind = "UTF-8" if encoding == "utf-8-sig" else encoding.upper()
        raise UserError(
            f"{path}, row {row}: not {kind} text ({found!r}).", f"{expected} Save it as CSV in UTF-8."
        ) from error
    if (at := text.find("\0")) >= 0:
        row = 1 + count_line_ends(text, at)
        raise UserError(
            f"{path}, row {row}: it contains a NUL byte, so it is not plain text or was damaged.",
            f"{expected} Save it as CSV in UTF-8.",
        )
    return text


def count_line_ends(text: str, offset: int) -> int:
    """Return the number of line ends before `offset`."""
    return len(LINE_END.findall(text, 0, offset))


@contextlib.contextmanager
def allow_long_cells() -> Iterator[None]:
    """Raise csv's limit on the length of a cell, which holds for the whole process, and restore it."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
