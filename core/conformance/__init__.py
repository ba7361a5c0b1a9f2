"""What a backend must do, as checks that anybody can run on theirs.

    python run.py conformance -f yours

or with pytest, one test a check:

    from core.conformance import all_checks, examine
    from core.isolation import Isolated

    @pytest.mark.parametrize("check", all_checks(), ids=str)
    def test_conformance(check):
        with Isolated("yours") as backend:        # better once for all, in a fixture
            outcome = examine(check, backend)
        assert outcome.status == "passed", outcome.detail

Promises: the judge is the NumPy reference in float64; checks draw the same numbers every time, and a
backend that refuses (`UserError`) is told apart from one that is wrong.
"""

from __future__ import annotations

from core.conformance.behaviour import behaviour_checks
from core.conformance.numbers import number_checks
from core.conformance.suite import Calls, Check, Outcome, capabilities, examine

__all__ = ["Calls", "Check", "Outcome", "all_checks", "capabilities", "examine"]


def all_checks() -> list[Check]:
    """Every check, numbers first."""
    return [*number_checks(), *behaviour_checks()]
