"""One writer at a time.

Promises: while `held` is open, nobody else holds the same path: no other thread, no other process on this
system or, where the file system passes locks on, on another one. Nor does another process hold anything in a
folder that was free before and is held as a whole. Who tries is refused at once and told who holds it. The
system takes a lock away from a process that ended, however it ended, and no child process
keeps one. Where a file system has no locks, work goes on, and one line on standard error says so.

The file of a lock (`core.files.lock_files`) is there only while the lock is held; what a killed process left
is taken over by the next one. What else stands in its place is never touched, and named in the refusal. (The
package `filelock` leaves its files behind, and on Windows only the holder can read in them who that is.)
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
    FLAGS,
    NO_LOCKS,
    TAKEN_BY_SOMEBODY,
    Holder,
    is_ours,
    is_still,
    lock,
    lock_file_of,
    obstacle,
    opened,
    remove,
    write,
)

_PATIENCE_S, _PAUSE_S = 1.0, 0.02  # for who has not written yet who it is, is letting go, or looks in passing

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def held(path: Path, *, nested: bool = True, shared: bool = False, note: str = "") -> Iterator[bool]:
    """Hold a path for as long as the block lasts.

    The folder it belongs into is made if it is missing, and removed at the end if it is still empty.

    Args:
        path: Absolute and without symbolic links, so that all mean the same file by it.
        nested: Whether a thread that holds the path already may hold it once more.
        shared: Whether others may hold what lies in it, if it is a folder: it will not be replaced.
        note: What others may ask for meanwhile; see `note_of`.

    Yields:
        Whether its last holder was killed, so that there may be something to clear up.

    Raises:
        TakenError: Somebody else holds it; the text names host, process, time and command.
        UserError: Something that is no lock stands where its lock has to be.
        OSError: The system lets nobody write there.
    """
    with _guard:
        hold = _holds.get(path)
        if hold is None:
            hold = _holds[path] = _Hold.take(path, Holder.this(shared, note))
        elif not nested or hold.thread != threading.get_ident():
            raise _refusal(path, hold.holder)
        hold.depth += 1
    try:
        yield hold.left_behind and hold.depth == 1
    finally:
        with _guard:
            hold.depth -= 1
            if hold.depth == 0 and _holds.get(path) is hold:
                del _holds[path]
                hold.let_go()


class TakenError(UserError):
    """Somebody else holds the path."""


def check_below(folder: Path) -> None:
    """Refuse a folder in which others hold something.

    Raises:
        TakenError: Somebody does.
    """
    for file in (*folder.rglob(".*.lock"), *folder.rglob(".lock")):
        name = file.name[1 : -len(".lock")]
        _check_lock(file, file.with_name(name) if name else file.parent)


def note_of(path: Path) -> str | None:
    """The note with which another process holds a path; None if none does.

    Args:
        path: As of `held`.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(lock_file_of(path), os.O_RDONLY | FLAGS)
        try:
            lock(descriptor)
        except OSError as error:
            holder = Holder.of(lock_file_of(path))
            taken = error.errno in TAKEN_BY_SOMEBODY and holder is not None and not holder.is_gone
            return holder.note if taken and holder is not None else None
        finally:
            os.close(descriptor)
    return None


