"""The conformance suite: checks of everything that a backend must do.

The command runs them on any backend:

    python run.py conformance -f yours

With pytest there is one test per check. `backend` is a fixture that yields a `BackendProcess("yours")`
(docs/example-backend/tests/test_conformance.py is such a file):

    @pytest.mark.parametrize("check", all_checks(), ids=str)
    def test_conformance(backend, check):
        outcome = examine(check, backend)
        assert outcome.status == "passed", outcome.detail

Results are compared with the NumPy reference, in float64 except for mixed precision. The checks use the same
numbers every time. A backend that refuses (`UserError`) is distinguished from one that is wrong. A backend
that does not train passes the checks of predictions, and the table says "no" for the rest. The comparison of
several backends while they train is in `core.parity`.
"""

from __future__ import annotations

import functools

from core.conformance.behaviour import behaviour_checks
from core.conformance.existence import existence_checks
from core.conformance.layers import layer_checks
from core.conformance.mixed import mixed_checks
from core.conformance.numbers import number_checks
from core.conformance.partial_training import partial_training_checks
from core.conformance.predictions import prediction_checks
from core.conformance.shards import shard_checks
from core.conformance.suite import BackendCaller, Check, CheckOutcome, capabilities, examine
from core.conformance.switches import switch_checks
from core.conformance.training import LARGE, USUAL, training_checks

__all__ = ["BackendCaller", "Check", "CheckOutcome", "all_checks", "capabilities", "examine"]


def all_checks(*, large: bool = False) -> list[Check]:
    """Return all checks, the longest last.

    They are created once in a process, because the reference's results are cached with them.

    Args:
        large: Whether to include the checks on the largest images, which are slow.
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
        *layer_checks(),
        *existence_checks(),
        *partial_training_checks(),
        *mixed_checks(),
        *behaviour_checks(),
        *shard_checks(),
        *switch_checks(),
        *training_checks(USUAL),
    )
