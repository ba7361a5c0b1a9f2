"""A check, its outcome, and the table of a backend's capabilities."""

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
    """Calls a backend, as `core.backend.process.BackendProcess` does."""

    def call(
        self, function: Callable[Concatenate[Implementation, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Return the result of `function(implementation, ...)`."""
        ...


@dataclass(frozen=True)
class Check:
    """A check of one thing that a backend must do.

    Args:
        subject: The subject, which is a row of the table.
        name: The particular case.
        precision: The model's precision, which is a column of the table.
        run: Performs the check; raises `Nonconformity` with the reason if it fails.
    """

    subject: str
    name: str
    precision: Precision
    run: Callable[[BackendCaller], None]

    def __str__(self) -> str:
        return f"{self.subject}: {self.name} ({self.precision})"


@dataclass(frozen=True)
class CheckOutcome:
    """The outcome of a check; `detail` says why it did not pass.

    "refused" means that the backend raised a `UserError` to say that it cannot do this.
    """

    check: Check
    status: Literal["passed", "refused", "failed"]
    detail: str = ""


def examine(check: Check, backend: BackendCaller) -> CheckOutcome:
    """Run a check; any exception except `UserError` counts as a failure."""
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
    """Return "yes", "no" (all checks refused), "partly" or "FAILS" for each subject and precision."""
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
