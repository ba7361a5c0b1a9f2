"""Compressed table files: gzip and zip, recognised by content and never by name.

`unpack` returns the content of a gzip or zip file, also if one lies in the other, up to `MOST_BYTES` bytes. A
zip file must hold one table; files that macOS adds do not count. Files of other kinds that have known first
bytes (an Excel workbook, a web page, xz …) are refused with the name of the kind.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from core.base.errors import UserError
from data.annotations.image_ids import printable

MOST_BYTES = 1 << 29
"""A longer table is not unpacked; the competition's has 6 million bytes."""

_GZIP = b"\x1f\x8b"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second is the start of an archive without files
_DEEPEST = 4
_AT_ONCE = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks the others without a limit on memory
_METHOD_NAMES = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}
_TABLES = frozenset({".csv", ".tsv", ".txt", ".gz"})
_MOST_NAMED = 5
_ENCRYPTED = 1  # bit in a member's flags
_SAVE_AS_CSV = "Save the table as CSV."
_UNPACK = "Unpack it first."

_KINDS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"\xfd7zXZ\0"), "an xz archive", _UNPACK),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "a bzip2 archive", _UNPACK),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive", _UNPACK),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "a zstd archive", _UNPACK),
    (re.compile(rb"Rar!\x1a\x07"), "a RAR archive", _UNPACK),
    (re.compile(rb"(?s)PAR1.*PAR1\Z"), "a Parquet file", _SAVE_AS_CSV),
    (re.compile(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an old Excel workbook (.xls)", _SAVE_AS_CSV),
    (re.compile(rb"\x89HDF\r\n\x1a\n"), "an HDF5 file", "Name the table instead."),
    (re.compile(rb"%PDF-"), "a PDF file", "Name the table instead."),
    (re.compile(rb"SQLite format 3\0"), "an SQLite database", _SAVE_AS_CSV),
    (re.compile(rb"(?s).{128}DICM"), "a DICOM file", "Name the table instead."),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer", "Fetch the file itself: `git lfs pull`."),
    (
        re.compile(rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body|\?xml)\b"),
        "a web page or XML",
        "Was the page with the link saved, and not the file? Download it again.",
    ),
)
_OFFICE = (
    ("xl/workbook.xml", "an Excel workbook (.xlsx)"),
    ("xl/workbook.bin", "an Excel workbook (.xlsb)"),
    ("content.xml", "an OpenDocument file (.ods)"),
    ("Index/Document.iwa", "a Numbers document"),
    ("word/document.xml", "a Word document (.docx)"),
)


def unpack(path: Path, content: bytes, expected: str) -> bytes:
    """Unpack a file from gzip and zip.

    Args:
        path: The file, for messages.
        content: Its bytes.
        expected: A sentence that tells the user which file was expected.

    Raises:
        UserError: The archive is broken, encrypted or too large, or does not hold exactly one table; or the
            file is of another kind.
    """
    for _ in range(_DEEPEST + 1):
        if content.startswith(_GZIP):
            content = _gunzip(path, content)
        elif content.startswith(_ZIP):
            content = _unzip(path, content, expected)
        else:
            _refuse_other_kinds(path, content, expected)
            return content
    raise UserError(f"{path}: archives lie in one another, more than {_DEEPEST} deep.", _UNPACK)


def _gunzip(path: Path, content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return _read(path, file)
    except (EOFError, OSError, zlib.error, struct.error) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from error


def _unzip(path: Path, content: bytes, expected: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = _find_table(path, archive.infolist(), expected)
            name = printable(member.filename)
            if member.flag_bits & _ENCRYPTED:
                raise UserError(f"{path}: {name} in it is encrypted.", _UNPACK)
            if member.compress_type not in _METHODS:
                method = _METHOD_NAMES.get(member.compress_type, f"number {member.compress_type}")
                raise UserError(f"{path}: {name} in it is compressed by the method {method}.", _UNPACK)
            with archive.open(member) as file:
                return _read(path, file)
    except (
        zipfile.BadZipFile,
        EOFError,
        RuntimeError,
        OSError,
        ValueError,
        OverflowError,
        LookupError,
        struct.error,
        zlib.error,
    ) as error:
        raise UserError(f"{path} is not a whole zip file: {error}") from error


def _find_table(path: Path, members: Sequence[zipfile.ZipInfo], expected: str) -> zipfile.ZipInfo:
    """Return the one table of an archive."""
    names = {member.filename for member in members}
    for name, kind in _OFFICE:
        if name in names:
            raise UserError(f"{path} is {kind}, not a CSV file.", f"{expected} {_SAVE_AS_CSV}")
    files = [member for member in members if not member.is_dir() and not _is_from_system(member.filename)]
    tables = [one for one in files if PurePosixPath(one.filename).suffix.lower() in _TABLES]
    for some in (files, tables):
        if len(some) == 1:
            return some[0]
    if not files:
        raise UserError(f"{path} is a zip file without a file in it.", expected)
    named = [printable(member.filename) for member in tables or files]
    more = f" and {len(named) - _MOST_NAMED:,} more" if len(named) > _MOST_NAMED else ""
    raise UserError(
        f"{path} is a zip file with {len(named):,} files, and which is meant is not clear: "
        f"{', '.join(named[:_MOST_NAMED])}{more}.",
        f"{_UNPACK} {expected}",
    )


def _is_from_system(filename: str) -> bool:
    """Whether the operating system added this file to the archive."""
    name = PurePosixPath(filename)
    return "__MACOSX" in name.parts or name.name.startswith("._") or name.name in (".DS_Store", "Thumbs.db")


def _read(path: Path, file: IO[bytes] | gzip.GzipFile) -> bytes:
    parts, length = list[bytes](), 0
    while part := file.read(_AT_ONCE):
        length += len(part)
        if length > MOST_BYTES:
            raise UserError(f"{path}: unpacked it has more than {MOST_BYTES:,} bytes, which is the limit.")
        parts.append(part)
    return b"".join(parts)


def _refuse_other_kinds(path: Path, content: bytes, expected: str) -> None:
    for beginning, kind, hint in _KINDS:
        if beginning.match(content):
            raise UserError(f"{path} is {kind}, not a CSV file.", f"{expected} {hint}")
