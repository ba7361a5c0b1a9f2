"""Finished images on their way into the HDF5 file.

Promises: what `Staging.append` has recorded survives the end of the process, however it ends, and
`Staging.open` gives it back if it was made from the same sources with the same settings; a row that
is not whole (its checksum differs) is dropped together with everything after it. Memory does not grow
with the number of images. One process at a time may hold a staging folder (`core.files.locks`); others may
put rows into it for that one, each at its place (`data.hdf5.row_layout`).

In the folder: `fingerprint` (what the rows were made from), `rows` (which becomes the HDF5 file, if the
files that were expected to give a row are those that did: nothing is copied then) and `journal.jsonl`
(one line per source file, in the order of the files). Also `key`, random and for the owner's eyes alone:
what the journal says of patients is hashed with it, and the key goes when the folder goes.
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
from data.radiographs.headers import UNKNOWN

FORMAT_VERSION = 6
"""Of the folder's content; part of a fingerprint, so that an older one is not taken up."""

ROWS = "rows"
"""The file of rows in the folder."""

_JOURNAL, _SCRATCH = "journal.jsonl", "scratch"
_KEY_BYTES = 32
_SYNC_EVERY = 32  # source files


@dataclass(frozen=True)
class Entry:
    """What became of one source file.

    Attributes:
        file: The file's path below the images folder, with `/`.
        status: "kept", or why there is no row: see `data.preprocessing.conversion`.
        reason: In words, for a reader; "" if there is nothing to say.
        image_id: The image's id, "" if it is not known.
        height: Of the original image, in pixels; 0 if it is not known.
        width: Of the original image, in pixels; 0 if it is not known.
        positive: Whether the annotation at the original size sets a pixel.
        vanished: Whether none is left at the size of the row.
        syntax: Name of the file's transfer syntax, see `data.radiographs.headers`.
        bits: Stored bits of its pixels; 0 if they are not known.
        patient: Keyed hash that stands for the patient; "" if the patient is not known.
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
    checksum: int = 0

    @property
    def kept(self) -> bool:
        """Whether the file gave a row."""
        return self.status == "kept"


def checksum(*row: NDArray[Any]) -> int:
    """XXH3, 64 bits, of a row: an image, or an image and its mask. It costs a fifth of zlib's CRC-32."""
    digest = xxhash.xxh3_64()
    for array in row:
        digest.update(array.data)
    return digest.intdigest()


class Staging:
    """An open staging folder.

    Attributes:
        folder: Where it is.
        layout: Where rows have their places in the file of rows.
        entries: What became of the source files so far, in their order.
        key: 32 random bytes, the same as long as the folder's entries are.
    """

    def __init__(self, folder: Path, layout: Layout, places: Sequence[int]) -> None:
        self.folder, self.layout = folder, layout
        self.entries: list[Entry] = []
        self.key = b""
        self._places = places
        self._rows: RowFile | None = None
        self._journal: io.FileIO | None = None
        self._lock = contextlib.ExitStack()
        self._thread = ThreadPoolExecutor(1)
        self._syncing: Future[None] | None = None

    @classmethod
    def open(
        cls, folder: Path, fingerprint: str, lay_out: Callable[[Path], Layout], places: Sequence[int]
    ) -> Staging:
        """Take a staging folder, with what it holds if the fingerprint is the same.

        Args:
            folder: Made if absent; emptied if it was made from something else.
            fingerprint: What the rows and their places depend on; one line.
            lay_out: Finds the rows' places, with a file to try them out in.
            places: Of each source file, which row of the layout its row is.

        Raises:
            UserError: Another process holds the folder, or the operating system refused.
        """
        with explain_os_errors(folder, "write"), contextlib.ExitStack() as lock:
            lock.enter_context(locked(folder.resolve(), nested=False))
            folder.mkdir(parents=True, exist_ok=True)
            staging = cls(folder, lay_out(folder / _SCRATCH), places)
            staging._lock = lock.pop_all()
            try:
                (folder / _SCRATCH).unlink(missing_ok=True)
                mark = folder / "fingerprint"
                key = folder / "key"
                same = mark.is_file() and mark.read_text("utf-8") == fingerprint
                same = same and key.is_file() and key.stat().st_size == _KEY_BYTES
                if not same:
                    mark.unlink(missing_ok=True)  # first, so that no old row ever bears a new mark
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
        """Whether the rows fill the layout, so that their file can become the data file."""
        kept = [place for place, entry in zip(self._places, self.entries, strict=True) if entry.kept]
        return kept == list(range(self.layout.count))

    def blocks(self) -> Iterator[tuple[NDArray[Any], ...]]:
        """The rows in the order of their files: image (1, H, W), and mask (1, H, W) if there are any.

        Raises:
            UserError: The folder can no longer be read.
        """
        assert self._rows is not None
        with explain_os_errors(self.folder, "read"):
            for place, entry in zip(self._places, self.entries, strict=True):
                if entry.kept:
                    yield tuple(array[None] for array in self._rows.get(place))

    def finished_rows(self) -> Path:
        """The file of rows, closed here, to do something else with; what is recorded needs it.

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
        """Let go of the folder; what is recorded stays."""
        self._close_files()
        self._lock.close()

    def discard(self) -> None:
        """Remove the folder and let go of it."""
        self._close_files()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _close_files(self) -> None:
        self._thread.shutdown()
        for file in (self._rows, self._journal):
            if file is not None:
                file.close()

    def _sync(self, rows: RowFile) -> None:
        """Have the disk take what was written so far, meanwhile, so that little is left to wait for."""
        if self._syncing is None or self._syncing.done():
            if self._syncing is not None:
                self._syncing.result()  # the system tells of a failure once
            self._syncing = self._thread.submit(os.fsync, rows.fileno())

    def _recover(self) -> None:
        """Take what is whole, cut off the rest, and get ready to append."""
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

    def _whole(self, rows: RowFile, entry: Entry) -> bool:
        """Whether the row of the next entry is what it was."""
        try:
            return checksum(*rows.get(self._places[len(self.entries)])) == entry.checksum
        except EOFError:
            return False


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
