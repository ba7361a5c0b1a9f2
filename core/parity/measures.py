"""Compare the arrays of two runs at one step, and find the first one that exceeds its budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from core.backend.contract import Precision, State
from core.backend.state import ArrayKind
from core.network.plan import Plan
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


class RunComparer:
    """Compares runs of one plan with the reference, step by step."""

    def __init__(self, plan: Plan, precision: Precision) -> None:
        self._budget = Budget(partial(budget_floor, precision=precision), LONG_RUN_JUMP_FACTOR)
        self._owners = {
            name: operation.name
            for operation in plan.operations
            for key in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
            if (name := getattr(operation, key, None)) is not None
        }

    def advance(self, kind: ArrayKind, reference: State, perturbed: Iterable[State]) -> None:
        """Set the next step's arrays of one kind: the reference's and its perturbed copies'.

        The kinds of a step come one after another, so that the arrays of one kind alone are in memory.
        """
        self._budget.advance({kind: reference}, ({kind: arrays} for arrays in perturbed))

    def measure(self, kind: ArrayKind, run: State) -> Mapping[str, Distance]:
        """Return the distances of a run's arrays from the reference's of the same kind."""
        return self._budget.distances({kind: run})[kind]

    def first_violation(self, run: str, step: int, found: Distances) -> Violation | None:
        """Return the first array beyond its budget, in the order in which an error shows; None if none is."""
        for kind in KINDS:
            for tensor, distance in found[kind].items():
                if not distance.share <= 1:
                    owner = self._owners.get(tensor.split("/", 2)[-1] if kind == "moment" else tensor, "loss")
                    return Violation(run, step, kind, tensor, owner, distance.value, distance.budget)
        return None
