"""Every check of the conformance suite on every backend under test; none may refuse."""

from __future__ import annotations

import pytest

from core.conformance import Check, all_checks, examine
from core.isolation import Isolated


@pytest.mark.parametrize("check", all_checks(), ids=str)
def test_conformance(remote: Isolated, check: Check) -> None:
    outcome = examine(check, remote)
    assert outcome.status == "passed", outcome.detail
