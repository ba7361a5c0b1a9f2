"""The text that commands show, the stream it goes to, and the effect of `-q`, `-v` and `--no-progress`.

    kind of text                          -q         normal     -v
    errors (standard error)               shown      shown      shown, with the traceback
    problems (`Terminal.problem`)         shown      shown      shown, not the first few alone
    results (`Terminal.result`)           shown (a)  shown      shown
    everything else (`Terminal.print`)    hidden     shown      shown
    progress bars                         hidden     shown (b)  shown (b)
    versions and time (standard error)    hidden     hidden     shown

    (a) hidden where an output goes to standard output: that output is then the result
    (b) hidden with --no-progress

A problem makes the exit status other than 0. A result is the main output of a command, such as a table of
scores.
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
    """The amount of text; see the module."""

    QUIET = -1
    NORMAL = 0
    VERBOSE = 1


@dataclass(frozen=True)
class DisplaySettings:
    """The display options of a command line.

    Args:
        verbosity: The amount of text.
        progress: Whether progress bars are shown.
    """

    verbosity: Verbosity = Verbosity.NORMAL
    progress: bool = True


_NORMAL = DisplaySettings()
_display: ContextVar[DisplaySettings] = ContextVar("display", default=_NORMAL)


@contextlib.contextmanager
def showing(*, quiet: bool, verbose: bool, progress: bool) -> Iterator[None]:
    """Apply the display options during the block."""
    verbosity = Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL
    token = _display.set(DisplaySettings(verbosity, progress))
    try:
        yield
    finally:
        _display.reset(token)


def hides_progress() -> bool:
    """Return whether progress bars are hidden."""
    settings = _display.get()
    return settings.verbosity is Verbosity.QUIET or not settings.progress


def most_shown(number: int) -> int:
    """Return the number of lines of one kind to show: `number`, or all of them with -v."""
    return sys.maxsize if _display.get().verbosity is Verbosity.VERBOSE else number


class Terminal(Console):
    """The console of a command. -q hides the text of `print`; see the module for the other two."""

    def result(self, *objects: Any, **options: Any) -> None:
        """Print a result; `options` as in `print`."""
        self._print_anyway(self.quiet and self.stderr, objects, options)

    def problem(self, *objects: Any, **options: Any) -> None:
        """Print a problem; `options` as in `print`."""
        self._print_anyway(False, objects, options)

    def _print_anyway(self, quiet: bool, objects: tuple[Any, ...], options: dict[str, Any]) -> None:
        before, self.quiet = self.quiet, quiet
        try:
            self.print(*objects, **options)
        finally:
            self.quiet = before


def console(*outputs: Path | None, soft_wrap: bool = False) -> Terminal:
    """Return the console of a command.

    Args:
        outputs: The outputs that may be standard output. If one is, all text goes to standard error.
        soft_wrap: Whether lines may be longer than the terminal is wide.
    """
    to_stderr = any(is_standard_output(path) for path in outputs)
    quiet = _display.get().verbosity is Verbosity.QUIET
    return Terminal(stderr=to_stderr, quiet=quiet, highlight=False, markup=False, soft_wrap=soft_wrap)
