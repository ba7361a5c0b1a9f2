"""The file of a lock: where it lies, what it says, and how it is opened and locked.

Promises: what stands in its place and is no lock is neither followed, waited for, changed nor removed. A
lock is known by its name and by what it holds: a record of its holder, as much of one as a killed process
wrote, or nothing. Where the system says when a process began, a record is not taken for that of a later
process of the same number. Who may hold a path, and when, is for `core.files.locks` to decide.

The lock of `folder/name` is the file `folder/.name.lock`; of a folder that is a disk of its own, or lies
in one that must not be written, it is `folder/name/.lock`.
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

TAKEN_BY_SOMEBODY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
"""Error numbers of `lock` where somebody else has the lock."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
"""Error numbers of `lock` where the file system has no locks."""

FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Of `os.open`: what stands there may be somebody's link or pipe."""

_FAR = 1 << 30  # the byte that Windows locks: what it locks cannot be read
_MOST_OF_A_NAME = 200  # bytes; systems take 255, and an ending comes behind it
_LONGEST_COMMAND, _LONGEST_RECORD = 200, 1 << 16
_BEGINNING = b'{"host": '  # of every record


def neighbour(path: Path, ending: str) -> Path:
    """The hidden path `.name<ending>` beside a path; of a long name, its beginning and a hash."""
    name = os.fsencode(path.name)
    if len(name) > _MOST_OF_A_NAME:
        digest = hashlib.sha256(name).hexdigest()[:16]
        name = name[: _MOST_OF_A_NAME - 17].decode("utf-8", "ignore").encode() + f"-{digest}".encode()
    return path.with_name(f".{os.fsdecode(name)}{ending}")


def is_fixed(path: Path) -> bool:
    """Whether it is a folder that cannot be renamed or replaced: a disk of its own, or in a sealed folder."""
    return path.is_dir() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK | os.X_OK))


def lock_file_of(path: Path) -> Path:
    """Where the lock of a path lies."""
    if is_fixed(path):
        return path / ".lock"
    return neighbour(path, ".lock")


def is_lock(file: Path) -> bool:
    """Whether a file is a lock: by its name and by what it holds, which may be the beginning of a record."""
    if file.name != ".lock" and not (file.name.startswith(".") and file.name.endswith(".lock")):
        return False
    try:
        descriptor = os.open(file, os.O_RDONLY | FLAGS)
    except OSError:
        return False
    try:
        return is_ours(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Holder:
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
    def this(cls, shared: bool, note: str) -> Holder:
        """This process, now."""
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
    def of(cls, file: Path) -> Holder | None:
        """Who wrote it; None if there is no such file, or it is not whole yet."""
        try:
            descriptor = os.open(file, os.O_RDONLY | FLAGS)
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


def opened(file: Path, made: list[Path]) -> int:
    """The lock's file, made if need be; folders made for it are added to `made`.

    Raises:
        UserError: Something else stands there.
        OSError: The system lets nobody write there.
    """
    while True:
        try:
            descriptor = _made(file)
        except FileNotFoundError:
            missing = [folder for folder in file.parents if not folder.exists()]
            made[:] = dict.fromkeys([*missing, *made])
            file.parent.mkdir(parents=True, exist_ok=True)
        else:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise obstacle(file, "is no file")
            return descriptor


def _made(file: Path) -> int:
    """Open the lock's file, made if need be, for reading alone if it must not be written.

    Raises:
        UserError: Something else stands there.
        OSError: The system lets nobody write there; FileNotFoundError if its folder is missing.
    """
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | FLAGS, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        try:
            status = file.lstat()
        except OSError:
            raise error from None
        if stat.S_ISLNK(status.st_mode):
            raise obstacle(file, "is a symbolic link") from error
        if not stat.S_ISREG(status.st_mode):
            raise obstacle(file, "is a folder" if file.is_dir() else "is no file") from error
        if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
            raise
    try:
        return os.open(file, os.O_RDONLY | FLAGS)  # another user's; it can be locked all the same
    except FileNotFoundError:
        return _made(file)  # it was let go meanwhile
    except PermissionError as error:
        raise obstacle(file, "is another user's, and cannot be opened") from error


def is_ours(descriptor: int) -> bool:
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


def obstacle(file: Path, what: str) -> UserError:
    """The refusal of a lock in whose place something else stands; `what` says what of it."""
    return UserError(
        f"the lock file {file} cannot be used: it {what}.",
        "Remove or rename it if it is nobody's, or choose another place for the output.",
    )


def lock(descriptor: int) -> None:
    """Lock an open file, without waiting.

    Raises:
        OSError: Somebody has locked it (`TAKEN_BY_SOMEBODY`), or nobody can (`NO_LOCKS`).
    """
    if sys.platform == "win32":
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_still(file: Path, descriptor: int) -> bool:
    """Whether an open file is still the one of that name, which its holder may have removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except FileNotFoundError:
        return False


def write(descriptor: int, holder: Holder) -> None:
    """Say in the file who holds it; where that cannot be written (a full disk), it is held all the same."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(asdict(holder)).encode())


def remove(file: Path) -> None:
    """Remove a lock's file, if that is allowed and it is there."""
    with contextlib.suppress(OSError):
        file.unlink()


def _begun(process: int) -> str | None:
    """When a process began (field 22 of Linux's /proc/PID/stat, see proc(5)); None where nobody says."""
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
