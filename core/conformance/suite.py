"""A check, what came of it, and the table of what a backend can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeVar

from core.backend.contract import Implementation, Precision
from core.base.errors import UserError
from core.conformance.cases import Nonconformity

P = ParamSpec("P")
R = TypeVar("R")


class BackendCaller(Protocol):
    """What can call a backend: a `core.backend.process.BackendProcess`, or anything with the same method."""

    def call(
        self, function: Callable[Concatenate[Implementation, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """The result of `function(implementation, ...)`."""
        ...


@dataclass(frozen=True)
class Check:
    """One thing that a backend must do.

    Args:
        subject: What it is about; a row of the table.
        name: The case in particular.
        precision: Of the model; a column of the table.
        run: Does nothing, or raises `Nonconformity` with the reason.
    """

    subject: str
    name: str
    precision: Precision
    run: Callable[[BackendCaller], None]

    def __str__(self) -> str:
        return f"{self.subject}: {self.name} ({self.precision})"


@dataclass(frozen=True)
class CheckOutcome:
    """What came of a check; `detail` says why it did not pass.

    "refused" is an honest no: the backend said by a `UserError` that it cannot.
    """

    check: Check
    status: Literal["passed", "refused", "failed"]
    detail: str = ""


def examine(check: Check, backend: BackendCaller) -> CheckOutcome:
    """Run a check; whatever the backend raises is its failure."""
    try:
        check.run(backend)
    except UserError as refusal:
        return CheckOutcome(check, "refused", str(refusal))
    except Nonconformity as reason:
        return CheckOutcome(check, "failed", str(reason))
    except Exception as error:
        return CheckOutcome(check, "failed", f"{type(error).__name__}: {error}")
    return CheckOutcome(check, "passed")


def capabilities(outcomes: Iterable[CheckOutcome]) -> dict[str, dict[str, str]]:
    """For each subject and precision "yes", "no" (every check refused), "partly" or "FAILS", in order."""
    found: dict[str, dict[str, set[str]]] = {}
    for outcome in outcomes:
        check = outcome.check
        found.setdefault(check.subject, {}).setdefault(check.precision, set()).add(outcome.status)
    return {
        subject: {precision: _verdict(statuses) for precision, statuses in row.items()}
        for subject, row in found.items()
    }


def _verdict(statuses: set[str]) -> str:
    if "failed" in statuses:
        return "FAILS"
    return {frozenset({"passed"}): "yes", frozenset({"refused"}): "no"}.get(frozenset(statuses), "partly")
