"""Files and folders that are whole or absent.

A file or folder written through here appears under its final name only when it is complete and on disk. When
writing fails, or the process is killed, what stood there before is untouched. Two processes never write the
same path at once (`core.files.locks`), and never share a temporary name. A symbolic link stays, and its
target is written. What is neither file nor folder is written into, or refused, never replaced
(`core.files.destinations`). A failure of the operating system (full or read-only disk, missing folder)
becomes a `UserError`.
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
from core.files.destinations import Stream, destination
from core.files.lock_files import is_lock, neighbour
from core.files.locks import held
from core.files.system_errors import explain_os_errors

_NO_FOLDER_SYNC = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
_TOKEN_BYTES = 6
_TEMPORARY = rf"[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.partial"  # how temporary names end


@contextlib.contextmanager
def reserved(
    path: Path, *, or_stream: bool = False, shared: bool = False, note: str = ""
) -> Iterator[Path | Stream]:
    """Keep the right to write `path` as long as the block lasts; the same thread may do so several times.

    A command does it for all that it will write before it begins. What a killed process left beside `path` is
    cleared up. To a stream it is connected (a pipe has its reader then); several may write into one.

    Args:
        path: A file or a folder; it need not exist.
        or_stream: Whether it may be something that is written into instead of being replaced.
        shared: Whether others may write in it meanwhile, if it is a folder: it will not be replaced.
        note: What others may ask for meanwhile; see `core.files.locks.note_of`.

    Yields:
        The path without symbolic links, or the stream.

    Raises:
        UserError: Another process writes it, or nobody can; the text names `path` and the reason.
    """
    with contextlib.ExitStack() as stack:
        with explain_os_errors(path, "write"):
            target = destination(path)
            if isinstance(target, Stream):
                if not or_stream:
                    what = f"it is {target.what}, and this output must be a file or a folder"
                    raise UserError(f"cannot write {path}: {what}", "Name a place on a disk.")
                stack.enter_context(target.opened())
            elif not _is_temporary(target) and stack.enter_context(held(target, shared=shared, note=note)):
                _clear_up(target)
        yield target


@contextlib.contextmanager
def replacing(path: Path, *, or_stream: bool = False) -> Iterator[Path]:
    """Give a temporary path to write (a file or a folder), then put that in `path`'s place.

    It lies in the same folder, so that the final rename is atomic for files. A folder that stood at `path`
    is moved aside first and removed last. When the block raises, the temporary one is removed and `path`
    is as it was; what a killed process left is cleared up by the next one that writes `path`. A file that
    is replaced leaves its permissions to the new one. Meanwhile `path` is `reserved`.

    Args:
        path: What is to be written, or a symbolic link to it.
        or_stream: Whether `path` may be a stream (of a file): the content is written into it at the end.

    Raises:
        UserError: The operating system refused; the text names `path` and the reason.
    """
    with explain_os_errors(path, "write"), reserved(path, or_stream=or_stream) as target:
        if isinstance(target, Stream):
            with tempfile.TemporaryDirectory(prefix="pneumoseg-") as folder:
                yield Path(folder, "output")
                target.copy(Path(folder, "output"))
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = neighbour(target, f".{secrets.token_hex(_TOKEN_BYTES)}.partial")
        _recover(target)
        try:
            yield partial
            _sync(partial)
            _put(partial, target)
        finally:
            _remove(partial)


def put_in_place(finished: Path, path: Path) -> None:
    """Give a complete file its final name, on the same disk, in the place of what bore it before.

    Raises:
        UserError: The operating system refused; the text names `path` and the reason.
    """
    with explain_os_errors(path, "write"), reserved(path) as target:
        assert isinstance(target, Path)
        _sync(finished)
        _put(finished, target)


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, if it is missing; at the end of a link as well.

    Raises:
        UserError: The operating system refused; the text names `path` and the reason.
    """
    with explain_os_errors(path, "write"):
        target = destination(path)
        (path if isinstance(target, Stream) else target).mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all; a stream gets all of it at once."""
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder", "Name a file.")
    with replacing(path, or_stream=True) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def keep_existing(path: Path) -> Path | None:
    """Rename `path` to the first free of `path.1`, `path.2`, …, and return that; None if absent.

    Nor is a folder renamed that holds nothing but empty folders and locks: nothing of it would be missed. Of
    a symbolic link the target is renamed. Two processes never take the same number.
    """
    target = destination(path)
    if isinstance(target, Stream) or not target.exists() or (target.is_dir() and _is_empty(target)):
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
    """Whether nothing lies in a folder, or in those that lie in it, but locks."""
    with contextlib.suppress(OSError):
        found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        return all(is_lock(path) for path in found)
    return False


def _rename(path: Path, kept: Path) -> None:
    """Rename to a name that is free.

    Raises:
        FileExistsError: It is not.
    """
    if sys.platform == "win32":
        path.rename(kept)
        return
    # Elsewhere renaming replaces files and empty folders, those that another process just made too.
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
    """Whether it lies in a temporary folder of ours, which belongs to one writer, with its helpers."""
    return any(re.search(rf"\.{_TEMPORARY}$", folder.name) for folder in path.parents)


def _clear_up(path: Path) -> None:
    """Remove what killed writers of `path` left; nobody else writes it now."""
    beginning, ending = neighbour(path, ".").name, re.compile(rf"{_TEMPORARY}(\..*)?")
    with contextlib.suppress(OSError):
        for found in list(path.parent.iterdir()):
            if found.name.startswith(beginning) and ending.fullmatch(found.name.removeprefix(beginning)):
                _remove(found)


def _recover(path: Path) -> None:
    """Bring a folder back that a killed process had moved aside, or remove what it had replaced."""
    old = neighbour(path, ".old")
    if old.exists() and not path.exists():
        old.replace(path)
    _remove(old)
    _remove(neighbour(path, ".partial"))  # of earlier versions


def _put(finished: Path, path: Path) -> None:
    """Rename, over a file or a folder that is there, whose permissions it gets."""
    if path.exists() and path.is_dir() == finished.is_dir():
        with contextlib.suppress(PermissionError):  # some file systems have none
            finished.chmod(stat.S_IMODE(path.stat().st_mode) & (0o7777 if path.is_dir() else 0o777))
    old = neighbour(path, ".old")
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
    """Have a file, or all of a folder, on disk."""
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
        descriptor = os.open(path, os.O_RDWR)  # Windows has nothing on disk of a file open for reading
    except PermissionError:
        if sys.platform == "win32":
            return
        descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Have the names in a folder on disk, where the system can."""
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
