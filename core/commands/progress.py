"""The bar, or where nobody knows the end the spinner, that long work shows."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status


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
        disable=not console.is_terminal,
    )


def spinner(console: Console, text: str) -> Status:
    """What is shown beside work whose end is not known, in characters that the terminal has."""
    return console.status(text, spinner="dots" if console.encoding.startswith("utf") else "line")
