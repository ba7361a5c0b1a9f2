"""Files that are whole or absent.

Promises: a file or folder written through here appears under its final name only when it is complete
and on disk; when writing fails, or the process is killed, what stood there before is untouched. Two
processes never write the same path at once (`core.locks`), and never share a temporary name. A symbolic
link stays, and its target is written; what is neither file nor folder is written into, or refused, never
replaced (`core.destinations`). No output replaces what is read (`check_inputs_stay`). A failure of the
operating system (full or read-only disk, missing folder) becomes a `UserError`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.destinations import STANDARD_OUTPUT, Stream, destination
from core.errors import UserError
from core.lock_files import is_lock, neighbour
from core.locks import held

_HINTS = {
    errno.ENOSPC: "The disk is full: free some space, or write somewhere else.",
    errno.EDQUOT: "The disk quota is used up: free some space, or write somewhere else.",
    errno.EROFS: "The disk is read-only: write somewhere else.",
    errno.EACCES: "Permission denied: check the rights, or write somewhere else.",
    errno.EPERM: "Permission denied: check the rights, or write somewhere else.",
    errno.EFBIG: "The file would be larger than this system allows.",
    errno.EBUSY: "It is mounted by itself, or in use: write somewhere else.",
    errno.EPIPE: "Its reader ended before it had everything.",
}
_NO_FOLDER_SYNC = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EPERM}

_LONGEST_NAME = 120
_HASH_DIGITS = 8
_TOKEN_BYTES = 6
_TEMPORARY = rf"[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.partial"  # how temporary names end
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
        note: What others may ask for meanwhile; see `core.locks.note_of`.

    Yields:
        The path without symbolic links, or the stream.

    Raises:
        UserError: Another process writes it, or nobody can; the text names `path` and the reason.
    """
    with contextlib.ExitStack() as stack:
        with explained(path, "write"):
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
    with explained(path, "write"), reserved(path, or_stream=or_stream) as target:
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


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, in the order of the names; but for the folder's own lock (`core.lock_files`).

    Raises:
        OSError: The system does not say.
    """
    return sorted(path for path in folder.iterdir() if path.name != ".lock" or not is_lock(path))


def is_folder(path: Path) -> bool:
    """Whether a folder is there; no where the system cannot say, as of a path that is too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_free(option: str, path: Path, *, overwrite: bool, replaced: str = "it") -> None:
    """Refuse an output that is there already: the policy of all commands, before any work.

    What holds nothing (an empty file or folder) is in nobody's way; nor is what is no file.

    Args:
        option: How it was named on the command line.
        path: Where it is to be.
        overwrite: Whether it may be replaced.
        replaced: What --overwrite replaces, for the hint.

    Raises:
        UserError: It is there, and must not be replaced.
    """
    if overwrite or isinstance(destination(path), Stream) or not path.exists():
        return
    with explained(path, "read"):
        state = "is not empty" if path.is_dir() else "exists already"
        holds = bool(entries(path)) if path.is_dir() else path.stat().st_size > 0
    if holds:
        raise UserError(
            f"{option} {path} {state}.", f"Add --overwrite to replace {replaced}, or choose another place."
        )


def check_place(path: Path) -> None:
    """Refuse now a file that could not be written at the end of long work.

    Raises:
        UserError: A folder stands there, or the folder it belongs into cannot be written.
    """
    target = destination(path)
    if isinstance(target, Stream):
        return
    if target.is_dir():
        raise UserError(f"cannot write {path}: it is a folder", "Name a file.")
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir():
        raise UserError(f"cannot write {path}: {parent} is no folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise explain_os_error(OSError(errno.EACCES, ""), path, "write")


def _holds_nothing(_path: Path) -> bool:
    return False


@dataclass(frozen=True)
class Input:
    """What is read, and so must not be written over.

    Args:
        name: What it is called.
        path: Where it is: a file or a folder.
        holds: Whether a file that lies in it, if it is a folder, is one of those that make it up; the file's
            path is the real one.
    """

    name: str
    path: Path
    holds: Callable[[Path], bool] = _holds_nothing


def check_inputs_stay(option: str, output: Path, inputs: Iterable[Input]) -> None:
    """Refuse an output that is an input, would contain one, or would replace a file of one.

    Raises:
        UserError: With the option that names the output, and the input.
    """
    for one in inputs:
        check_apart(option, output, one.name, one.path, ("is", "would contain"))
        place = place_of(output)
        if place is None or not place.is_file() or place_of(one.path) not in place.parents:
            continue
        if one.holds(place):
            raise UserError(
                f"{option} {output} would replace a file of {one.name} {one.path}.", "Choose another place."
            )


def check_apart(
    option: str,
    output: Path,
    name: str,
    other: Path,
    forbidden: Collection[str] = ("is", "would contain", "would lie in"),
) -> None:
    """Refuse an output that stands to another path as it must not.

    Raises:
        UserError: With the option that names the output, and the other path, called `name`.
    """
    ours, theirs = place_of(output), place_of(other)
    if ours is None or theirs is None:
        return
    relation = (
        "is"
        if ours == theirs
        else "would contain"
        if ours in theirs.parents
        else "would lie in"
        if theirs in ours.parents
        else ""
    )
    if relation in forbidden:
        what = f"{option} {output} {relation} {name}"
        raise UserError(f"{what}{'' if relation == 'is' else f' {other}'}.", "Choose another place.")


def place_of(path: Path) -> Path | None:
    """The place that a path means, the same whatever it is called; None for what is no place of its own."""
    try:
        found = destination(path)
    except UserError:  # an input, which whoever reads it will look at
        return Path(os.path.realpath(path))
    if isinstance(found, Path):
        return found
    if found.is_standard_output:
        return STANDARD_OUTPUT
    return None if path.is_char_device() else Path(os.path.realpath(path))


def put_in_place(finished: Path, path: Path) -> None:
    """Give a complete file its final name, on the same disk, in the place of what bore it before.

    Raises:
        UserError: The operating system refused; the text names `path` and the reason.
    """
    with explained(path, "write"), reserved(path) as target:
        assert isinstance(target, Path)
        _sync(finished)
        _put(finished, target)


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, if it is missing; at the end of a link as well.

    Raises:
        UserError: The operating system refused; the text names `path` and the reason.
    """
    with explained(path, "write"):
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
    """Rename `path` to the first free of `path.1`, `path.2`, …, and return that; None if absent.

    Nor is a folder renamed that holds nothing but empty folders and locks: nothing of it would be missed. Of
    a symbolic link the target is renamed. Two processes never take the same number.
    """
    target = destination(path)
    if isinstance(target, Stream) or not target.exists() or (target.is_dir() and _is_empty(target)):
        return None
    is_link = path.is_symlink()
    with explained(path, "rename"):
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
