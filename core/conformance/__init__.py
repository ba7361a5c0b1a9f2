"""What a backend must do, as checks that anybody can run on theirs.

    python run.py conformance -f yours

or with pytest, one test a check, `backend` being a fixture that gives a `BackendProcess("yours")`
(docs/example-backend/tests/test_conformance.py is such a file):

    @pytest.mark.parametrize("check", all_checks(), ids=str)
    def test_conformance(backend, check):
        outcome = examine(check, backend)
        assert outcome.status == "passed", outcome.detail

Promises: the judge is the NumPy reference, in float64 but for mixed precision; checks draw the same numbers
every time, and a backend that refuses (`UserError`) is told apart from one that is wrong. One that does not
train passes the checks of predictions, and the table says "no" for the rest.
"""

from __future__ import annotations

import functools

from core.conformance.behaviour import behaviour_checks
from core.conformance.mixed import mixed_checks
from core.conformance.numbers import number_checks
from core.conformance.predictions import prediction_checks
from core.conformance.suite import BackendCaller, Check, CheckOutcome, capabilities, examine
from core.conformance.switches import switch_checks
from core.conformance.training import LARGE, USUAL, training_checks

__all__ = ["BackendCaller", "Check", "CheckOutcome", "all_checks", "capabilities", "examine"]


def all_checks(*, large: bool = False) -> list[Check]:
    """Every check: predictions, the numbers of training, what else is promised, and the longest last.

    They are made once in a process: the judge's answers are kept with them.

    Args:
        large: Whether those that take up to minutes each are among them.
    """
    return [*_checks(), *(_large_checks() if large else ())]


@functools.cache
def _large_checks() -> tuple[Check, ...]:
    return tuple(training_checks(LARGE))


@functools.cache
def _checks() -> tuple[Check, ...]:
    return (
        *prediction_checks(),
        *number_checks(),
        *mixed_checks(),
        *behaviour_checks(),
        *switch_checks(),
        *training_checks(USUAL),
    )
