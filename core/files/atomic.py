"""Writing of files and folders, whole or not at all.

A file or folder gets its final name only when it is complete and on disk. If writing fails, or the process is
killed, the previous file is unchanged. Two processes never write the same path at once (`core.files.locks`),
and never use the same temporary name. A symbolic link stays, and its target is written. Devices, pipes and
other streams are written into or refused, and never replaced (`core.files.destinations`). An error of the
operating system (full or read-only disk, missing folder) becomes a `UserError`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.base.errors import UserError
from core.files.destinations import OutputStream, destination
from core.files.lock_files import hidden_sibling, is_lock
from core.files.locks import locked
from core.files.system_errors import explain_os_errors

_NO_FOLDER_SYNC = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
_TOKEN_BYTES = 6
_TEMPORARY = rf"[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.partial"  # the end of temporary names


@contextlib.contextmanager
def reserved(
    path: Path, *, or_stream: bool = False, shared: bool = False, note: str = ""
) -> Iterator[Path | OutputStream]:
    """Reserve the right to write `path` for the duration of the block. A thread may nest such blocks.

    A command reserves all its outputs before it begins. Temporary files that a killed process has left beside
    `path` are removed. A stream is opened, so that a pipe has its reader. Several processes may write to it.

    Args:
        path: A file or a folder; it need not exist.
        or_stream: Whether it may be a stream.
        shared: Whether others may write in it, if it is a folder. It must not be replaced then.
        note: A text that other processes can read with `core.files.locks.lock_note`.

    Yields:
        The path without symbolic links, or the stream.

    Raises:
        UserError: Another process writes it, or nobody can. The text names `path` and the reason.
    """
    with contextlib.ExitStack() as stack:
        with explain_os_errors(path, "write"):
            target = destination(path)
            if isinstance(target, OutputStream):
                if not or_stream:
                    what = f"it is {target.what}, and this output must be a file or a folder"
                    raise UserError(f"cannot write {path}: {what}", "Name a place on a disk.")
                stack.enter_context(target.opened())
            elif not _is_temporary(target) and stack.enter_context(locked(target, shared=shared, note=note)):
                _remove_leftovers(target)
        yield target


@contextlib.contextmanager
def replacing(path: Path, *, or_stream: bool = False) -> Iterator[Path]:
    """Yield a temporary path for a file or a folder, and rename it to `path` at the end of the block.

    It is in the same folder as `path`, so that the final rename is atomic for files. A folder at `path` is
    renamed first and removed last. If the block raises, the temporary file is removed and `path` is
    unchanged. If the process is killed, the next one that writes `path` removes the temporary file. A new
    file gets the permissions of the file that it replaces. `path` is `reserved` during the block.

    Args:
        path: The file or folder to write, or a symbolic link to it.
        or_stream: Whether `path` may be a stream. The file's content is written into it at the end.

    Raises:
        UserError: The operating system refused. The text names `path` and the reason.
    """
    with explain_os_errors(path, "write"), reserved(path, or_stream=or_stream) as target:
        if isinstance(target, OutputStream):
            with tempfile.TemporaryDirectory(prefix="pneumoseg-") as folder:
                yield Path(folder, "output")
                target.copy(Path(folder, "output"))
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = hidden_sibling(target, f".{secrets.token_hex(_TOKEN_BYTES)}.partial")
        _recover(target)
        try:
            yield partial
            _sync(partial)
            _move_into_place(partial, target)
        finally:
            _remove(partial)


def put_in_place(finished: Path, path: Path) -> None:
    """Rename a complete file to its final name on the same disk, and replace what has that name.

    Raises:
        UserError: The operating system refused. The text names `path` and the reason.
    """
    with explain_os_errors(path, "write"), reserved(path) as target:
        assert isinstance(target, Path)
        _sync(finished)
        _move_into_place(finished, target)


def make_folder(path: Path) -> None:
    """Create a folder and its parents if they are missing, also at the end of a symbolic link.

    Raises:
        UserError: The operating system refused. The text names `path` and the reason.
    """
    with explain_os_errors(path, "write"):
        target = destination(path)
        (path if isinstance(target, OutputStream) else target).mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all. `path` may be a stream."""
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder", "Name a file.")
    with replacing(path, or_stream=True) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def rename_existing(path: Path) -> Path | None:
    """Rename `path` to the first free name of `path.1`, `path.2`, …, and return the new path.

    If `path` is a symbolic link, its target is renamed. Two processes never take the same number.

    Returns:
        None if nothing was renamed: `path` does not exist, is a stream, or is a folder of empty folders and
        lock files only.
    """
    target = destination(path)
    if isinstance(target, OutputStream) or not target.exists() or (target.is_dir() and _is_empty(target)):
        return None
    is_link = path.is_symlink()
    with explain_os_errors(path, "rename"):
        for number in itertools.count(1):
            kept = target.with_name(f"{target.name}.{number}")
            with contextlib.suppress(FileExistsError):
                _rename(target, kept)
                break
    return kept if is_link else path.with_name(kept.name)


