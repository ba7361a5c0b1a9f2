r"""Standard output and standard error that never raise, and text that is safe to print.

With `protected_streams`, writing to the two streams never raises. A character that the stream's encoding
lacks is written as an escape (`\u80f8`). If the reader has gone (`| head`), the disk is full or the stream
was closed (`>&-`), the work goes on, and `Streams.write_failure` returns the reason. `visible` escapes line
breaks and control characters, so that a text stays on its line and cannot control a terminal.
`was_open_at_start` distinguishes descriptors that were open when the program began from those it opened.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAMES = ("stdout", "stderr")
_FOLDERS = ("/proc/self/fd", "/dev/fd")  # of this process's descriptors

_open_at_start: frozenset[int] | None = None


def visible(text: str) -> str:
    """Return text with escapes for control characters, line breaks and marks of text direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def was_open_at_start(descriptor: int) -> bool:
    """Whether a descriptor was open when the program began. If it was not, the program itself opened it.

    True for all descriptors outside of `protected_streams`, or if the system does not list them.
    """
    return _open_at_start is None or descriptor in _open_at_start


@dataclass(frozen=True)
class Streams:
    """The protected streams of this process. Streams that somebody has replaced are missing."""

    _protected: dict[str, _ProtectedStream]

    def write_failure(self) -> OSError | None:
        """Return why something that was printed did not reach standard output.

        None if all of it did, if the reader has gone, or if there never was one.
        """
        stdout = self._protected.get("stdout")
        if stdout is None:
            return None
        stdout.flush()
        return None if stdout.raw_stream.has_no_reader else stdout.raw_stream.failure


@contextlib.contextmanager
def protected_streams() -> Iterator[Streams]:
    """Make `sys.stdout` and `sys.stderr` accept all that is written, until the end of the block.

    A stream that somebody has replaced is not changed.
    """
    global _open_at_start
    known_before, _open_at_start = _open_at_start, _open_descriptors()
    _open_closed()
    before = {name: getattr(sys, name) for name in _NAMES}
    protected = protect_streams()
    try:
        yield Streams(protected)
    finally:
        _open_at_start = known_before
        for name, stream in protected.items():
            stream.flush()
            setattr(sys, name, before[name])


def protect_streams() -> dict[str, _ProtectedStream]:
    """Protect the streams for the rest of the process, and return those that were changed, by name."""
    protected = {}
    for name in _NAMES:
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for what is written after the block
            stream.flush()
            protected[name] = _ProtectedStream(stream)
            setattr(sys, name, protected[name])
    return protected


class _ProtectedStream(io.TextIOWrapper):
    """A copy of a stream with a raw layer that never raises."""

    def __init__(self, like: io.TextIOWrapper) -> None:
        raw = getattr(like.buffer, "raw", None)  # None with `python -u`, which has no layer between
        self.raw_stream = _ProtectedRaw(raw or like.buffer)
        super().__init__(
            io.BufferedWriter(self.raw_stream) if raw else self.raw_stream,
            encoding=like.encoding,
            errors="backslashreplace",
            line_buffering=like.line_buffering,
            write_through=like.write_through,
        )


class _ProtectedRaw(io.RawIOBase):
    """The raw layer of a stream. It accepts everything, and stores the first error."""

    def __init__(self, raw: Any) -> None:
        super().__init__()
        self._raw, self.name, self.mode = raw, raw.name, "wb"
        self._is_terminal = self.isatty()
        self.failure: OSError | None = None

    @property
    def has_no_reader(self) -> bool:
        """Whether a write failed because the other end of a pipe or socket, or the terminal, was closed."""
        failure = self.failure
        is_closed = self._is_terminal and failure is not None and failure.errno == errno.EIO
        return is_closed or isinstance(failure, ConnectionError)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                written = self._raw.write(rest)
                if written is None:  # the pipe is full, and the descriptor does not block
                    select.select([], [self._raw], [])
                rest = rest[written or 0 :]
        except OSError as error:
            self.failure = self.failure or error
        return size


def _open_descriptors() -> frozenset[int] | None:
    """Return the open descriptors; None if the system does not list them."""
    for folder in _FOLDERS:
        try:
            listed = [int(found.name) for found in Path(folder).iterdir() if found.name.isdecimal()]
        except OSError:
            continue
        return frozenset(filter(_is_open, listed))  # the one used for listing is closed by now
    return None


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _open_closed() -> None:
    """Open those of descriptors 0, 1 and 2 that are closed.

    Otherwise the next file that is opened gets the number, and what a library prints goes into that file.
    """
    for number in range(3):
        if not _is_open(number):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in _NAMES:
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  until the end
