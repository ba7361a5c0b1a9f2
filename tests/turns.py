"""Which of the slow tests run, by the environment variable PNEUMOSEG_CHECKS.

    unset   all, but for conformance checks that others cover (tests/parity/test_conformance.py): `pytest`
    turns   of the tests marked `turns(days)`, those whose turn it is: `make test`
    today   as unset, and a fourteenth of the conformance checks that it omits: `.ci/run`
    third   as unset, but a third of the conformance checks: `make lowest`
    all     all

A slow test has its turn on one of so many days, so that within these days each one runs.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_DAY = "PNEUMOSEG_DAY"


def asked() -> str:
    """Return what PNEUMOSEG_CHECKS asks for; "" if it is unset."""
    return os.environ.get("PNEUMOSEG_CHECKS", "")


def fix_day() -> None:
    """Let this process and its children have the same day, also if midnight comes between."""
    os.environ.setdefault(_DAY, str(datetime.date.today().toordinal()))


def has_turn(place: int, days: int) -> bool:
    """Return whether the test in this place has its turn; if all are asked for, each one has."""
    return asked() == "all" or (int(os.environ[_DAY]) + place) % days == 0


def due(tests: Sequence[T], days: int) -> list[T]:
    """Return the tests that have their turn."""
    return [test for place, test in enumerate(tests) if has_turn(place, days)]
