"""Slow tests have their turn: which ones run on which day."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from turns import due, has_turn

MODULE = Path(__file__).parent / "commands/test_killed_backends.py"


def test_within_its_days_each_place_has_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PNEUMOSEG_CHECKS", raising=False)
    found = []
    for day in range(4, 11):
        monkeypatch.setenv("PNEUMOSEG_DAY", str(day))
        found.append([place for place in range(20) if has_turn(place, 7)])
        assert due("abcdefghijklmnopqrst", 7) == ["abcdefghijklmnopqrst"[place] for place in found[-1]]
    assert sorted(chain(*found)) == list(range(20))
    assert {len(places) for places in found} == {2, 3}


def test_all_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOSEG_CHECKS", "all")
    assert due(range(20), 7) == [*range(20)]


def collected(checks: str, day: int) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(MODULE)]
    environment = {**os.environ, "PNEUMOSEG_CHECKS": checks, "PNEUMOSEG_DAY": str(day)}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=MODULE.parents[2])
    assert found.returncode in (0, 5), found.stdout  # 5: none has its turn
    return [line for line in found.stdout.splitlines() if "::" in line]


def test_marked_tests_are_left_out_by_make_test_alone() -> None:
    every = collected("today", 1)
    days = [collected("turns", day) for day in (1, 2, 3)]
    assert every
    assert all(len(day) < len(every) for day in days)
    assert sorted(chain(*days)) == sorted(every)
