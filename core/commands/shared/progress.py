"""The bar, or where nobody knows the end the spinner, that long work shows.

`core.commands.shared.terminal` says when neither is wanted.
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
    """A bar for tasks with a description, gone at the end; none where nobody would see it.

    There it would leave an empty line.
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
    """A bar with columns of its own (rich's where none is given), which is also shown in a log."""
    return Progress(*columns, console=console, transient=transient, disable=hides_progress())


def spinner(console: Console, text: str) -> contextlib.AbstractContextManager[Any]:
    """What is shown beside work whose end is not known, in characters that the terminal has."""
    if hides_progress():
        return contextlib.nullcontext()
    return console.status(text, spinner="dots" if console.encoding.startswith("utf") else "line")
