"""Finished images on their way into the HDF5 file.

Promises: what `Staging.append` has recorded survives the end of the process, however it ends, and
`Staging.open` gives it back if it was made from the same sources with the same settings; a row that
is not whole (its checksum differs) is dropped together with everything after it. Memory does not grow
with the number of images. One process at a time may hold a staging folder; others may put rows into it
for that one, each at its place (`RowFiles`).

In the folder: `fingerprint` (what the rows were made from), `images.raw` and, where there are masks,
`masks.raw` (row n is that of source file n; where a file gave none there is a hole) and `journal.jsonl`
(one line per source file, in the order of the files). Also `key`, random and for the owner's eyes alone:
what the journal says of patients is hashed with it, and the key goes when the folder goes.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from core.errors import UserError
from core.files import explained
from data.headers import UNKNOWN

if sys.platform != "win32":
    import fcntl

FORMAT_VERSION = 3
"""Of the folder's content; part of a fingerprint, so that an older one is not taken up."""

_ROWS, _JOURNAL = ("images.raw", "masks.raw"), "journal.jsonl"
_KEY_BYTES = 32
_BLOCK = 4  # rows copied at a time; a large write into a new file takes several times as long a byte


@dataclass(frozen=True)
class Entry:
    """What became of one source file.

    Attributes:
        file: The file's path below the images folder, with `/`.
        status: "kept", or why there is no row: see `data.preprocessing`.
        reason: In words, for a reader; "" if there is nothing to say.
        image_id: The image's id, "" if it is not known.
        height: Of the original image, in pixels; 0 if it is not known.
        width: Of the original image, in pixels; 0 if it is not known.
        positive: Whether the annotation at the original size sets a pixel.
        vanished: Whether none is left at the size of the row.
        syntax: Name of the file's transfer syntax, see `data.headers`.
        bits: Stored bits of its pixels; 0 if they are not known.
        patient: Keyed hash that stands for the patient; "" if the patient is not known.
        checksum: CRC-32 of the row's image, followed by its mask if it has one; 0 without a row.
    """

    file: str
    status: str
    reason: str = ""
    image_id: str = ""
    height: int = 0
    width: int = 0
    positive: bool = False
    vanished: bool = False
    syntax: str = UNKNOWN
    bits: int = 0
    patient: str = ""
    checksum: int = 0

    @property
    def kept(self) -> bool:
        """Whether the file gave a row."""
        return self.status == "kept"


def checksum(*row: NDArray[Any]) -> int:
    """CRC-32 of a row: an image, or an image and its mask."""
    result = 0
    for array in row:
        result = zlib.crc32(array.data, result)
    return result


