"""The exit statuses of all commands.

Every command's `run` returns a `Status`, or a number from `of_signal`. docs/commands.md explains them; the
overview (`--help`) lists `MEANINGS`.
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
        """Return `FAULTS` if there are any (a number, a list or a bool), else `DONE`."""
        return cls.FAULTS if faults else cls.DONE


SIGNAL_BASE = 128

MEANINGS = {
    "0": "done",
    "1": "an error; standard error has the message",
    "2": "wrong usage: an unknown command or option, or a value that it does not take",
    "3": "done, but input was unreadable or faults were found; they are listed",
    "130": "interrupted (Ctrl-C)",
    "128+N": "ended by signal N (143 for SIGTERM, 129 for SIGHUP)",
}
"""The meaning of each status, in the order of the documents."""


def of_signal(number: int) -> int:
    """Return the status of a command that a signal ended, as shells count it: `INTERRUPTED` for SIGINT."""
    return SIGNAL_BASE + number
