"""Files that are whole or absent.

Promises: a file or folder written through here appears under its final name only when it is complete
and on disk; when writing fails, or the process is killed, what stood there before is untouched. A
failure of the operating system (full or read-only disk, missing folder) becomes a `UserError`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from core.errors import UserError

_HINTS = {
    errno.ENOSPC: "The disk is full: free some space, or write somewhere else.",
    errno.EDQUOT: "The disk quota is used up: free some space, or write somewhere else.",
    errno.EROFS: "The disk is read-only: write somewhere else.",
    errno.EACCES: "Permission denied: check the rights, or write somewhere else.",
    errno.EPERM: "Permission denied: check the rights, or write somewhere else.",
    errno.EFBIG: "The file would be larger than this system allows.",
}

_LONGEST_NAME = 120
_HASH_DIGITS = 8
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that Windows keeps


def explain_os_error(error: OSError, path: Path | str, action: str) -> UserError:
    """The `UserError` for an `OSError` met while `action` ("write", "read") was done to `path`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = _HINTS.get(error.errno or 0)
    if hint and action == "read":
        hint = hint.replace(", or write somewhere else", "")
    return UserError(f"cannot {action} {path}: {reason}", hint)


@contextlib.contextmanager
def explained(path: Path | str, action: str) -> Iterator[None]:
    """Turn any `OSError` of the block into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, path, action) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write (a file or a folder), then put it in `path`'s place.

    The sibling lies in the same folder, so the final rename is atomic for files. A folder that stood
    at `path` is moved aside first and removed last. When the block raises, the sibling is removed and
    `path` is as it was; what a killed process left is cleared up by the next one that writes `path`.

    Raises:
        UserError: The operating system refused; the text names `path` and the reason.
    """
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    try:
        with explained(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if old.exists() and not path.exists():
                old.replace(path)
            _remove(partial)
            _remove(old)
            yield partial
            _sync(partial)
            if path.is_dir():
                path.replace(old)
            partial.replace(path)
    finally:
        _remove(partial)
        _remove(old)


def is_folder(path: Path) -> bool:
    """Whether a folder is there; no where the system cannot say, as of a path that is too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_place(path: Path) -> None:
    """Refuse now a file that could not be written at the end of long work.

    Raises:
        UserError: A folder stands there, or the folder it belongs into cannot be written.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder", "Name a file.")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise UserError(f"cannot write {path}: {parent} is no folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise explain_os_error(OSError(errno.EACCES, ""), path, "write")


def put_in_place(finished: Path, path: Path) -> None:
    """Give a complete file its final name, on the same disk, in the place of what bore it before.

    Raises:
        UserError: The operating system refused; the text names `path` and the reason.
    """
    with explained(path, "write"):
        _sync(finished)
        finished.replace(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def file_name(image_id: str) -> str:
    """A name for a file on any system; an id that has to be changed for it keeps part of its hash."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", image_id).strip(".-")[:_LONGEST_NAME]
    if safe == image_id and not _RESERVED.fullmatch(safe):
        return safe
    return f"{safe or 'image'}-{hashlib.sha256(image_id.encode()).hexdigest()[:_HASH_DIGITS]}"


class FileNames:
    """Names for the files of several ids, each another, also where `A` and `a` are one file."""

    def __init__(self) -> None:
        self._taken = set[str]()

    def take(self, image_id: str) -> str:
        """`file_name` of an id, with a part of its hash where an earlier id has that name."""
        plain = name = file_name(image_id)
        digest = hashlib.sha256(image_id.encode()).hexdigest()
        digits = _HASH_DIGITS
        while name.casefold() in self._taken:
            name = f"{plain}-{digest[:digits]}"
            digits += 1
        self._taken.add(name.casefold())
        return name


def set_aside(path: Path) -> Path | None:
    """Rename `path` to the first free of `path.1`, `path.2`, …, and return that; None if absent."""
    if not path.exists():
        return None
    number = 1
    while (kept := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    with explained(path, "rename"):
        path.replace(kept)
    return kept


def _sync(path: Path) -> None:
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
