"""Where an output goes: to a file or folder of that name, or into something that is no file.

Promises: `destination` follows symbolic links, so that a link stays a link and its target gets the content.
A device, a pipe, a terminal and standard output are never replaced: they are a `Stream`, which takes the
bytes of a whole file. So is an open file that is named by its number (`/dev/stdout`, `/dev/fd/3`), even if
it is a regular one: others write there too. A number that was closed when the program began is refused; what
has it now is a file of the program's own. No pipe is ever opened for reading.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import select
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.base.errors import UserError
from core.base.standard_streams import was_given

STANDARD_OUTPUT = Path("-")
"""What stands for standard output; a file of that name is `output_file("./-")`."""

_DESCRIPTOR = re.compile(r"/proc/(?P<process>\d+)(?:/task/\d+)?/fd/(?P<number>\d+)|/dev/fd/(?P<own>\d+)")
_MOST_LINKS = 40  # of a chain, as in Linux
_PATIENCE_S, _PAUSE_S = 5.0, 0.02  # for the reader of a pipe, which the shell may start a moment later
_BLOCK = 1 << 20
_STANDARD = ("standard input", "standard output", "standard error")  # descriptors 0, 1 and 2


def output_file(word: str) -> Path:
    """The path that a word of the command line names, as the type of an option; see `STANDARD_OUTPUT`."""
    path = Path(word)
    return path.absolute() if path == STANDARD_OUTPUT and word != str(STANDARD_OUTPUT) else path


@dataclass(frozen=True)
class Stream:
    """Something that is written into, and never replaced.

    Attributes:
        path: As the user named it.
        what: What it is, in words.
        descriptor: Of this process, where it is one; None where the path is to be opened. Standard output as
            Python knows it is -1: it may be no file of the system.
    """

    path: Path
    what: str
    descriptor: int | None = None

    @property
    def is_standard_output(self) -> bool:
        """Whether what is printed goes there as well."""
        return self.descriptor in (-1, 1)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Be connected to it during the block: a pipe has a reader then, and `copy` need not wait for one.

        Raises:
            UserError: It cannot be written.
            OSError: Likewise.
        """
        descriptor = self._open()
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def copy(self, file: Path) -> None:
        """Write the content of a file.

        Raises:
            UserError: It cannot be written.
            OSError: Likewise; `BrokenPipeError` where the reader has ended.
        """
        descriptor = self._open()
        if descriptor is None:
            sys.stdout.write(file.read_text(encoding="utf-8"))
            return
        try:
            with file.open("rb") as content:
                while block := content.read(_BLOCK):
                    _write(descriptor, block)
        finally:
            os.close(descriptor)

    def _open(self) -> int | None:
        """A descriptor of its own; None for a standard output that has none."""
        if self.descriptor is None:
            return _opened(self.path)
        number = self.descriptor
        if number in (-1, 1):
            if sys.stdout is None:
                raise UserError("cannot write to standard output: it is closed")
            with contextlib.suppress(BrokenPipeError):  # it is met again where it is told
                sys.stdout.flush()
        if number == -1:
            try:
                number = sys.stdout.fileno()
            except io.UnsupportedOperation:
                return None
        descriptor = os.dup(number)
        try:
            os.write(descriptor, b"")  # fails where it is open for reading alone
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def destination(path: Path) -> Path | Stream:
    """Where what is written to a path goes.

    Returns:
        The absolute path without symbolic links, of a file, of a folder, or of nothing yet; or a stream.

    Raises:
        UserError: It is something that cannot be written to, or a link that leads nowhere but to itself.
    """
    if path == STANDARD_OUTPUT:
        _check_given(path, 1)
        return Stream(path, "standard output", -1)
    if (named := _descriptor(path)) is not None:
        return named
    real = Path(os.path.realpath(path))
    try:
        status = real.stat()
    except OSError as error:
        if error.errno == errno.ELOOP or real.is_symlink():
            raise UserError(f"cannot write {path}: its symbolic links lead in a circle") from error
        return real  # nothing is there, or nothing can be told of it: writing will say why
    if stat.S_ISDIR(status.st_mode):
        return real
    if stat.S_ISREG(status.st_mode):
        shared = (number for number in (1, 2) if _is(number, status))
        return next((Stream(path, "where this process prints to", number) for number in shared), real)
    if stat.S_ISCHR(status.st_mode):
        return Stream(path, "a device")
    if stat.S_ISFIFO(status.st_mode):
        return Stream(path, "a pipe")
    what = "a socket" if stat.S_ISSOCK(status.st_mode) else "a disk or another device of blocks"
    raise UserError(f"cannot write {path}: it is {what}", "Name a file.")


def is_stream(path: Path) -> bool:
    """Whether what is written to a path goes into something that is no file."""
    return isinstance(destination(path), Stream)


def is_standard_output(path: Path | None) -> bool:
    """Whether what is written to a path goes where commands print."""
    found = None if path is None else destination(path)
    return isinstance(found, Stream) and found.is_standard_output


def _descriptor(path: Path) -> Stream | None:
    """The descriptor that a path names, or a link or a chain of links names."""
    at = path
    for _ in range(_MOST_LINKS):
        at = Path(os.path.realpath(at.parent), at.name)
        if match := _DESCRIPTOR.fullmatch(str(at)):
            own = match["own"] is not None or int(match["process"]) == os.getpid()
            number = int(match["own"] or match["number"])
            if own:
                _check_given(path, number)
            return Stream(path, "an open file of a process", number if own else None)
        if not at.is_symlink():
            break
        at = at.parent / at.readlink()
    return None


def _check_given(path: Path, number: int) -> None:
    """Refuse a descriptor that was closed when the program began."""
    if not was_given(number):
        what = f"descriptor {number} is not open" if number > 2 else f"{_STANDARD[number]} is closed"
        raise UserError(
            f"cannot write {path}: {what}", "Name a file, or connect it when you start the command."
        )


def _is(descriptor: int, status: os.stat_result) -> bool:
    """Whether a descriptor of this process leads to the file of that status."""
    try:
        return os.path.samestat(os.fstat(descriptor), status)
    except OSError:  # it is closed
        return False


def _opened(path: Path) -> int:
    """Open a device or a pipe for writing, at the end where it has one."""
    deadline = time.monotonic() + _PATIENCE_S
    flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo():
                raise
            if time.monotonic() > deadline:
                raise UserError(
                    f"cannot write {path}: nobody reads from this pipe", "Start its reader first."
                ) from error
            time.sleep(_PAUSE_S)
        else:
            if hasattr(os, "set_blocking"):
                os.set_blocking(descriptor, True)
            return descriptor


def _write(descriptor: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
