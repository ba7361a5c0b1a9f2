"""One writer at a time.

Promises: while `held` is open, nobody else holds the same path: no other thread, no other process on this
system or, where the file system passes locks on, on another one. Nor does another process hold anything in a
folder that was free before and is held as a whole. Who tries is refused at once and told who holds it. The
system takes a lock away from a process that ended, however it ended, and no child process
keeps one. Where a file system has no locks, work goes on, and one line on standard error says so.

The lock of `folder/name` is the file `folder/.name.lock`; of a folder that is a disk of its own, or lies
in one that must not be written, it is `folder/name/.lock`. The file is there only while the lock is held;
what a killed process left is taken over by the next one. What else stands in its place is never touched, and
named in the refusal. (The package `filelock` leaves its files behind,
and on Windows only the holder can read in them who that is.)
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import shlex
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from core.errors import UserError
from core.standard_streams import visible

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_TAKEN_BY_SOMEBODY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # it may be somebody's link or pipe
_FAR = 1 << 30  # the byte that Windows locks: what it locks cannot be read
_MOST_OF_A_NAME = 200  # bytes; systems take 255, and an ending comes behind it
_LONGEST_COMMAND, _LONGEST_RECORD = 200, 1 << 16
_BEGINNING = b'{"host": '  # of every record
_PATIENCE_S, _PAUSE_S = 1.0, 0.02  # for who has not written yet who it is, is letting go, or looks in passing

_log = logging.getLogger(__name__)


def neighbour(path: Path, ending: str) -> Path:
    """The hidden path `.name<ending>` beside a path; of a long name, its beginning and a hash."""
    name = os.fsencode(path.name)
    if len(name) > _MOST_OF_A_NAME:
        digest = hashlib.sha256(name).hexdigest()[:16]
        name = name[: _MOST_OF_A_NAME - 17].decode("utf-8", "ignore").encode() + f"-{digest}".encode()
    return path.with_name(f".{os.fsdecode(name)}{ending}")


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
            hold = _holds[path] = _Hold.take(path, _Holder.this(shared, note))
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
        descriptor = os.open(_file_of(path), os.O_RDONLY | _FLAGS)
        try:
            _lock(descriptor)
        except OSError as error:
            holder = _Holder.of(_file_of(path))
            taken = error.errno in _TAKEN_BY_SOMEBODY and holder is not None and not holder.is_gone
            return holder.note if taken and holder is not None else None
        finally:
            os.close(descriptor)
    return None


def is_fixed(path: Path) -> bool:
    """Whether it is a folder that cannot be renamed or replaced: a disk of its own, or in a sealed folder."""
    return path.is_dir() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK | os.X_OK))


def is_lock(file: Path) -> bool:
    """Whether a file is a lock: by its name and by what it holds, which may be the beginning of a record."""
    if file.name != ".lock" and not (file.name.startswith(".") and file.name.endswith(".lock")):
        return False
    try:
        descriptor = os.open(file, os.O_RDONLY | _FLAGS)
    except OSError:
        return False
    try:
        return _is_ours(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Holder:
    """Who holds a lock: what its file says.

    Attributes:
        shared: See `held`.
        note: See `held`.
        begun: When the process began, in the system's own count: another one may bear its number later.
    """

    host: str
    process: int
    since: str
    command: str
    shared: bool
    note: str = ""
    begun: str = ""

    @classmethod
    def this(cls, shared: bool, note: str) -> _Holder:
        words = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else []
        since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
        command = shlex.join(words)[:_LONGEST_COMMAND]
        return cls(socket.gethostname(), os.getpid(), since, command, shared, note, _begun(os.getpid()) or "")

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, as far as this system can know."""
        if sys.platform == "win32" or self.host != socket.gethostname():
            return False
        try:
            os.kill(self.process, 0)
        except (OSError, OverflowError) as error:
            if isinstance(error, (ProcessLookupError, OverflowError)):
                return True  # otherwise it is another user's
        begun = _begun(self.process)
        return bool(self.begun and begun and self.begun != begun)

    @classmethod
    def of(cls, file: Path) -> _Holder | None:
        """Who wrote it; None if there is no such file, or it is not whole yet."""
        try:
            descriptor = os.open(file, os.O_RDONLY | _FLAGS)
        except OSError:
            return None
        try:
            said = json.loads(os.read(descriptor, _LONGEST_RECORD))
            host, since, command = (visible(str(said[name])) for name in ("host", "since", "command"))
            more = (str(said.get(name, "")) for name in ("note", "begun"))  # earlier versions wrote neither
            return cls(host, int(said["process"]), since, command, bool(said["shared"]), *more)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        finally:
            os.close(descriptor)


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
    holder: _Holder
    thread: int
    depth: int = 0

    @classmethod
    def take(cls, path: Path, holder: _Holder) -> _Hold:
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
    def _take(cls, path: Path, made: list[Path], holder: _Holder) -> _Hold:
        file, deadline = _file_of(path), time.monotonic() + _PATIENCE_S
        while True:
            descriptor = _opened(file, made)
            try:
                _lock(descriptor)
                if _is(file, descriptor):
                    if not _is_ours(descriptor):
                        os.close(descriptor)
                        raise _obstacle(file, "holds something else")
                    left_behind = os.fstat(descriptor).st_size > 0
                    _write(descriptor, holder)
                    return cls(file, descriptor, left_behind, made, holder, threading.get_ident())
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    ours = _is_ours(descriptor)
                    os.close(descriptor)
                    if not ours:
                        raise _obstacle(file, "holds something else") from error
                    if error.errno != errno.EBADF:  # NFS and another user's file, which may be locked
                        _remove(file)
                    _remark(file.parent)
                    return cls(file, None, False, made, holder, threading.get_ident())
                if error.errno not in _TAKEN_BY_SOMEBODY:
                    os.close(descriptor)
                    raise
                found = _Holder.of(file)
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
                _remove(self.file)
            else:
                _remove(self.file)
                os.close(self.descriptor)
        _unmake(self.made)


