"""Locks on paths, so that a path has one writer at a time.

In a `locked` block no other thread and no other process can lock the same path. This includes processes on
other systems if the file system shares its locks. If the path is a folder in which nobody held a lock, no
other process can lock a path in it. An attempt fails at once with an error that names the holder. The system
releases the lock of a process that has ended, for whatever reason. Child processes do not keep a lock. If a
file system has no locks, the work goes on and one line on standard error says so.

A lock file (`core.files.lock_files`) exists only while the lock is held. The next process takes over a file
that a killed process has left. (The package `filelock` leaves its files behind, and on Windows only the
holder of a lock can read its file.)
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.base.errors import UserError
from core.files.lock_files import (
    LOCKED_BY_ANOTHER,
    LOCKS_UNSUPPORTED,
    OPEN_FLAGS,
    Holder,
    is_current,
    is_lock_content,
    lock_file_error,
    lock_file_of,
    open_lock_file,
    remove_lock_file,
    try_lock,
    write_holder,
)

# Waiting for a holder that has not yet written its record, is releasing the lock, or only tests it.
_PATIENCE_S, _PAUSE_S = 1.0, 0.02

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(path: Path, *, nested: bool = True, shared: bool = False, note: str = "") -> Iterator[bool]:
    """Lock a path for the duration of the block.

    Its parent folder is created if it is missing, and removed at the end if it is still empty.

    Args:
        path: Absolute and without symbolic links, so that each file has one name.
        nested: Whether a thread that has locked the path may lock it again.
        shared: Whether others may lock paths in it, if it is a folder. It must not be replaced then.
        note: A text that other processes can read with `lock_note`.

    Yields:
        Whether the last holder was killed, so that it may have left files to remove.

    Raises:
        LockedError: Another process or thread holds the lock. The text names host, process, time and command.
        UserError: There is something else at the path of the lock file.
        OSError: Nobody can write there.
    """
    with _guard:
        hold = _held_locks.get(path)
        if hold is None:
            hold = _held_locks[path] = _HeldLock.take(path, Holder.current(shared, note))
        elif not nested or hold.thread != threading.get_ident():
            raise _locked_error(path, hold.holder)
        hold.depth += 1
    try:
        yield hold.left_behind and hold.depth == 1
    finally:
        with _guard:
            hold.depth -= 1
            if hold.depth == 0 and _held_locks.get(path) is hold:
                del _held_locks[path]
                hold.release()


class LockedError(UserError):
    """Another process or thread has locked the path."""


def check_no_locks_in(folder: Path) -> None:
    """Check that no other process has locked a path in a folder.

    Raises:
        LockedError: One has.
    """
    for file in (*folder.rglob(".*.lock"), *folder.rglob(".lock")):
        name = file.name[1 : -len(".lock")]
        _check_not_locked(file, file.with_name(name) if name else file.parent)


def lock_note(path: Path) -> str | None:
    """Return the note of the process that has locked a path; None if none has.

    Args:
        path: As for `locked`.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(lock_file_of(path), os.O_RDONLY | OPEN_FLAGS)
        try:
            try_lock(descriptor)
        except OSError as error:
            holder = Holder.read(lock_file_of(path))
            taken = error.errno in LOCKED_BY_ANOTHER and holder is not None and not holder.has_ended
            return holder.note if taken and holder is not None else None
        finally:
            os.close(descriptor)
    return None


