"""What of two runs is compared, in which order a fault would show, and what is first beyond its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from core.backend.contract import Precision, State
from core.backend.state import ArrayKind, by_kind
from core.network.plan import Plan
from core.parity.trajectory import StepResult
from core.tolerance.budget import KINDS as ALL_KINDS
from core.tolerance.budget import Budget, Distance, budget_floor

KINDS: tuple[ArrayKind, ...] = tuple(kind for kind in ALL_KINDS if kind != "prediction")
"""In the order in which a fault of one step would show: forward, backward, update."""

Distances = Mapping[ArrayKind, Mapping[str, Distance]]
"""By kind, then by the name of the array."""


@dataclass(frozen=True)
class Violation:
    """The first thing that went beyond its budget.

    Args:
        run: Whose.
        step: From 1.
        kind: One of `KINDS`.
        tensor: The array, or "loss".
        operation: The operation of the plan that the array belongs to.
        distance: How far it is from the base's.
        budget: How far it may be.
    """

    run: str
    step: int
    kind: str
    tensor: str
    operation: str
    distance: float
    budget: float

    def __str__(self) -> str:
        return (
            f"{self.run} leaves the budget at step {self.step}: {self.kind} of {self.tensor} "
            f"(operation {self.operation}) is {self.distance:.1e} away, allowed {self.budget:.1e}"
        )


@dataclass(frozen=True)
class Snapshot:
    """One run at one step: its results and the arrays it started from."""

    step: StepResult
    before: State


class RunComparer:
    """Measures runs of one plan."""

    def __init__(self, plan: Plan, precision: Precision) -> None:
        self._budget = Budget(partial(budget_floor, precision=precision))
        self._parameters = [parameter.name for parameter in plan.parameters]
        self._owners = {
            name: operation.name
            for operation in plan.operations
            for key in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
            if (name := getattr(operation, key, None)) is not None
        }

    def advance(self, truth: Snapshot, moved: Sequence[Snapshot]) -> None:
        """To the next step: the truth there, and what moves make of it (`core.tolerance.budget`)."""
        self._budget.advance(self._by_kind(truth), list(map(self._by_kind, moved)))

    def measure(self, run: Snapshot) -> Distances:
        """Every distance of a run from the truth, each kind in the order in which a fault would show."""
        return self._budget.distances(self._by_kind(run))

    def first_violation(self, run: str, step: int, found: Distances) -> Violation | None:
        """The first distance beyond its budget, in the order in which a fault would show."""
        for kind in KINDS:
            for tensor, distance in found[kind].items():
                if not distance.share <= 1:
                    owner = self._owners.get(tensor.split("/", 2)[-1] if kind == "moment" else tensor, "loss")
                    return Violation(run, step, kind, tensor, owner, distance.value, distance.budget)
        return None

    def _by_kind(self, run: Snapshot) -> dict[ArrayKind, State]:
        after = run.step.state
        return {
            **by_kind(after),
            "loss": {"loss": np.array(run.step.loss)},
            "gradient": {name: run.step.gradients[name] for name in reversed(self._parameters)},
            "update": {name: after[name] - run.before[name] for name in self._parameters},
        }
