"""How far a computation may be from the truth: one rule for single steps and for trajectories.

Promises: who computes has no part in it. The truth is the reference in float64, on the float32 numbers that
were given. What rounding does to it depends on the network and the batch, and the reference itself shows it:
it computes again, with every number that float32 would round moved by lot. These are weights, images, and
what each operation, and each gradient of one, results in (Monte Carlo arithmetic; Parker, 1997; Vignes, "A
stochastic arithmetic for reliable scientific computation", 1993). How far an array moves then is measured in
two ways, and the largest of each, now or at an earlier step, makes its budget:

    smooth      moves of a thousandth of a unit in the last place, and what they do times 1,024 for one unit;
                `SMOOTH` units are allowed, as sums of float32 may be off by some
    jumps       moves of `JUMP_UNITS` units, and `JUMP_FACTOR` times what they do

and a small share of the array's norm comes on top (`floor`).

Why so:

- Moves are relative. A number that is exactly 0 stays 0: where a radiograph is black, ReLU meets a 0 and has
  gradient 0 by rule, in float32 as in float64; moved, it would switch on every black pixel.
- Every result is moved, not only what goes in. A gradient that cancels, such as that of a bias before batch
  norm, is as exact in float64 as it ever was, however the weights move; in float32 what cancels is rounded
  first. The same holds for a mean: rounded, it is off by the same for all pixels.
- ReLU has kinks. A number that is nearly 0 may round to either side, and the gradient jumps: by the same,
  however small the move was. So no multiple of a small move covers a jump, and a multiple of a jump covers
  anything: the two are kept apart. Small moves meet no kink; those for jumps come in pairs, one the other's
  opposite, as one of the two goes to the side that rounding went to.
- From the first jump on a trajectory is one of many. The distance of two of them goes up and down, and four
  draws say how far apart they may be, but not when: so what was allowed at a step is allowed later.
- A sum is honest in any order, pairwise or in blocks. A matrix product adds some ten thousand products in one
  register, each rounded: by chance 2**-24 * sqrt(2**16) = 2**-16 for 2**16 of them, the floor. Statistics and
  losses decide about all that follows, and are few: they are to be added better, as 2**8 numbers are.
- One by one over a million pixels is not: 2**-14 and more, which is beyond the floor, and what it does to a
  variance is beyond anything that moves show (`tests/parity/test_budget.py` has both sides).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Precision, State
from core.backend.state import ArrayKind
from core.tolerance.differences import difference

ArraysByKind: TypeAlias = Mapping[ArrayKind, State]
"""Arrays by their kind and name."""

UNIT = 2.0**-23
"""A unit in the last place of a float32 number, relative, where it is largest."""

SMOOTH = 24.0
JUMP_UNITS = 2.0
JUMP_FACTOR = 3.0

_SMALL = 2.0**-10  # units
_SMOOTH_DRAWS = 2
DRAWS = _SMOOTH_DRAWS + 4

KINDS: tuple[ArrayKind, ...] = ("statistic", "loss", "gradient", "update", "weight", "moment", "prediction")
"""In the order in which a fault of one step would show: forward, backward, update."""

_DECISIVE = ("statistic", "loss")


def budget_floor(kind: ArrayKind, precision: Precision) -> float:
    """Share of an array's norm that it may be off by in any case; in float64 that is all.

    In float64 only the order of additions may differ. Adam makes steps of rounding itself where a gradient
    is 0 but for rounding, as that of a bias before batch norm whose ReLU never cuts: by 1 / epsilon. With the
    loss of a usual size that stays within the budget. A loss of steep gradients (Lovasz, or BCE of weight
    1000) can leave it in "update" and "weight" while "gradient" agrees to 1e-13. A larger epsilon or SGD
    shows what is meant.

    In mixed precision it is one number of a small gradient rounded to its other neighbour in bfloat16: see
    `core.conformance.mixed`.
    """
    if precision == "float64":
        return 1e-11 if kind == "loss" else 1e-9
    if precision == "mixed_bfloat16":
        return 2.0**-9
    return 2.0**-20 if kind in _DECISIVE else 2.0**-16


_SMALLEST = 1e-3
"""Share of the largest array's norm below which a norm counts as no smaller: see `_scales`."""


