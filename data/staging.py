"""Finished images on their way into the HDF5 file.

Promises: what `Staging.append` has recorded survives the end of the process, however it ends, and
`Staging.open` gives it back if it was made from the same sources with the same settings; a row that
is not whole (its checksum differs) is dropped together with everything after it. Memory does not grow
with the number of images. One process at a time may hold a staging folder.

In the folder: `fingerprint` (what the rows were made from), `images.raw` and, where there are masks,
`masks.raw` (the rows, one after the other) and `journal.jsonl` (one line per source file, in the
order of the files, also for those that gave no row). Also `key`, random and for the owner's eyes alone:
what the journal says of patients is hashed with it, and the key goes when the folder goes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from core.errors import UserError
from core.files import explained
from data.headers import UNKNOWN

if sys.platform != "win32":
    import fcntl

FORMAT_VERSION = 2
"""Of the folder's content; part of a fingerprint, so that an older one is not taken up."""

_ROWS, _JOURNAL = ("images.raw", "masks.raw"), "journal.jsonl"
_KEY_BYTES = 32
_BLOCK = 32  # rows copied at a time when the rows are read back


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


class Staging:
    """An open staging folder.

    Attributes:
        folder: Where it is.
        entries: What became of the source files so far, in their order.
        key: 32 random bytes, the same as long as the folder's entries are.
    """

    def __init__(self, folder: Path, storage: str, size: tuple[int, int], masks: bool = True) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.key = b""
        self._size = size
        self._types = {"images.raw": np.dtype(storage), "masks.raw": np.dtype(np.uint8)}
        if not masks:
            del self._types["masks.raw"]
        self._lock: io.FileIO | None = None
        self._files: tuple[io.FileIO, ...] = ()  # those of the rows, then the journal

    @classmethod
    def open(
        cls, folder: Path, fingerprint: str, storage: str, size: tuple[int, int], masks: bool = True
    ) -> Staging:
        """Take a staging folder, with what it holds if the fingerprint is the same.

        Args:
            folder: Made if absent; emptied if it was made from something else.
            fingerprint: What the rows depend on; one line.
            storage: Type of the images, "float32" or "uint8".
            size: Height and width of the rows.
            masks: Whether a row has a mask besides its image.

        Raises:
            UserError: Another process holds the folder, or the operating system refused.
        """
        staging = cls(folder, storage, size, masks)
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
        """Record what became of the next source file, with its row if it gave one.

        Raises:
            UserError: The operating system refused (the disk is full, say).
        """
        *rows, journal = self._files
        with explained(self.folder, "write"):
            for file, array in zip(rows, row, strict=False):
                write_whole(file, array.data)
            # Unbuffered and last: a line in the journal means that its row is written.
            write_whole(journal, json.dumps(asdict(entry)).encode() + b"\n")
        self.entries.append(entry)

    def blocks(self) -> Iterator[tuple[NDArray[Any], ...]]:
        """The rows, some at a time: images (m, H, W), and masks (m, H, W) if there are any.

        Raises:
            UserError: The folder can no longer be read.
        """
        kept = sum(entry.kept for entry in self.entries)
        with explained(self.folder, "read"), self._open_rows() as files:
            for start in range(0, kept, _BLOCK):
                yield self._read_row(files, min(_BLOCK, kept - start))

    def close(self) -> None:
        """Let go of the folder; what is recorded stays."""
        for file in self._files:
            file.close()
        self._files = ()
        if self._lock is not None:
            self._lock.close()

    def discard(self) -> None:
        """Let go of the folder and remove it."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def _open_rows(self) -> Iterator[list[IO[bytes]]]:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context((self.folder / name).open("rb")) for name in self._types]

    def _read_row(self, files: list[IO[bytes]], count: int) -> tuple[NDArray[Any], ...]:
        """The next `count` rows; `EOFError` if there are not so many."""
        types = self._types.values()
        return tuple(_read(file, (count, *self._size), kind) for file, kind in zip(files, types, strict=True))

    def _recover(self) -> None:
        """Take what is whole, cut off the rest, and get ready to append."""
        for name in (*self._types, _JOURNAL):
            (self.folder / name).touch()
        lines = (self.folder / _JOURNAL).read_bytes().splitlines(keepends=True)
        recorded = 0
        with self._open_rows() as files:
            for line in lines:
                entry = _parse(line)
                if entry is None or (entry.kept and not self._whole(entry, files)):
                    break
                self.entries.append(entry)
                recorded += len(line)
        pixels = sum(entry.kept for entry in self.entries) * self._size[0] * self._size[1]
        lengths = {name: pixels * kind.itemsize for name, kind in self._types.items()}
        for name, length in (lengths | {_JOURNAL: recorded}).items():
            file = (self.folder / name).open("r+b", buffering=0)
            self._files += (file,)
            file.truncate(length)
            file.seek(length)

    def _whole(self, entry: Entry, files: list[IO[bytes]]) -> bool:
        try:
            return checksum(*self._read_row(files, 1)) == entry.checksum
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


def _read(file: IO[bytes], shape: tuple[int, ...], kind: DTypeLike) -> NDArray[Any]:
    """The next rows of a file.

    Raises:
        EOFError: There are not so many.
    """
    rows = np.empty(shape, dtype=kind)
    content = file.read(rows.nbytes)
    if len(content) != rows.nbytes:
        raise EOFError(f"{len(content)} of {rows.nbytes} bytes")
    rows.reshape(-1).view(np.uint8)[:] = np.frombuffer(content, dtype=np.uint8)
    return rows


def _write_secret(path: Path, content: bytes) -> None:
    """Write a file that nobody but its owner may read, not even while it is being written."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def write_whole(file: io.FileIO, content: bytes | memoryview) -> None:
    """Write all of it: an unbuffered file may take only a part, for example before the disk is full."""
    view = memoryview(content).cast("B")
    while view:
        view = view[file.write(view) :]