def _is_empty(folder: Path) -> bool:
    """Whether a folder has no files but lock files, at any depth."""
    with contextlib.suppress(OSError):
        found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        return all(is_lock(path) for path in found)
    return False


def _rename(path: Path, kept: Path) -> None:
    """Rename to a name that must be free.

    Raises:
        FileExistsError: It is not free.
    """
    if sys.platform == "win32":
        path.rename(kept)
        return
    # On other systems renaming replaces files and empty folders, even if another process has just made them.
    is_folder = path.is_dir()
    if is_folder:
        kept.mkdir()
    else:
        kept.touch(exist_ok=False)
    try:
        path.replace(kept)
    except OSError:
        (kept.rmdir if is_folder else kept.unlink)()
        raise


def _is_temporary(path: Path) -> bool:
    """Whether a path is in a temporary folder of ours, which has a single writer (and its workers)."""
    return any(re.search(rf"\.{_TEMPORARY}$", folder.name) for folder in path.parents)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`. Nobody else may be writing it."""
    beginning, ending = hidden_sibling(path, ".").name, re.compile(rf"{_TEMPORARY}(\..*)?")
    with contextlib.suppress(OSError):
        for found in list(path.parent.iterdir()):
            if found.name.startswith(beginning) and ending.fullmatch(found.name.removeprefix(beginning)):
                _remove(found)


def _recover(path: Path) -> None:
    """Restore a folder that a killed process had renamed, or remove it if it was replaced."""
    old = hidden_sibling(path, ".old")
    if old.exists() and not path.exists():
        old.replace(path)
    _remove(old)
    _remove(hidden_sibling(path, ".partial"))  # of earlier versions


def _move_into_place(finished: Path, path: Path) -> None:
    """Rename to `path`, and replace a file or folder there, whose permissions are kept."""
    if path.exists() and path.is_dir() == finished.is_dir():
        with contextlib.suppress(PermissionError):  # some file systems have none
            finished.chmod(stat.S_IMODE(path.stat().st_mode) & (0o7777 if path.is_dir() else 0o777))
    old = hidden_sibling(path, ".old")
    if path.is_dir():
        path.replace(old)
    try:
        finished.replace(path)
    except OSError:
        if old.exists():
            old.replace(path)
        raise
    _remove(old)
    _sync_folder(path.parent)


def _sync(path: Path) -> None:
    """Flush a file, or a folder with all its files, to disk."""
    if path.is_file():
        _sync_file(path)
        return
    for found in path.rglob("*"):
        if found.is_file():
            _sync_file(found)
        elif found.is_dir():
            _sync_folder(found)
    _sync_folder(path)


def _sync_file(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR)  # Windows flushes nothing if a file is open for reading only
    except PermissionError:
        if sys.platform == "win32":
            return
        descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Flush the names in a folder to disk, if the system can."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