@dataclass
class _Hold:
    """A lock of this process, or that there can be none.

    Attributes:
        file: The lock's file.
        descriptor: The open file, with which the system connects the lock; None where it has no locks.
        left_behind: Whether the file was there already, though nobody held it.
        made: Folders that were made for it, the innermost first.
        holder: What the file says.
        thread: Which thread holds it.
        depth: How often.
    """

    file: Path
    descriptor: int | None
    left_behind: bool
    made: list[Path]
    holder: Holder
    thread: int
    depth: int = 0

    @classmethod
    def take(cls, path: Path, holder: Holder) -> _Hold:
        """Lock the path's file, without waiting for its holder."""
        _forget_in_children()
        made: list[Path] = []
        _check_above(path)
        try:
            hold = cls._take(path, made, holder)
        except BaseException:
            _unmake(made)
            raise
        try:
            _check_above(path)  # whoever took a folder meanwhile and looks into it now finds this lock
        except BaseException:
            hold.let_go()
            raise
        return hold

    @classmethod
    def _take(cls, path: Path, made: list[Path], holder: Holder) -> _Hold:
        file, deadline = lock_file_of(path), time.monotonic() + _PATIENCE_S
        while True:
            descriptor = opened(file, made)
            try:
                lock(descriptor)
                if is_still(file, descriptor):
                    if not is_ours(descriptor):
                        os.close(descriptor)
                        raise obstacle(file, "holds something else")
                    left_behind = os.fstat(descriptor).st_size > 0
                    write(descriptor, holder)
                    return cls(file, descriptor, left_behind, made, holder, threading.get_ident())
            except OSError as error:
                if error.errno in NO_LOCKS:
                    ours = is_ours(descriptor)
                    os.close(descriptor)
                    if not ours:
                        raise obstacle(file, "holds something else") from error
                    if error.errno != errno.EBADF:  # NFS and another user's file, which may be locked
                        remove(file)
                    _remark(file.parent)
                    return cls(file, None, False, made, holder, threading.get_ident())
                if error.errno not in TAKEN_BY_SOMEBODY:
                    os.close(descriptor)
                    raise
                found = Holder.of(file)
                if (found is not None and not found.is_gone) or time.monotonic() > deadline:
                    os.close(descriptor)
                    raise _refusal(path, found) from error
                time.sleep(_PAUSE_S)
            os.close(descriptor)  # it was let go meanwhile, and its file removed or replaced

    def let_go(self) -> None:
        """Remove the file, then the lock: the other way round, it could be the next holder's file."""
        if self.descriptor is not None:
            if sys.platform == "win32":  # which removes no open file, so neither the next holder's
                os.close(self.descriptor)
                remove(self.file)
            else:
                remove(self.file)
                os.close(self.descriptor)
        _unmake(self.made)


_guard = threading.Lock()
_holds: dict[Path, _Hold] = {}
_without_locks: set[int] = set()  # devices that were remarked on


def _check_above(path: Path) -> None:
    """Refuse a path in a folder that another process holds as a whole."""
    for folder in path.parents:
        _check_lock(lock_file_of(folder), folder, but_shared=True)


def _check_lock(file: Path, path: Path, *, but_shared: bool = False) -> None:
    """Refuse a path whose lock another process holds; with `but_shared`, only if it shares nothing in it."""
    if any(hold.file == file for hold in _holds.values()) or (holder := Holder.of(file)) is None:
        return
    if but_shared and holder.shared:
        return
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(file, os.O_RDONLY | FLAGS)
        try:
            lock(descriptor)
        except OSError as error:
            if error.errno in TAKEN_BY_SOMEBODY:
                raise _refusal(path, holder) from error
        finally:
            os.close(descriptor)


def _unmake(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _refusal(path: Path, holder: Holder | None) -> TakenError:
    who = "another process"
    if holder is None or holder.is_gone:  # who came after it may have no right to write its own name there
        who += ", which cannot be named"
    else:
        who += f": process {holder.process} on {holder.host}, since {holder.since} ({holder.command})"
    return TakenError(f"{path} is being written by {who}.", "Wait for it to end, or choose another place.")


def _remark(folder: Path) -> None:
    """Say, once for a file system, that it has no locks."""
    device = folder.stat().st_dev
    if device not in _without_locks:
        _without_locks.add(device)
        _log.warning(
            "remark: the file system of %s has no locks: two runs that write the same would not notice it",
            folder,
        )


@functools.cache
def _forget_in_children() -> None:
    """Have children that are forked let go of the locks; those that run another program never get them."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    global _guard
    _guard = threading.Lock()
    for hold in _holds.values():
        if hold.descriptor is not None:
            os.close(hold.descriptor)
    _holds.clear()