class Perturbation:
    """One draw of moves: every element up or down by lot.

    Args:
        draw: From 0 to `DRAWS`; the first are small, and of the others each odd one makes the opposite
            moves of the one before it.
    """

    def __init__(self, draw: int) -> None:
        smooth = draw < _SMOOTH_DRAWS
        self._lots = np.random.default_rng([draw if smooth else draw // 2, int(smooth)])
        units = _SMALL if smooth else JUMP_UNITS
        self._size = UNIT * units * (-1 if draw % 2 and not smooth else 1)

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        """A moved copy, of the same type; what is 0 stays 0."""
        ups = self._lots.integers(0, 2, array.shape, np.int8)
        factors = np.array([1 - self._size, 1 + self._size], array.dtype)
        moved: NDArray[Any] = array * factors[ups]
        return moved


@dataclass(frozen=True)
class Distance:
    """How far an array is from the truth, and how far it may be; both over the array's scale."""

    value: float
    budget: float

    @property
    def share(self) -> float:
        """Of the budget; beyond 1 it is left. Infinite for what is not a number."""
        if self.value <= self.budget:
            return self.value / self.budget if self.budget else 0.0
        return self.value / self.budget if self.budget and np.isfinite(self.value) else float("inf")


class Budget:
    """What is allowed at one step after another, whoever computes.

    Args:
        floor: By kind, the share of an array's scale that is allowed in any case.
    """

    def __init__(self, floor: Callable[[ArrayKind], float]) -> None:
        self._floor = floor
        self._truth: ArraysByKind = {}
        self._scales: dict[ArrayKind, dict[str, float]] = {}
        self._drifts: dict[tuple[ArrayKind, str], tuple[float, float]] = {}

    def advance(self, truth: ArraysByKind, moved: Sequence[ArraysByKind] = ()) -> None:
        """To the next step.

        Args:
            truth: The judge's arrays.
            moved: The same from each draw of moves; none in float64.
        """
        self._truth = truth
        self._scales = {kind: _scales(kind, arrays) for kind, arrays in truth.items()}
        if not moved:
            return
        for kind, arrays in truth.items():
            for name, array in arrays.items():
                drifts = [difference(draw[kind][name], array, self._scales[kind][name]) for draw in moved]
                if not np.isfinite(drifts).all():  # the truth itself is no number
                    continue
                smooth, jump = max(drifts[:_SMOOTH_DRAWS]), max(drifts[_SMOOTH_DRAWS:])
                before = self._drifts.get((kind, name), (0.0, 0.0))
                now = (SMOOTH / _SMALL * smooth, JUMP_FACTOR * jump)
                self._drifts[kind, name] = max(before[0], now[0]), max(before[1], now[1])

    def distances(self, received: ArraysByKind) -> dict[ArrayKind, dict[str, Distance]]:
        """How far each array is from the truth at this step; infinitely if a side lacks it or its shape."""
        return {kind: self._of_kind(kind, received.get(kind, {})) for kind in self._truth}

    def _of_kind(self, kind: ArrayKind, received: State) -> dict[str, Distance]:
        truth, floor, found = self._truth[kind], self._floor(kind), {}
        for name in [*truth, *(name for name in received if name not in truth)]:
            distance = float("inf")
            if name in truth and name in received:
                distance = difference(received[name], truth[name], self._scales[kind][name])
            found[name] = Distance(distance, floor + sum(self._drifts.get((kind, name), (0.0, 0.0))))
        return found


def _scales(kind: ArrayKind, truth: State) -> dict[str, float]:
    """What a distance is divided by: each array's norm.

    That of a gradient, an update or a weight counts as at least a thousandth of the largest one: of something
    that is 0 but for rounding, only the rounding differs.
    """
    norms = {name: float(np.linalg.norm(array)) for name, array in truth.items()}
    least = _SMALLEST * max(norms.values(), default=0.0) if kind in ("gradient", "update", "weight") else 0.0
    return {name: max(norm, least, 1e-300) for name, norm in norms.items()}


def largest_share(found: Mapping[str, Distance]) -> tuple[str, Distance]:
    """The array that takes the largest share of its budget; ("-", nothing of 1) where there is none."""
    return max(found.items(), key=lambda item: item[1].share, default=("-", Distance(0.0, 1.0)))
