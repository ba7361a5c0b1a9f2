"""Progress bars, and a spinner for work of unknown length.

`core.commands.shared.terminal` says when they are hidden.
"""

from __future__ import annotations

import contextlib
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from core.commands.shared.terminal import hides_progress


def progress_bar(console: Console) -> Progress:
    """Return a bar for tasks with a description, which is removed at the end.

    It is disabled where standard output is no terminal; it would leave an empty line there.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=hides_progress() or not console.is_terminal,
    )


def bar_of(console: Console, *columns: ProgressColumn, transient: bool = False) -> Progress:
    """Return a bar with the given columns (rich's where none is given), which is also shown in a log."""
    return Progress(*columns, console=console, transient=transient, disable=hides_progress())


def spinner(console: Console, text: str) -> contextlib.AbstractContextManager[Any]:
    """Return a spinner for work of unknown length, in characters that the terminal can show."""
    if hides_progress():
        return contextlib.nullcontext()
    return console.status(text, spinner="dots" if console.encoding.startswith("utf") else "line")
