"""What commands show on the terminal, and on which stream.

Provides the one policy of `-q`, `-v` and `--no-progress`:

    kind of text                          -q         normal     -v
    errors (standard error)               shown      shown      shown, with the traceback
    problems (`Terminal.problem`)         shown      shown      shown, not the first few alone
    results (`Terminal.result`)           shown (a)  shown      shown
    everything else (`Terminal.print`)    hidden     shown      shown
    progress bars                         hidden     shown (b)  shown (b)
    versions and time (standard error)    hidden     hidden     shown

    (a) hidden where an output goes to standard output: that output is then what was asked for
    (b) hidden with --no-progress

A problem is what makes the exit status other than 0. A result is what a command exists to show, such as a
table of scores.
"""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from core.files.destinations import is_standard_output


class Verbosity(enum.IntEnum):
    """How much is shown; see the module."""

    QUIET = -1
    NORMAL = 0
    VERBOSE = 1


@dataclass(frozen=True)
class Shown:
    """What a command line asks to be shown.

    Args:
        verbosity: How much text.
        progress: Whether progress bars are wanted.
    """

    verbosity: Verbosity = Verbosity.NORMAL
    progress: bool = True


_NORMAL = Shown()
_shown: ContextVar[Shown] = ContextVar("shown", default=_NORMAL)


@contextlib.contextmanager
def showing(*, quiet: bool, verbose: bool, progress: bool) -> Iterator[None]:
    """Apply what the command line asks for during the block."""
    verbosity = Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL
    token = _shown.set(Shown(verbosity, progress))
    try:
        yield
    finally:
        _shown.reset(token)


def hides_progress() -> bool:
    """Whether no progress bar is to be shown."""
    shown = _shown.get()
    return shown.verbosity is Verbosity.QUIET or not shown.progress


def most_shown(number: int) -> int:
    """How many lines of one kind are shown: `number`, or all of them with -v."""
    return sys.maxsize if _shown.get().verbosity is Verbosity.VERBOSE else number


class Terminal(Console):
    """The console of a command. `print` shows what -q hides; see the module for the other two."""

    def result(self, *objects: Any, **options: Any) -> None:
        """Print what the command was asked for; `options` as of `print`."""
        self._print_anyway(self.quiet and self.stderr, objects, options)

    def problem(self, *objects: Any, **options: Any) -> None:
        """Print what makes the exit status other than 0; `options` as of `print`."""
        self._print_anyway(False, objects, options)

    def _print_anyway(self, quiet: bool, objects: tuple[Any, ...], options: dict[str, Any]) -> None:
        before, self.quiet = self.quiet, quiet
        try:
            self.print(*objects, **options)
        finally:
            self.quiet = before


def console(*outputs: Path | None, soft_wrap: bool = False) -> Terminal:
    """The console of a command.

    Args:
        outputs: What the command writes and may be standard output. If one is, everything else is printed to
            standard error.
        soft_wrap: Whether lines may be longer than the terminal is wide.
    """
    to_stderr = any(is_standard_output(path) for path in outputs)
    quiet = _shown.get().verbosity is Verbosity.QUIET
    return Terminal(stderr=to_stderr, quiet=quiet, highlight=False, markup=False, soft_wrap=soft_wrap)