class RowFiles:
    """The rows of a staging folder, opened by any process.

    Args:
        folder: Where they are.
        types: Type of the images, and of the masks if there are any.
        size: Height and width of a row.

    Raises:
        OSError: The files are not there.
    """

    def __init__(self, folder: Path, types: Sequence[DTypeLike], size: tuple[int, int]) -> None:
        self._types, self._size = [np.dtype(kind) for kind in types], size
        self._files = [io.FileIO(folder / name, "r+") for name in _ROWS[: len(types)]]

    def put(self, number: int, row: Sequence[NDArray[Any]]) -> None:
        """Write the row of source file `number`: its image, and its mask if there are any."""
        for file, array in zip(self._files, row, strict=True):
            file.seek(number * array.nbytes)
            _write(file, array.data)

    def get(self, number: int, count: int) -> tuple[NDArray[Any], ...]:
        """The rows of `count` source files from `number` on: images (count, H, W), and their masks.

        Raises:
            EOFError: There are not so many.
        """
        found = []
        for file, kind in zip(self._files, self._types, strict=True):
            array = np.empty((count, *self._size), kind)
            file.seek(number * (array.nbytes // count))
            if (length := file.readinto(array.data.cast("B"))) != array.nbytes:
                raise EOFError(f"{length} of {array.nbytes} bytes")
            found.append(array)
        return tuple(found)

    def truncate(self, count: int) -> None:
        """Leave room for the rows of `count` source files."""
        for file, kind in zip(self._files, self._types, strict=True):
            file.truncate(count * kind.itemsize * self._size[0] * self._size[1])

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


class Staging:
    """An open staging folder.

    Attributes:
        folder: Where it is.
        entries: What became of the source files so far, in their order.
        key: 32 random bytes, the same as long as the folder's entries are.
    """

    def __init__(self, folder: Path, types: Sequence[DTypeLike], size: tuple[int, int]) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.key = b""
        self._types, self._size = types, size
        self._lock: io.FileIO | None = None
        self._rows: RowFiles | None = None
        self._journal: io.FileIO | None = None

    @classmethod
    def open(
        cls, folder: Path, fingerprint: str, types: Sequence[DTypeLike], size: tuple[int, int]
    ) -> Staging:
        """Take a staging folder, with what it holds if the fingerprint is the same.

        Args:
            folder: Made if absent; emptied if it was made from something else.
            fingerprint: What the rows depend on; one line.
            types: Type of the images, and of the masks if a row has one besides its image.
            size: Height and width of the rows.

        Raises:
            UserError: Another process holds the folder, or the operating system refused.
        """
        staging = cls(folder, types, size)
        with explained(folder, "write"):
            folder.mkdir(parents=True, exist_ok=True)
            staging._take_lock()
            try:
                mark = folder / "fingerprint"
                key = folder / "key"
                same = mark.is_file() and mark.read_text("utf-8") == fingerprint
                same = same and key.is_file() and key.stat().st_size == _KEY_BYTES
                if not same:
                    mark.unlink(missing_ok=True)  # first, so that no old row ever bears a new mark
                    for name in (*_ROWS, _JOURNAL):
                        (folder / name).unlink(missing_ok=True)
                    _write_secret(key, secrets.token_bytes(_KEY_BYTES))
                staging.key = key.read_bytes()
                staging._recover()
                mark.write_text(fingerprint, "utf-8")
            except BaseException:
                staging.close()
                raise
        return staging

    def append(self, entry: Entry, *row: NDArray[Any]) -> None:
        """Record what became of the next source file, whose row, if it gave one, is in its place by now.

        Args:
            entry: For the journal.
            row: Put in its place before that; none if there is none, or another process put it there.

        Raises:
            UserError: The operating system refused (the disk is full, say).
        """
        assert self._rows is not None
        assert self._journal is not None
        with explained(self.folder, "write"):
            if row:
                self._rows.put(len(self.entries), row)
            # Unbuffered and last: a line in the journal means that its row is written.
            _write(self._journal, json.dumps(vars(entry)).encode() + b"\n")
        self.entries.append(entry)

    def blocks(self) -> Iterator[tuple[NDArray[Any], ...]]:
        """The rows, some at a time: images (m, H, W), and masks (m, H, W) if there are any.

        Raises:
            UserError: The folder can no longer be read.
        """
        assert self._rows is not None
        with explained(self.folder, "read"):
            for first, last in self._stretches():
                for number in range(first, last, _BLOCK):
                    yield self._rows.get(number, min(_BLOCK, last - number))

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """From where to where every source file gave a row."""
        first = 0
        for number, entry in enumerate(self.entries):
            if not entry.kept:
                yield first, number
                first = number + 1
        yield first, len(self.entries)

    def close(self) -> None:
        """Let go of the folder; what is recorded stays."""
        for file in (self._rows, self._journal, self._lock):
            if file is not None:
                file.close()

    def discard(self) -> None:
        """Let go of the folder and remove it."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _recover(self) -> None:
        """Take what is whole, cut off the rest, and get ready to append."""
        for name in (*_ROWS[: len(self._types)], _JOURNAL):
            (self.folder / name).touch()
        self._rows = RowFiles(self.folder, self._types, self._size)
        self._journal = io.FileIO(self.folder / _JOURNAL, "r+")
        recorded = 0
        for line in self._journal.readall().splitlines(keepends=True):
            entry = _parse(line)
            if entry is None or (entry.kept and not self._whole(entry)):
                break
            self.entries.append(entry)
            recorded += len(line)
        self._rows.truncate(len(self.entries))
        self._journal.truncate(recorded)
        self._journal.seek(recorded)

    def _whole(self, entry: Entry) -> bool:
        """Whether the row of the next entry is what it was."""
        assert self._rows is not None
        try:
            return checksum(*self._rows.get(len(self.entries), 1)) == entry.checksum
        except EOFError:
            return False

    def _take_lock(self) -> None:
        """Hold the folder until `close`, or until this process ends in whatever way."""
        file = (self.folder / "lock").open("ab", buffering=0)
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise UserError(
                    f"another process is writing to {self.folder}.",
                    "Wait for it, or choose another --out.",
                ) from error
        self._lock = file


def _parse(line: bytes) -> Entry | None:
    """The entry of a whole line of the journal, else None."""
    if not line.endswith(b"\n"):
        return None
    try:
        return Entry(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _write_secret(path: Path, content: bytes) -> None:
    """Write a file that nobody but its owner may read, not even while it is being written."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _write(file: io.FileIO, content: bytes | memoryview) -> None:
    """All of it: an unbuffered file may take only a part, for example before the disk is full."""
    view = memoryview(content).cast("B")
    while view:
        view = view[file.write(view) :]
