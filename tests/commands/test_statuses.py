"""The exit statuses: failed checks give status 3, and the documents explain all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import run_here, succeed

from core.commands.shared.statuses import MEANINGS, Status


def test_a_check_that_fails_is_a_fault(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import core.conformance
    from core.conformance import CheckOutcome

    def fail(check: core.conformance.Check, _: object) -> CheckOutcome:
        return CheckOutcome(check, "failed", "far off")

    monkeypatch.setattr(core.conformance, "examine", fail)
    words = ("conformance", "-f", "reference", "--only", "kernel 1, stride 1")
    said = succeed(*words, cwd=place, how=run_here, status=3)
    assert "reference failed: " in said
    assert "reference failed: " in succeed(*words, "-q", cwd=place, how=run_here, status=3)


def test_a_certificate_that_does_not_hold_is_a_fault(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.parity import Certificate

    monkeypatch.setattr(Certificate, "holds", property(lambda _: False))
    words = ("parity", "-f", "numpy", "-f", "torch", "--steps", "1", "--batch-size", "2", "-q")
    assert "DOES NOT HOLD" in succeed(*words, cwd=place, how=run_here, status=3)


def test_statuses_are_distinct_and_explained() -> None:
    assert [int(status) for status in Status] == [0, 1, 2, 3, 130]
    assert [*MEANINGS] == [*(str(int(status)) for status in Status), "128+N"]
    assert (Status.of([]), Status.of(0), Status.of("x"), Status.of(2)) == (0, 0, 3, 3)


def test_the_documents_explain_the_same() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text("utf-8")
    for status, meaning in MEANINGS.items():
        assert f"| {status} | {meaning} |" in page
