"""What of two runs is compared, in which order a fault would show, and how much is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.comparison import difference, differences
from core.contract import Precision, State
from core.parity.trajectory import Step
from core.plan import Plan
from core.state import slot_name

KINDS = ("statistic", "loss", "gradient", "update", "weight", "moment")
"""In the order in which a fault of one step would show: forward, backward, update."""

FIXED_BUDGET = {kind: 1e-11 if kind == "loss" else 1e-9 for kind in KINDS}
"""In float64, where only the order of additions may differ.

Adam makes steps of rounding itself where a gradient is 0 but for rounding, as that of a bias before batch
norm whose ReLU never cuts: by 1 / epsilon. With the loss of a usual size that stays within the budget; a loss
of steep gradients (Lovasz, or BCE of weight 1000) can leave it in "update" and "weight" while "gradient"
agrees to 1e-13. A larger epsilon or SGD shows what is meant.
"""

FLOOR: Mapping[Precision, float] = {"float32": 1e-5, "mixed_bfloat16": 2.0**-9}
FACTOR = 5.0
"""But in float64 a distance may reach FLOOR, or FACTOR times the largest drift of a backend from itself.

Mixed precision's floor is one number of a small gradient rounded to its other neighbour (see
`core.conformance.mixed`), which may befall a backend before it befalls any nudged run. Its drift is far
larger than float32's: each flip makes others, and after a few steps gradients that nearly cancel have little
in common. So there the certificate shows that losses and statistics stay together, and that backends are no
farther apart than each from itself; that all round alike, the conformance suite shows.
"""

_NEGLIGIBLE = 1e-3
"""Share of the largest array's norm below which a norm does not count: see `core.comparison`."""

Distances = Mapping[str, Mapping[str, float]]
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

    step: Step
    before: State


class Ruler:
    """Measures runs of one plan."""

    def __init__(self, plan: Plan, slots: tuple[str, ...]) -> None:
        self._parameters = [parameter.name for parameter in plan.parameters]
        self._statistics = [statistic.name for statistic in plan.statistics]
        self._slots = slots
        self._owners = {
            name: operation.name
            for operation in plan.operations
            for key in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
            if (name := getattr(operation, key, None)) is not None
        }

    def measure(self, run: Snapshot, base: Snapshot) -> dict[str, dict[str, float]]:
        """Every distance of a run from the base, each kind in the order in which a fault would show."""
        backward = list(reversed(self._parameters))
        slots = [[slot_name(slot, name) for name in self._parameters] for slot in self._slots]
        moments = [differences(_of(run.step.state, names), _of(base.step.state, names)) for names in slots]
        return {
            "statistic": differences(
                _of(run.step.state, self._statistics), _of(base.step.state, self._statistics)
            ),
            "loss": {"loss": difference(run.step.loss, base.step.loss)},
            "gradient": differences(
                _of(run.step.gradients, backward), _of(base.step.gradients, backward), _NEGLIGIBLE
            ),
            "update": differences(self._updates(run), self._updates(base), _NEGLIGIBLE),
            "weight": differences(
                _of(run.step.state, self._parameters), _of(base.step.state, self._parameters), _NEGLIGIBLE
            ),
            "moment": {name: value for each in moments for name, value in each.items()},
        }

    def first_violation(
        self, run: str, step: int, distances: Distances, budget: Mapping[str, float]
    ) -> Violation | None:
        """The first distance beyond its budget, in the order in which a fault would show."""
        for kind in KINDS:
            for tensor, distance in distances[kind].items():
                if not distance <= budget[kind]:
                    owner = self._owners.get(tensor.split("/", 2)[-1] if kind == "moment" else tensor, "loss")
                    return Violation(run, step, kind, tensor, owner, distance, budget[kind])
        return None

    def _updates(self, run: Snapshot) -> State:
        return {name: run.step.state[name] - run.before[name] for name in self._parameters}


def largest(distances: Mapping[str, float]) -> tuple[str, float]:
    """The array that is farthest, and how far; ("-", 0) where there is none."""
    return max(distances.items(), key=lambda item: item[1], default=("-", 0.0))


def _of(arrays: State, names: list[str]) -> State:
    return {name: arrays[name] for name in names}
