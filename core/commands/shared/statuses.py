"""The exit statuses of all commands.

Provides `Status`, which every command's `run` returns, and `of_signal`. docs/commands.md explains them to
users; the overview (`--help`) lists `MEANINGS`.
"""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """How a command ended."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    FAULTS = 3
    INTERRUPTED = 130

    @classmethod
    def of(cls, faults: object) -> Status:
        """`FAULTS` where there are any (a number, a list, a truth value), else `DONE`."""
        return cls.FAULTS if faults else cls.DONE


SIGNAL_BASE = 128

MEANINGS = {
    "0": "done",
    "1": "an error; it is told on standard error",
    "2": "wrong usage: an unknown command or option, or a value that it does not take",
    "3": "done, but input was unreadable or faults were found; they are listed",
    "130": "interrupted (Ctrl-C)",
    "128+N": "ended by signal N (143 for SIGTERM, 129 for SIGHUP)",
}
"""What each status means, in the order of the documents."""


def of_signal(number: int) -> int:
    """The status of a command that a signal has ended, as shells count it; SIGINT gives `INTERRUPTED`."""
    return SIGNAL_BASE + number
