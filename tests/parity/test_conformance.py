"""The conformance suite on every backend under test; no backend may refuse a check.

By default, slow checks are omitted if other checks cover the same errors: single convolutions in float64
(checked in float32, and in float64 within networks), paddings, groups, residual blocks and upsampling in one
of both precisions, single pools (checked within networks), most random networks, the largest whole network,
and the checks on the largest images. PNEUMOSEG_CHECKS=all runs all of them. PNEUMOSEG_CHECKS=today, which
`.ci/run` uses, adds a seventh of them: each has its day of the week. PNEUMOSEG_CHECKS=half, which `make
lowest` uses, runs every second of the usual ones, the others on the next day.
"""

from __future__ import annotations

import datetime
import os
import re
from typing import Any

import pytest

from core.backend.process import BackendProcess
from core.conformance import Check, all_checks, examine

LONG = re.compile(
    r"((transposed )?convolution|output block): kernel .*\(float64\)"
    r"|(padding|(max|average) pool): (same|symmetric|valid|ceil), kernel .*\(float64\)"
    r"|groups: .*\(float64\)|(residual blocks|upsampling): .*\(float32\)"
    r"|random networks: number ([4-9]|\d\d) .*"
    r"|random networks from the literature: number ([2-9]|\d\d) .*"
    r"|existence head: random network [1-9] .*"
    r"|whole networks: unet, ten .*"
)


def due(checks: list[Check], day: datetime.date) -> list[Check]:
    """Return a seventh of the checks, depending on the day; within a week, each check has its day."""
    return [check for place, check in enumerate(checks) if (day.toordinal() + place) % 7 == 0]


def seldom() -> list[Check]:
    """Return the checks that are omitted by default."""
    usual = all_checks()
    long = [check for check in usual if LONG.fullmatch(str(check))]
    # So that a renamed check is neither run nor omitted unnoticed.
    assert len(long) == 60 + 57 + 38 + 20 + 10 + 2 + 1
    return [*long, *all_checks(large=True)[len(usual) :]]


def chosen() -> list[Any]:
    """Return the checks to run."""
    added = {"all": seldom(), "today": due(seldom(), datetime.date.today())}
    omitted, asked = set(map(str, seldom())), os.environ.get("PNEUMOSEG_CHECKS", "")
    usual = [check for check in all_checks() if str(check) not in omitted]
    return [
        *(usual[datetime.date.today().toordinal() % 2 :: 2] if asked == "half" else usual),
        # The reference is slow on large images.
        *(pytest.param(one, marks=pytest.mark.timeout(1800)) for one in added.get(asked, [])),
    ]


@pytest.mark.parametrize("check", chosen(), ids=str)
def test_conformance(remote: BackendProcess, check: Check) -> None:
    outcome = examine(check, remote)
    assert outcome.status == "passed", outcome.detail


def test_every_check_that_is_omitted_has_its_day() -> None:
    monday = datetime.date(2026, 11, 30)
    week = [due(seldom(), monday + datetime.timedelta(days)) for days in range(7)]
    assert sorted(str(check) for day in week for check in day) == sorted(map(str, seldom()))
    assert max(map(len, week)) <= len(seldom()) // 7 + 1
