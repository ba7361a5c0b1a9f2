"""Tests that archives and other kinds of files are recognised by content."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

import data.annotations.compressed_tables
from core.base.errors import UserError
from data.annotations.compressed_tables import unpack
from data.annotations.table import read_table

TABLE = b"ImageId,EncodedPixels\na,1 2\nb,-1\n"
EXPECTED = "Expected a table."


def zipped(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, method)  # of no date
    return buffer.getvalue()


def unpacked(content: bytes) -> bytes:
    return unpack(Path("some/train-rle.csv"), content, EXPECTED)


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        gzip.compress(TABLE, mtime=0),
        gzip.compress(TABLE[:9], mtime=0) + gzip.compress(TABLE[9:], mtime=0),  # two members are one file
        zipped(("train-rle.csv", TABLE)),
        zipped(("no suffix", TABLE), method=zipfile.ZIP_STORED),
        zipped(("x/", b""), ("x/t.csv", TABLE), ("__MACOSX/x/._t.csv", b"?"), ("x/.DS_Store", b"?")),
        zipped(("README.md", b"read me"), ("T.CSV", TABLE)),
        zipped(("t.csv.gz", gzip.compress(TABLE, mtime=0))),
        gzip.compress(zipped(("t.csv", TABLE)), mtime=0),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.zip", "t"])
def test_archives_are_told_by_content_whatever_their_name(tmp_path: Path, content: bytes, name: str) -> None:
    assert unpacked(content) == TABLE
    (tmp_path / name).write_bytes(content)
    assert [cells.image_id for cells in read_table(tmp_path / name, "table", EXPECTED).rows] == ["a", "b"]


def encrypted() -> bytes:
    """Set the encryption bit in both headers; the content stays, because nobody decrypts it."""
    content = bytearray(zipped(("secret.csv", TABLE)))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(mark) + offset
        content[at : at + 2] = struct.pack("<H", 1)
    return bytes(content)


def of_unknown_method() -> bytes:
    content = bytearray(zipped(("t.csv", TABLE)))
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.index(mark) + offset
        content[at : at + 2] = struct.pack("<H", 77)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (zipped(("a.csv", TABLE), ("b/c.csv", TABLE)), ["2 files", "a.csv, b/c.csv", "Unpack it"]),
        (
            zipped(*((f"{n}.csv", TABLE) for n in range(9))),
            ["9 files", "0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 4 more"],
        ),
        (zipped(("a.md", TABLE), ("b.doc", TABLE)), ["2 files", "a.md, b.doc"]),
        (zipped(("x/", b""), ("__MACOSX/._a.csv", b"?")), ["without a file in it"]),
        (zipped(), ["without a file in it"]),
        (encrypted(), ["secret.csv in it is encrypted"]),
        (of_unknown_method(), ["t.csv in it is compressed by the method number 77", "Unpack it"]),
        (zipped(("t.csv", TABLE), method=zipfile.ZIP_LZMA), ["by the method lzma"]),
        (zipped(("t.csv", TABLE), method=zipfile.ZIP_BZIP2), ["by the method bzip2"]),
        (zipped(("t.csv", TABLE))[:-30], ["not a whole zip file"]),
        (zipped(("t.csv", TABLE)).replace(b"\x4b\x4c", b"\x4b\x4d", 1)[:40], ["not a whole zip file"]),
        (gzip.compress(TABLE, mtime=0)[:-9], ["not a whole gzip file"]),
        (b"\x1f\x8bnot gzip", ["not a whole gzip file"]),
        (zipped(("[Content_Types].xml", b"<"), ("xl/workbook.xml", b"<")), ["an Excel workbook", "as CSV"]),
        (zipped(("mimetype", b"?"), ("content.xml", b"<")), ["an OpenDocument file", "as CSV"]),
        (bz2.compress(TABLE), ["a bzip2 archive"]),
        (bz2.compress(b""), ["a bzip2 archive"]),
        (lzma.compress(TABLE), ["an xz archive"]),
        (b"\x28\xb5\x2f\xfd\x04\x00", ["a zstd archive"]),
        (b"PAR1\x15\x04\x15PAR1", ["a Parquet file"]),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", ["an old Excel workbook"]),
        (b"\n <!DOCTYPE html>\n<html>", ["a web page", "Download it again"]),
        (b"<HTML><head>", ["a web page"]),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            ["a Git LFS pointer", "git lfs pull"],
        ),
        (b"\0" * 128 + b"DICM\x02\0", ["a DICOM file"]),
        (b"\x89HDF\r\n\x1a\n\0", ["an HDF5 file"]),
    ],
)
def test_what_cannot_be_unpacked_is_one_clear_error(content: bytes, says: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        unpacked(content)
    for part in ("some/train-rle.csv", *says):
        assert part in str(caught.value)


def test_ids_may_begin_like_other_files() -> None:
    for content in (b"BZh1,-1\n", b"PAR1,-1\nb,1 2\n", b"PK,-1\n", b"version,-1\n", b"<1>,-1\n"):
        assert unpacked(content) == content


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacking stops at most one block beyond the limit."""
    monkeypatch.setattr(data.annotations.compressed_tables, "MOST_BYTES", 3_000_000)
    fits, beyond = b"a" * 3_000_000, b"a" * 3_000_001
    for pack in (gzip.compress, lambda content: zipped(("t.csv", content))):
        assert unpacked(pack(fits)) == fits
        with pytest.raises(UserError, match="more than 3,000,000 bytes"):
            unpacked(pack(beyond))
        bomb = pack(bytes(200_000_000))
        tracemalloc.start()
        try:
            with pytest.raises(UserError, match="more than 3,000,000 bytes"):
                unpacked(bomb)
            assert tracemalloc.get_traced_memory()[1] < 20e6
        finally:
            tracemalloc.stop()
    nested = TABLE
    for _ in range(4):
        nested = gzip.compress(nested)
    assert unpacked(nested) == TABLE
    nested = gzip.compress(nested)
    with pytest.raises(UserError, match="more than 4 deep"):
        unpacked(nested)


def test_damaged_archives_give_a_table_or_a_clear_error() -> None:
    chance = random.Random(4)
    whole = [
        zipped(("t.csv", TABLE * 9)),
        zipped(("t.csv", TABLE), method=zipfile.ZIP_STORED),
        gzip.compress(TABLE, mtime=0),
    ]
    outcomes = set()
    for _ in range(3000):
        content = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(1, 4)):
            content[chance.randrange(2, len(content))] = chance.randrange(256)
        try:
            unpacked(bytes(content[: chance.choice([None, None, len(content) // 2])]))
            outcomes.add("read")
        except UserError as error:
            assert str(error).startswith("some/train-rle.csv")  # noqa: PT017  either may happen
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
