"""Where an output goes: to a file or folder at its path, or into a stream.

`destination` follows symbolic links, so that a link stays a link and its target gets the content. A device, a
pipe, a terminal and standard output are never replaced. Each is an `OutputStream`, which takes the bytes of a
whole file. An open file that is named by its descriptor (`/dev/stdout`, `/dev/fd/3`) is a stream too, even if
it is a regular file, because other processes may write to it. A descriptor that was closed when the program
began is refused, because it now belongs to a file of the program. No pipe is ever opened for reading.
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
from core.base.standard_streams import was_open_at_start

STANDARD_OUTPUT = Path("-")
"""The path that means standard output. A file of that name is `output_file("./-")`."""

_DESCRIPTOR = re.compile(r"/proc/(?P<process>\d+)(?:/task/\d+)?/fd/(?P<number>\d+)|/dev/fd/(?P<own>\d+)")
_MOST_LINKS = 40  # in a chain, as in Linux
_PATIENCE_S, _PAUSE_S = 5.0, 0.02  # wait for the reader of a pipe, which the shell may start a moment later
_BLOCK = 1 << 20
_STANDARD = ("standard input", "standard output", "standard error")  # descriptors 0, 1 and 2


def output_file(word: str) -> Path:
    """Return the path that a word of the command line names (an option's type). "-" is `STANDARD_OUTPUT`."""
    path = Path(word)
    return path.absolute() if path == STANDARD_OUTPUT and word != str(STANDARD_OUTPUT) else path


@dataclass(frozen=True)
class OutputStream:
    """An output that is written into and never replaced.

    Attributes:
        path: As the user named it.
        what: What it is, in words.
        descriptor: A descriptor of this process; None if the path has to be opened. -1 is `sys.stdout`, which
            may have no descriptor.
    """

    path: Path
    what: str
    descriptor: int | None = None

    @property
    def is_standard_output(self) -> bool:
        """Whether printed text goes there as well."""
        return self.descriptor in (-1, 1)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Keep it open during the block. A pipe then has a reader, for which `copy` need not wait.

        Raises:
            UserError: It cannot be written.
            OSError: It cannot be written.
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
            OSError: It cannot be written; `BrokenPipeError` if the reader has ended.
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
        """Return a new descriptor; None for a `sys.stdout` that has none."""
        if self.descriptor is None:
            return _open_path(self.path)
        number = self.descriptor
        if number in (-1, 1):
            if sys.stdout is None:
                raise UserError("cannot write to standard output: it is closed")
            with contextlib.suppress(BrokenPipeError):  # it is raised again where it is reported
                sys.stdout.flush()
        if number == -1:
            try:
                number = sys.stdout.fileno()
            except io.UnsupportedOperation:
                return None
        descriptor = os.dup(number)
        try:
            os.write(descriptor, b"")  # fails if it is open for reading only
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def destination(path: Path) -> Path | OutputStream:
    """Return where content that is written to a path goes.

    Returns:
        The absolute path without symbolic links (of a file, a folder, or nothing yet), or a stream.

    Raises:
        UserError: It cannot be written to, or its symbolic links form a circle.
    """
    if path == STANDARD_OUTPUT:
        _check_open_at_start(path, 1)
        return OutputStream(path, "standard output", -1)
    if (named := _descriptor_stream(path)) is not None:
        return named
    real = Path(os.path.realpath(path))
    try:
        status = real.stat()
    except OSError as error:
        if error.errno == errno.ELOOP or real.is_symlink():
            raise UserError(f"cannot write {path}: its symbolic links lead in a circle") from error
        return real  # it does not exist, or cannot be examined; then writing gives the reason
    if stat.S_ISDIR(status.st_mode):
        return real
    if stat.S_ISREG(status.st_mode):
        shared = (number for number in (1, 2) if _leads_to(number, status))
        return next((OutputStream(path, "where this process prints to", number) for number in shared), real)
    if stat.S_ISCHR(status.st_mode):
        return OutputStream(path, "a device")
    if stat.S_ISFIFO(status.st_mode):
        return OutputStream(path, "a pipe")
    what = "a socket" if stat.S_ISSOCK(status.st_mode) else "a disk or another device of blocks"
    raise UserError(f"cannot write {path}: it is {what}", "Name a file.")


def is_stream(path: Path) -> bool:
    """Whether content that is written to a path goes into a stream."""
    return isinstance(destination(path), OutputStream)


def is_standard_output(path: Path | None) -> bool:
    """Whether content that is written to a path goes to standard output."""
    found = None if path is None else destination(path)
    return isinstance(found, OutputStream) and found.is_standard_output


def _descriptor_stream(path: Path) -> OutputStream | None:
    """Return the open file that a path names by its descriptor, also through a chain of links."""
    at = path
    for _ in range(_MOST_LINKS):
        at = Path(os.path.realpath(at.parent), at.name)
        if match := _DESCRIPTOR.fullmatch(str(at)):
            own = match["own"] is not None or int(match["process"]) == os.getpid()
            number = int(match["own"] or match["number"])
            if own:
                _check_open_at_start(path, number)
            return OutputStream(path, "an open file of a process", number if own else None)
        if not at.is_symlink():
            break
        at = at.parent / at.readlink()
    return None


def _check_open_at_start(path: Path, number: int) -> None:
    """Refuse a descriptor that was closed when the program began."""
    if not was_open_at_start(number):
        what = f"descriptor {number} is not open" if number > 2 else f"{_STANDARD[number]} is closed"
        raise UserError(
            f"cannot write {path}: {what}", "Name a file, or connect it when you start the command."
        )


def _leads_to(descriptor: int, status: os.stat_result) -> bool:
    """Whether a descriptor of this process is open on the file with a status."""
    try:
        return os.path.samestat(os.fstat(descriptor), status)
    except OSError:  # it is closed
        return False


def _open_path(path: Path) -> int:
    """Open a device or a pipe for writing, at its end if it has one."""
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
