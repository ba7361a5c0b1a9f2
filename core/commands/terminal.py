"""Where commands print: to standard output, or beside it where that is an output."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from core.destinations import is_standard_output


def console(*outputs: Path | None, soft_wrap: bool = False) -> Console:
    """The console of a command.

    Args:
        outputs: What the command writes and may be standard output. If one is, everything else is printed to
            standard error.
        soft_wrap: Whether lines may be longer than the terminal is wide.
    """
    to_stderr = any(is_standard_output(path) for path in outputs)
    return Console(stderr=to_stderr, highlight=False, markup=False, soft_wrap=soft_wrap)
