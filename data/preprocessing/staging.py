"""The staging folder: finished images that are not yet in the HDF5 file.

The work recorded by `Staging.append` survives any end of the process. `Staging.open` returns it if the
sources and the settings are the same. A row whose checksum differs is dropped together with all rows after
it. Memory does not grow with the number of images. One process at a time may hold a staging folder
(`core.files.locks`); other processes may write rows for it, each at its place (`data.hdf5.row_layout`).

The folder has these files:

    fingerprint    a hash of everything that the rows depend on
    rows           the rows; it becomes the HDF5 file without a copy if exactly the expected files gave a row
    journal.jsonl  one line per source file, in the order of the files
    key            random bytes that only the owner can read; the journal's patients are hashed with them, and
                   the key is deleted with the folder
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from numpy.typing import NDArray

from core.files.locks import locked
from core.files.system_errors import explain_os_errors
from data.hdf5.row_layout import Layout, RowFile, write_all
from data.radiographs.headers import UNKNOWN, UNKNOWN_AGE

FORMAT_VERSION = 7
"""The version of the folder's content; part of the fingerprint, so that an older folder is not continued."""

ROWS = "rows"
"""The name of the file of rows in the folder."""

_JOURNAL, _SCRATCH = "journal.jsonl", "scratch"
_KEY_BYTES = 32
_SYNC_EVERY = 32  # source files


@dataclass(frozen=True)
class JournalEntry:
    """The result for one source file.

    Attributes:
        file: The file's path below the images folder, with `/`.
        status: "kept", or the reason why there is no row: see `data.preprocessing.conversion`.
        reason: A text for a reader; may be "".
        image_id: The image's id, "" if unknown.
        height: Height of the original image, in pixels; 0 if unknown.
        width: Width of the original image, in pixels; 0 if unknown.
        positive: Whether the annotation at the original size is not empty.
        vanished: Whether a positive image's mask is empty at the size of the row.
        syntax: Name of the file's transfer syntax, see `data.radiographs.headers`.
        bits: Stored bits of its pixels; 0 if unknown.
        patient: Keyed hash of the patient; "" if the patient is unknown.
        view, sex, age: See `data.radiographs.headers.Examination`.
        checksum: XXH3 of the row's image, followed by its mask if it has one; 0 without a row.
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
    view: str = ""
    sex: str = ""
    age: int = UNKNOWN_AGE
    checksum: int = 0

    @property
    def kept(self) -> bool:
        """Whether the file gave a row."""
        return self.status == "kept"


def checksum(*row: NDArray[Any]) -> int:
    """Return XXH3 (64 bits) of a row: an image, or an image and its mask. It is faster than zlib's CRC-32."""
    digest = xxhash.xxh3_64()
    for array in row:
        digest.update(array.data)
    return digest.intdigest()


