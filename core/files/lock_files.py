"""Lock files: their paths and content, and how they are opened and locked.

The lock file of `folder/name` is `folder/.name.lock`. For a folder that is a mount point, or whose parent
cannot be written, it is `folder/name/.lock`.

A file is a lock file if it has such a name, and is empty or holds a record of the lock's holder, which may be
incomplete if the process was killed. Anything else at such a path (a link, a pipe, another file) is not
followed, waited for, changed or removed. A record has the start time of its process if the system tells it,
so that a later process with the same number is not taken for the holder. `core.files.locks` decides who may
lock a path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shlex
import socket
import stat
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from core.base.errors import UserError
from core.base.standard_streams import visible

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCKED_BY_ANOTHER = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
"""Error numbers of `try_lock` if another process has the lock."""

LOCKS_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
"""Error numbers of `try_lock` if the file system has no locks."""

OPEN_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags of `os.open` for a path at which somebody may have put a link or a pipe."""

_LOCKED_BYTE = 1 << 30  # on Windows; it is behind the content, as locked bytes cannot be read
_LONGEST_NAME = 200  # bytes; systems allow 255, and an ending is added
_LONGEST_COMMAND, _LONGEST_RECORD = 200, 1 << 16
_RECORD_START = b'{"host": '


def hidden_sibling(path: Path, ending: str) -> Path:
    """Return the hidden path `.name<ending>` beside a path. A long name is cut and gets a hash."""
    name = os.fsencode(path.name)
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(name).hexdigest()[:16]
        name = name[: _LONGEST_NAME - 17].decode("utf-8", "ignore").encode() + f"-{digest}".encode()
    return path.with_name(f".{os.fsdecode(name)}{ending}")


def is_fixed(path: Path) -> bool:
    """Whether a path is a folder that cannot be renamed: a mount point, or its parent cannot be written."""
    return path.is_dir() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK | os.X_OK))


def lock_file_of(path: Path) -> Path:
    """Return the path of the lock file of a path."""
    if is_fixed(path):
        return path / ".lock"
    return hidden_sibling(path, ".lock")


def is_lock(file: Path) -> bool:
    """Whether a file is a lock file, by its name and its content."""
    if file.name != ".lock" and not (file.name.startswith(".") and file.name.endswith(".lock")):
        return False
    try:
        descriptor = os.open(file, os.O_RDONLY | OPEN_FLAGS)
    except OSError:
        return False
    try:
        return is_lock_content(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Holder:
    """The holder of a lock: the content of a lock file.

    Attributes:
        shared: See `core.files.locks.locked`.
        note: See `core.files.locks.locked`.
        begun: When the process began, as the system counts it; "" if unknown. Another process may later have
            the same number.
    """

    host: str
    process: int
    since: str
    command: str
    shared: bool
    note: str = ""
    begun: str = ""

    @classmethod
    def current(cls, shared: bool, note: str) -> Holder:
        """Return the record of this process."""
        words = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else []
        since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
        command = shlex.join(words)[:_LONGEST_COMMAND]
        process = os.getpid()
        return cls(socket.gethostname(), process, since, command, shared, note, _start_time(process) or "")

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to have ended."""
        if sys.platform == "win32" or self.host != socket.gethostname():
            return False
        try:
            os.kill(self.process, 0)
        except (OSError, OverflowError) as error:
            if isinstance(error, (ProcessLookupError, OverflowError)):
                return True  # any other error means that it is another user's process
        begun = _start_time(self.process)
        return bool(self.begun and begun and self.begun != begun)

    @classmethod
    def read(cls, file: Path) -> Holder | None:
        """Read a lock file; return None if there is none, or its record is incomplete."""
        try:
            descriptor = os.open(file, os.O_RDONLY | OPEN_FLAGS)
        except OSError:
            return None
        try:
            record = json.loads(os.read(descriptor, _LONGEST_RECORD))
            host, since, command = (visible(str(record[name])) for name in ("host", "since", "command"))
            more = (str(record.get(name, "")) for name in ("note", "begun"))  # earlier versions wrote neither
            return cls(host, int(record["process"]), since, command, bool(record["shared"]), *more)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        finally:
            os.close(descriptor)


def open_lock_file(file: Path, made: list[Path]) -> int:
    """Open a lock file, and create it if it is missing. Folders created for it are added to `made`.

    Raises:
        UserError: There is something else at its path.
        OSError: Nobody can write there.
    """
    while True:
        try:
            descriptor = _open_or_create(file)
        except FileNotFoundError:
            missing = [folder for folder in file.parents if not folder.exists()]
            made[:] = dict.fromkeys([*missing, *made])
            file.parent.mkdir(parents=True, exist_ok=True)
        else:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise lock_file_error(file, "is no file")
            return descriptor


def _open_or_create(file: Path) -> int:
    """Open a lock file, or create it. Open it for reading only if it cannot be written.

    Raises:
        UserError: There is something else at its path.
        OSError: Nobody can write there; FileNotFoundError if its folder is missing.
    """
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        try:
            status = file.lstat()
        except OSError:
            raise error from None
        if stat.S_ISLNK(status.st_mode):
            raise lock_file_error(file, "is a symbolic link") from error
        if not stat.S_ISREG(status.st_mode):
            raise lock_file_error(file, "is a folder" if file.is_dir() else "is no file") from error
        if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
            raise
    try:
        return os.open(file, os.O_RDONLY | OPEN_FLAGS)  # another user's file, which can be locked too
    except FileNotFoundError:
        return _open_or_create(file)  # its holder has removed it
    except PermissionError as error:
        raise lock_file_error(file, "is another user's, and cannot be opened") from error


def is_lock_content(descriptor: int) -> bool:
    """Whether an open file is empty, or holds a holder's record, or the beginning of one.

    After a power failure a file may hold zero bytes instead of its content.
    """
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        os.lseek(descriptor, 0, os.SEEK_SET)
        content = os.read(descriptor, _LONGEST_RECORD)
    except OSError:
        return False
    if content.startswith(_RECORD_START):
        return len(content) < _LONGEST_RECORD and (content[-1:] != b"}" or _is_record(content))
    return _RECORD_START.startswith(content) or not content.strip(b"\0")


def _is_record(content: bytes) -> bool:
    try:
        record = json.loads(content)
    except ValueError:
        return True  # the last bracket belongs to the command, and the end of the record is missing
    return isinstance(record, dict) and {"host", "process", "since"} <= record.keys()


def lock_file_error(file: Path, what: str) -> UserError:
    """Return the error for something else at the path of a lock file; `what` says what it is."""
    return UserError(
        f"the lock file {file} cannot be used: it {what}.",
        "Remove or rename it if it is nobody's, or choose another place for the output.",
    )


def try_lock(descriptor: int) -> None:
    """Lock an open file without waiting.

    Raises:
        OSError: Another process has locked it (`LOCKED_BY_ANOTHER`), or nobody can (`LOCKS_UNSUPPORTED`).
    """
    if sys.platform == "win32":
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_current(file: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at its path. Its holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except FileNotFoundError:
        return False


def write_holder(descriptor: int, holder: Holder) -> None:
    """Write the holder's record. If that fails (the disk is full), the file is locked without a record."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(asdict(holder)).encode())


def remove_lock_file(file: Path) -> None:
    """Remove a lock file, if it exists and may be removed."""
    with contextlib.suppress(OSError):
        file.unlink()


def _start_time(process: int) -> str | None:
    """Return when a process began (field 22 of Linux's /proc/PID/stat, see proc(5)); None if unknown."""
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
