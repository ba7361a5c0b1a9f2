r"""What is shown, on whatever terminal or log there is.

Promises: nothing that is written to standard output or standard error raises. A character that the stream's
encoding lacks is written as an escape (`\u80f8`); where the reader has gone (`| head`), the disk is full or
the stream was closed (`>&-`), the work goes on, and `Streams.lost` tells the reason. A text that `visible`
has passed stays in its line and cannot steer a terminal. `was_given` tells the descriptors with which the
process began from those that it opened itself.
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

_given: frozenset[int] | None = None


def visible(text: str) -> str:
    """Characters that are not seen (controls, line breaks, marks that turn text's direction) as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def was_given(descriptor: int) -> bool:
    """Whether a descriptor was open when the program began; of one that was not, nobody else means the file.

    Yes for all where nobody knows: outside of `lasting_streams`, and where the system does not list them.
    """
    return _given is None or descriptor in _given


@dataclass(frozen=True)
class Streams:
    """This process's two streams while they are made to last; those that were not are missing."""

    _lasting: dict[str, _Lasting]

    def lost(self) -> OSError | None:
        """Why something that was written to standard output is not there.

        None where all of it is, and where nobody wants it: the reader has gone, or there never was one.
        """
        stdout = self._lasting.get("stdout")
        if stdout is None:
            return None
        stdout.flush()
        return None if stdout.end.left else stdout.end.failure


@contextlib.contextmanager
def lasting_streams() -> Iterator[Streams]:
    """Have `sys.stdout` and `sys.stderr` take whatever is written, until the end of the block.

    Those that somebody has put in the place of the process's own stay as they are.
    """
    global _given
    given_before, _given = _given, _open_descriptors()
    _fill_closed()
    before = {name: getattr(sys, name) for name in _NAMES}
    lasting = make_streams_last()
    try:
        yield Streams(lasting)
    finally:
        _given = given_before
        for name, stream in lasting.items():
            stream.flush()
            setattr(sys, name, before[name])


def make_streams_last() -> dict[str, _Lasting]:
    """The same for the rest of the process; gives the streams that were changed."""
    lasting = {}
    for name in _NAMES:
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for what comes after the block
            stream.flush()
            lasting[name] = _Lasting(stream)
            setattr(sys, name, lasting[name])
    return lasting


class _Lasting(io.TextIOWrapper):
    """A stream like another one, with a last layer of its own."""

    def __init__(self, like: io.TextIOWrapper) -> None:
        raw = getattr(like.buffer, "raw", None)  # None with `python -u`, which has no layer between
        self.end = _End(raw or like.buffer)
        super().__init__(
            io.BufferedWriter(self.end) if raw else self.end,
            encoding=like.encoding,
            errors="backslashreplace",
            line_buffering=like.line_buffering,
            write_through=like.write_through,
        )


class _End(io.RawIOBase):
    """The last layer of a stream: it takes everything, and keeps the first reason why it could not."""

    def __init__(self, raw: Any) -> None:
        super().__init__()
        self._raw, self.name, self.mode = raw, raw.name, "wb"
        self._is_terminal = self.isatty()
        self.failure: OSError | None = None

    @property
    def left(self) -> bool:
        """Whether nobody reads any more: a pipe's or socket's other end is closed, or a terminal is."""
        failure = self.failure
        gone = self._is_terminal and failure is not None and failure.errno == errno.EIO
        return gone or isinstance(failure, ConnectionError)

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
                if written is None:  # full, and somebody has told it not to wait
                    select.select([], [self._raw], [])
                rest = rest[written or 0 :]
        except OSError as error:
            self.failure = self.failure or error
        return size


def _open_descriptors() -> frozenset[int] | None:
    """The descriptors that are open; None where the system does not list them."""
    for folder in _FOLDERS:
        try:
            listed = [int(found.name) for found in Path(folder).iterdir() if found.name.isdecimal()]
        except OSError:
            continue
        return frozenset(filter(_is_open, listed))  # the one with which they were listed is not any more
    return None


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _fill_closed() -> None:
    """Open what was closed when the process began; or else the next file that is opened takes its number.

    Whatever a library prints would then be written into that file.
    """
    for number in range(3):
        if not _is_open(number):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in _NAMES:
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  until the end