class Staging:
    """An open staging folder.

    Attributes:
        folder: Its path.
        layout: The places of rows in the file of rows.
        entries: The results for the source files so far, in the files' order.
        key: 32 random bytes, the same as long as the folder keeps its entries.
    """

    def __init__(self, folder: Path, layout: Layout, places: Sequence[int]) -> None:
        self.folder, self.layout = folder, layout
        self.entries: list[JournalEntry] = []
        self.key = b""
        self._places = places
        self._rows: RowFile | None = None
        self._journal: io.FileIO | None = None
        self._lock = contextlib.ExitStack()
        self._thread = ThreadPoolExecutor(1)
        self._syncing: Future[None] | None = None

    @classmethod
    def open(
        cls, folder: Path, fingerprint: str, compute_layout: Callable[[Path], Layout], places: Sequence[int]
    ) -> Staging:
        """Open a staging folder; keep its content if the fingerprint is the same.

        Args:
            folder: Created if absent; emptied if its fingerprint differs.
            fingerprint: A hash of everything that the rows and their places depend on; one line.
            compute_layout: Computes the rows' places; its argument is a scratch file.
            places: For each source file the number of its row in the layout.

        Raises:
            UserError: Another process holds the folder, or the operating system refused.
        """
        with explain_os_errors(folder, "write"), contextlib.ExitStack() as lock:
            lock.enter_context(locked(folder.resolve(), nested=False))
            folder.mkdir(parents=True, exist_ok=True)
            staging = cls(folder, compute_layout(folder / _SCRATCH), places)
            staging._lock = lock.pop_all()
            try:
                (folder / _SCRATCH).unlink(missing_ok=True)
                mark = folder / "fingerprint"
                key = folder / "key"
                same = mark.is_file() and mark.read_text("utf-8") == fingerprint
                same = same and key.is_file() and key.stat().st_size == _KEY_BYTES
                if not same:
                    mark.unlink(missing_ok=True)  # first, so that no old row ever has the new fingerprint
                    for name in (ROWS, _JOURNAL):
                        (folder / name).unlink(missing_ok=True)
                    _write_secret(key, secrets.token_bytes(_KEY_BYTES))
                staging.key = key.read_bytes()
                staging._recover()
                mark.write_text(fingerprint, "utf-8")
            except BaseException:
                staging.close()
                raise
        return staging

    def append(self, entry: JournalEntry, *row: NDArray[Any]) -> None:
        """Record the result for the next source file. A row that is not given must be at its place already.

        Args:
            entry: The entry for the journal.
            row: Written at its place before the entry; empty if there is none or another process wrote it.

        Raises:
            UserError: The operating system refused (the disk is full, say).
        """
        assert self._rows is not None
        assert self._journal is not None
        with explain_os_errors(self.folder, "write"):
            if row:
                self._rows.put(self._places[len(self.entries)], row)
            # Unbuffered and last: a line in the journal means that its row is written.
            write_all(self._journal, json.dumps(vars(entry)).encode() + b"\n")
            self.entries.append(entry)
            if len(self.entries) % _SYNC_EVERY == 0:
                self._sync(self._rows)

    @property
    def in_order(self) -> bool:
        """Whether the rows fill the layout without gaps, so that their file can become the data file."""
        kept = [place for place, entry in zip(self._places, self.entries, strict=True) if entry.kept]
        return kept == list(range(self.layout.count))

    def blocks(self) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield the rows in the order of their files: image (1, H, W), and mask (1, H, W) if there are masks.

        Raises:
            UserError: The folder cannot be read any more.
        """
        assert self._rows is not None
        with explain_os_errors(self.folder, "read"):
            # A network file system shows what other machines have written only to a file opened after that.
            if self._syncing is not None:
                self._syncing.result()
            self._rows.close()
            self._rows = RowFile(self.folder / ROWS, self.layout)
            for place, entry in zip(self._places, self.entries, strict=True):
                if entry.kept:
                    yield tuple(array[None] for array in self._rows.get(place))

    def finished_rows(self) -> Path:
        """Close the file of rows and return its path. The recorded work is lost if this file is removed.

        Raises:
            UserError: The system could not write all of it.
        """
        assert self._rows is not None
        self._thread.shutdown()
        self._rows.close()
        with explain_os_errors(self.folder, "write"):
            if self._syncing is not None:
                self._syncing.result()
        return self.folder / ROWS

    def close(self) -> None:
        """Close and unlock the folder; the recorded work stays."""
        self._close_files()
        self._lock.close()

    def discard(self) -> None:
        """Remove and unlock the folder."""
        self._close_files()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _close_files(self) -> None:
        self._thread.shutdown()
        for file in (self._rows, self._journal):
            if file is not None:
                file.close()

    def _sync(self, rows: RowFile) -> None:
        """Flush the rows to the disk in the background, so that the final flush is short."""
        if self._syncing is None or self._syncing.done():
            if self._syncing is not None:
                self._syncing.result()  # the system reports a failure only once
            self._syncing = self._thread.submit(os.fsync, rows.fileno())

    def _recover(self) -> None:
        """Read the entries whose rows are whole, cut off the others, and prepare to append."""
        for name in (ROWS, _JOURNAL):
            (self.folder / name).touch()
        self._rows = RowFile(self.folder / ROWS, self.layout)
        self._journal = io.FileIO(self.folder / _JOURNAL, "r+")
        recorded = 0
        for line in self._journal.readall().splitlines(keepends=True)[: len(self._places)]:
            entry = _parse(line)
            if entry is None or (entry.kept and not self._whole(self._rows, entry)):
                break
            self.entries.append(entry)
            recorded += len(line)
        self._journal.truncate(recorded)
        self._journal.seek(recorded)

    def _whole(self, rows: RowFile, entry: JournalEntry) -> bool:
        """Return whether the row of the next entry has the recorded checksum."""
        try:
            return checksum(*rows.get(self._places[len(self.entries)])) == entry.checksum
        except EOFError:
            return False


def _parse(line: bytes) -> JournalEntry | None:
    """Return the entry of a line of the journal; None if the line is incomplete."""
    if not line.endswith(b"\n"):
        return None
    try:
        return JournalEntry(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, also while it is being written."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