_guard = threading.Lock()
_holds: dict[Path, _Hold] = {}
_without_locks: set[int] = set()  # devices that were remarked on


def _file_of(path: Path) -> Path:
    if is_fixed(path):
        return path / ".lock"
    return neighbour(path, ".lock")


def _opened(file: Path, made: list[Path]) -> int:
    """The lock's file, made if need be; folders made for it are added to `made`.

    Raises:
        UserError: Something else stands there.
        OSError: The system lets nobody write there.
    """
    while True:
        try:
            descriptor = _made(file)
        except FileNotFoundError:  # noqa: PERF203
            missing = [folder for folder in file.parents if not folder.exists()]
            made[:] = dict.fromkeys([*missing, *made])
            file.parent.mkdir(parents=True, exist_ok=True)
        else:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise _obstacle(file, "is no file")
            return descriptor


def _made(file: Path) -> int:
    """Open the lock's file, made if need be, for reading alone if it must not be written.

    Raises:
        UserError: Something else stands there.
        OSError: The system lets nobody write there; FileNotFoundError if its folder is missing.
    """
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        try:
            status = file.lstat()
        except OSError:
            raise error from None
        if stat.S_ISLNK(status.st_mode):
            raise _obstacle(file, "is a symbolic link") from error
        if not stat.S_ISREG(status.st_mode):
            raise _obstacle(file, "is a folder" if file.is_dir() else "is no file") from error
        if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
            raise
    try:
        return os.open(file, os.O_RDONLY | _FLAGS)  # another user's; it can be locked all the same
    except FileNotFoundError:
        return _made(file)  # it was let go meanwhile
    except PermissionError as error:
        raise _obstacle(file, "is another user's, and cannot be opened") from error


def _is_ours(descriptor: int) -> bool:
    """Whether an open file holds nothing, a holder's record, or as much of one as a killed process wrote.

    Where the power failed, the system may have zeros in the place of what was written.
    """
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        os.lseek(descriptor, 0, os.SEEK_SET)
        content = os.read(descriptor, _LONGEST_RECORD)
    except OSError:
        return False
    if content.startswith(_BEGINNING):
        return len(content) < _LONGEST_RECORD and (content[-1:] != b"}" or _is_record(content))
    return _BEGINNING.startswith(content) or not content.strip(b"\0")


def _is_record(content: bytes) -> bool:
    try:
        said = json.loads(content)
    except ValueError:
        return True  # the bracket is one of the command's, and the end is missing
    return isinstance(said, dict) and {"host", "process", "since"} <= said.keys()


def _obstacle(file: Path, what: str) -> UserError:
    return UserError(
        f"the lock file {file} cannot be used: it {what}.",
        "Remove or rename it if it is nobody's, or choose another place for the output.",
    )


def _begun(process: int) -> str | None:
    """When a process began (field 22 of Linux's /proc/PID/stat, see proc(5)); None where nobody says."""
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _lock(descriptor: int) -> None:
    """Lock an open file.

    Raises:
        OSError: Somebody has locked it (`_TAKEN_BY_SOMEBODY`), or nobody can (`_NO_LOCKS`).
    """
    if sys.platform == "win32":
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _check_above(path: Path) -> None:
    """Refuse a path in a folder that another process holds as a whole."""
    for folder in path.parents:
        _check_lock(_file_of(folder), folder, but_shared=True)


def _check_lock(file: Path, path: Path, *, but_shared: bool = False) -> None:
    """Refuse a path whose lock another process holds; with `but_shared`, only if it shares nothing in it."""
    if any(hold.file == file for hold in _holds.values()) or (holder := _Holder.of(file)) is None:
        return
    if but_shared and holder.shared:
        return
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(file, os.O_RDONLY | _FLAGS)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in _TAKEN_BY_SOMEBODY:
                raise _refusal(path, holder) from error
        finally:
            os.close(descriptor)


def _is(file: Path, descriptor: int) -> bool:
    """Whether an open file is still the one of that name, which its holder may have removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except FileNotFoundError:
        return False


def _write(descriptor: int, holder: _Holder) -> None:
    """Say in the file who holds it; where that cannot be written (a full disk), it is held all the same."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(asdict(holder)).encode())


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


def _unmake(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _refusal(path: Path, holder: _Holder | None) -> TakenError:
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