@dataclass
class _HeldLock:
    """A lock that this process holds.

    Attributes:
        file: The lock file.
        descriptor: The open file, to which the system ties the lock; None if the file system has no locks.
        left_behind: Whether the file existed without a holder.
        made: Folders that were created for it, the innermost first.
        holder: The file's content.
        thread: The thread that holds it.
        depth: How many nested blocks hold it.
    """

    file: Path
    descriptor: int | None
    left_behind: bool
    made: list[Path]
    holder: Holder
    thread: int
    depth: int = 0

    @classmethod
    def take(cls, path: Path, holder: Holder) -> _HeldLock:
        """Lock the path's file without waiting for its holder."""
        _release_in_children()
        made: list[Path] = []
        _check_above(path)
        try:
            hold = cls._take(path, made, holder)
        except BaseException:
            _remove_folders(made)
            raise
        try:
            # Check again: a folder may have been locked since. Whoever locks one from now on finds this lock.
            _check_above(path)
        except BaseException:
            hold.release()
            raise
        return hold

    @classmethod
    def _take(cls, path: Path, made: list[Path], holder: Holder) -> _HeldLock:
        file, deadline = lock_file_of(path), time.monotonic() + _PATIENCE_S
        while True:
            descriptor = open_lock_file(file, made)
            try:
                try_lock(descriptor)
                if is_current(file, descriptor):
                    if not is_lock_content(descriptor):
                        os.close(descriptor)
                        raise lock_file_error(file, "holds something else")
                    left_behind = os.fstat(descriptor).st_size > 0
                    write_holder(descriptor, holder)
                    return cls(file, descriptor, left_behind, made, holder, threading.get_ident())
            except OSError as error:
                if error.errno in LOCKS_UNSUPPORTED:
                    ours = is_lock_content(descriptor)
                    os.close(descriptor)
                    if not ours:
                        raise lock_file_error(file, "holds something else") from error
                    if error.errno != errno.EBADF:  # NFS and another user's file, which may be locked
                        remove_lock_file(file)
                    _warn_without_locks(file.parent)
                    return cls(file, None, False, made, holder, threading.get_ident())
                if error.errno not in LOCKED_BY_ANOTHER:
                    os.close(descriptor)
                    raise
                found = Holder.read(file)
                if (found is not None and not found.has_ended) or time.monotonic() > deadline:
                    os.close(descriptor)
                    raise _locked_error(path, found) from error
                time.sleep(_PAUSE_S)
            os.close(descriptor)  # its holder has released it, and the file was removed or replaced

    def release(self) -> None:
        """Remove the file, then release the lock. In the other order it could be the next holder's file."""
        if self.descriptor is not None:
            if sys.platform == "win32":  # it removes no open file, so not the next holder's either
                os.close(self.descriptor)
                remove_lock_file(self.file)
            else:
                remove_lock_file(self.file)
                os.close(self.descriptor)
        _remove_folders(self.made)


_guard = threading.Lock()
_held_locks: dict[Path, _HeldLock] = {}
_without_locks: set[int] = set()  # devices for which the warning was given


def _check_above(path: Path) -> None:
    """Refuse a path in a folder that another process has locked and does not share."""
    for folder in path.parents:
        _check_not_locked(lock_file_of(folder), folder, but_shared=True)


def _check_not_locked(file: Path, path: Path, *, but_shared: bool = False) -> None:
    """Refuse a path that another process has locked. With `but_shared`, accept a lock that is shared."""
    if any(hold.file == file for hold in _held_locks.values()) or (holder := Holder.read(file)) is None:
        return
    if but_shared and holder.shared:
        return
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(file, os.O_RDONLY | OPEN_FLAGS)
        try:
            try_lock(descriptor)
        except OSError as error:
            if error.errno in LOCKED_BY_ANOTHER:
                raise _locked_error(path, holder) from error
        finally:
            os.close(descriptor)


def _remove_folders(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _locked_error(path: Path, holder: Holder | None) -> LockedError:
    who = "another process"
    if holder is None or holder.has_ended:  # its successor may have no right to write its own record
        who += ", which cannot be named"
    else:
        who += f": process {holder.process} on {holder.host}, since {holder.since} ({holder.command})"
    return LockedError(f"{path} is being written by {who}.", "Wait for it to end, or choose another place.")


def _warn_without_locks(folder: Path) -> None:
    """Log, once for each file system, that it has no locks."""
    device = folder.stat().st_dev
    if device not in _without_locks:
        _without_locks.add(device)
        _log.warning(
            "remark: the file system of %s has no locks: two runs that write the same would not notice it",
            folder,
        )


@functools.cache
def _release_in_children() -> None:
    """Release the locks in forked children. Children that run another program do not inherit them."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_release_all)


def _release_all() -> None:
    global _guard
    _guard = threading.Lock()
    for hold in _held_locks.values():
        if hold.descriptor is not None:
            os.close(hold.descriptor)
    _held_locks.clear()
