"""Compare the arrays of two runs at one step, and find the first one that exceeds its budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from core.backend.contract import Precision, State
from core.backend.state import ArrayKind, by_kind
from core.backend.trained_part import TrainedPart
from core.network.plan import Plan
from core.parity.trajectory import StepResult
from core.tolerance.budget import KINDS as ALL_KINDS
from core.tolerance.budget import LONG_RUN_JUMP_FACTOR, Budget, Distance, budget_floor

KINDS: tuple[ArrayKind, ...] = tuple(kind for kind in ALL_KINDS if kind != "prediction")
"""The compared kinds, in the order in which an error within one step shows: forward, backward, update."""

Distances = Mapping[ArrayKind, Mapping[str, Distance]]
"""Distances by kind, then by the name of the array."""


@dataclass(frozen=True)
class Violation:
    """The first array of a run that exceeded its budget.

    Args:
        run: Name of the run.
        step: Number of the step, from 1.
        kind: One of `KINDS`.
        tensor: Name of the array, or "loss".
        operation: The operation of the plan that the array belongs to.
        distance: Its distance from the base.
        budget: The allowed distance.
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
    """The results of one step of a run, and the parameters before that step."""

    step: StepResult
    before: State


class RunComparer:
    """Compares runs of one plan with the reference, step by step."""

    def __init__(self, plan: Plan, trained: TrainedPart, precision: Precision) -> None:
        self._budget = Budget(partial(budget_floor, precision=precision), LONG_RUN_JUMP_FACTOR)
        self._parameters = [parameter.name for parameter in plan.parameters]
        self._trained = [parameter.name for parameter in trained.parameters]
        self._owners = {
            name: operation.name
            for operation in plan.operations
            for key in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
            if (name := getattr(operation, key, None)) is not None
        }

    def advance(self, reference: Snapshot, perturbed: Iterable[Snapshot]) -> None:
        """Set the next step's reference and its perturbed copies (`core.tolerance.budget`)."""
        self._budget.advance(self._by_kind(reference), map(self._by_kind, perturbed))

    def measure(self, run: Snapshot) -> Distances:
        """Return all distances of a run from the reference, sorted as an error within one step shows."""
        return self._budget.distances(self._by_kind(run))

    def first_violation(self, run: str, step: int, found: Distances) -> Violation | None:
        """Return the first array beyond its budget, in the order in which an error shows; None if none is."""
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
            "gradient": {name: run.step.gradients[name] for name in reversed(self._trained)},
            "update": {name: after[name] - run.before[name] for name in self._parameters},
        }
