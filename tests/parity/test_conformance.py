"""The conformance suite on every backend under test; no backend may refuse a check.

By default, slow checks are omitted if other checks cover the same errors: single convolutions in float64
(checked in float32, and in float64 within networks), paddings, groups, residual blocks and upsampling in one
of both precisions, single pools (checked within networks), most random networks, the largest whole network,
and the checks on the largest images. `turns` says which runs have them, and which a part of the others alone.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from turns import asked, due

from core.backend.process import BackendProcess
from core.conformance import Check, all_checks, examine

DAYS = 14
LONG = re.compile(
    r"((transposed )?convolution|output block): kernel .*\(float64\)"
    r"|(padding|(max|average) pool): (same|symmetric|valid|ceil), kernel .*\(float64\)"
    r"|groups: .*\(float64\)|(residual blocks|upsampling): .*\(float32\)"
    r"|random networks: number ([4-9]|\d\d) .*"
    r"|random networks from the literature: number ([2-9]|\d\d) .*"
    r"|existence head: random network [1-9] .*"
    r"|whole networks: unet, ten .*"
)


def seldom() -> list[Check]:
    """Return the checks that are omitted by default."""
    usual = all_checks()
    long = [check for check in usual if LONG.fullmatch(str(check))]
    # So that a renamed check is neither run nor omitted unnoticed.
    assert len(long) == 60 + 57 + 38 + 20 + 10 + 2 + 1
    return [*long, *all_checks(large=True)[len(usual) :]]


def chosen() -> list[Any]:
    """Return the checks to run."""
    omitted = set(map(str, seldom()))
    usual = [check for check in all_checks() if str(check) not in omitted]
    added = due(seldom(), DAYS) if asked() in ("today", "all") else []
    return [
        *(due(usual, 3) if asked() == "third" else usual),
        # The reference is slow on large images.
        *(pytest.param(one, marks=pytest.mark.timeout(1800)) for one in added),
    ]


@pytest.mark.turns(7)
@pytest.mark.parametrize("check", chosen(), ids=str)
def test_conformance(remote: BackendProcess, check: Check) -> None:
    outcome = examine(check, remote)
    assert outcome.status == "passed", outcome.detail


def test_every_check_that_is_omitted_has_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PNEUMOSEG_CHECKS", raising=False)
    days = []
    for day in range(DAYS):
        monkeypatch.setenv("PNEUMOSEG_DAY", str(739950 + day))
        days.append(due(seldom(), DAYS))
    assert sorted(str(check) for day in days for check in day) == sorted(map(str, seldom()))
    assert max(map(len, days)) <= len(seldom()) // DAYS + 1
