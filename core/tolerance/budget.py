"""The error budget: how far an array may be from the reference, for single steps and for whole runs.

The budget does not depend on the backend. The reference result is computed in float64 from the given float32
numbers. The effect of rounding on it depends on the network and the batch, and the reference measures that
effect itself: it computes again, with random relative perturbations of every number that float32 would round.
These are weights, images, and the result of every operation and of every gradient of one (Monte Carlo
arithmetic; Parker, 1997; Vignes, "A stochastic arithmetic for reliable scientific computation", 1993). The
distance of an array from its unperturbed value is measured in two ways. The largest of each, at this step or
an earlier one, gives the array's budget:

    smooth      perturbations of 2**-10 units in the last place, and their effect times 1,024 for one unit;
                `SMOOTH` units are allowed, because sums in float32 may be off by several
    jumps       perturbations of `jump_units` units, and their effect times `JUMP_FACTOR`, or
                `LONG_RUN_JUMP_FACTOR` in a long run

A small share of the array's norm is added (`budget_floor`).

Reasons:

- Perturbations are relative, so 0 stays 0. Where a radiograph is black, the input of ReLU is 0 and its
  gradient is 0 by definition, in float32 as in float64. An absolute perturbation would switch on every black
  pixel.
- Every result is perturbed, not only weights and images. A gradient that cancels, such as that of a bias
  before batch norm, stays exact in float64 whatever the weights are; in float32 its terms are rounded before
  they cancel. The same holds for a mean: its rounding error is the same for all pixels.
- ReLU has a kink. A number that is nearly 0 may be rounded to either side, and the gradient then jumps by an
  amount that does not depend on the size of the perturbation. No multiple of a small perturbation covers a
  jump, and a multiple of a jump covers everything, so the two are measured separately. Small perturbations
  cross no kink. Those for jumps come in pairs of opposite signs, so that one of the two goes to the side that
  rounding went to.
- After the first jump, a run is one of many possible ones. The distance between two of them rises and falls.
  The draws show how large it may become, but not when; so what was allowed at a step is allowed later.
- For a few steps four draws of jumps are enough, because rounding itself is smaller than their perturbations.
  In a long run all distances grow until they are alike, and that margin is lost. So a certificate takes
  `LONG_RUN_DRAWS` and `LONG_RUN_JUMP_FACTOR`. Both were chosen by how often yet another draw leaves the
  budget (benchmarks/budget_draws.py), on nine radiographs of 384x384. Over 82 steps of the network `demo` it
  left that of four draws, times 3, in 22 of 100 cases, and that of eight draws in none. Over 12 steps of the
  default network it left that of eight draws, times 3, in 11 of 100 cases, and times 6 in one: one draw of 24
  took the other side of a kink, as two backends of four did.
- Any order of a sum is allowed, pairwise or in blocks. A matrix product adds some ten thousand products in
  one register, and each sum is rounded: for 2**16 products the error is about 2**-24 * sqrt(2**16) = 2**-16,
  which is the floor. Statistics and losses affect all that follows, and there are few of them. They must be
  as accurate as sums of 2**8 numbers.
- A sum of a million pixels, one by one, is not allowed: its error is 2**-14 and more, above the floor. Its
  effect on a variance exceeds that of every perturbation (`tests/parity/test_budget.py` tests both sides).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Precision, State
from core.backend.state import ArrayKind, slot_of
from core.tolerance.differences import difference

ArraysByKind: TypeAlias = Mapping[ArrayKind, State]
"""Arrays by kind, then by name."""

UNIT = 2.0**-23
"""The largest relative size of a unit in the last place of a float32 number."""

SMOOTH = 24.0
JUMP_UNITS = 2.0
JUMP_FACTOR, LONG_RUN_JUMP_FACTOR = 3.0, 6.0

_SMALL = 2.0**-10  # units
SMOOTH_DRAWS = 2
"""Number of perturbed copies with small perturbations; they are the first."""

DRAWS, LONG_RUN_DRAWS = SMOOTH_DRAWS + 4, SMOOTH_DRAWS + 8
"""Number of perturbed copies for a few steps, and for a long run."""

KINDS: tuple[ArrayKind, ...] = ("statistic", "loss", "gradient", "update", "weight", "moment", "prediction")
"""All kinds, in the order in which an error within one step shows: forward, backward, update."""

_DECISIVE = ("statistic", "loss")


def budget_floor(kind: ArrayKind, precision: Precision) -> float:
    """Return the share of an array's norm that is allowed in any case; in float64 it is the whole budget.

    In float64 only the order of additions may differ. If a gradient is 0 except for rounding, Adam divides
    that rounding error by its epsilon (for example, the gradient of a bias before batch norm if its ReLU is
    always positive). The resulting steps are within the budget for losses of usual size. A loss with steep
    gradients (Lovasz, or BCE of weight 1000) can exceed the budget in "update" and "weight" while "gradient"
    agrees to 1e-13. With a larger epsilon, or with SGD, it does not.

    In mixed precision the share allows for one element of a small gradient that is rounded to the other
    neighbouring number of 16 bits (see `core.conformance.mixed`), which is eight times nearer in float16 and
    in TF32.
    """
    if precision == "float64":
        return 1e-11 if kind == "loss" else 1e-9
    if precision == "mixed_bfloat16":
        return 2.0**-9
    if precision in ("mixed_float16", "tf32"):
        return 2.0**-12
    return 2.0**-20 if kind in _DECISIVE else 2.0**-16


def jump_units(precision: Precision) -> float:
    """Return the size of the perturbations for jumps, in units of float32.

    In float16 one number in some thousand is rounded to its other neighbour, in a right backend too. Batch
    norm spreads this to all numbers of the layers that follow, where then many are rounded to the other
    neighbour, by up to 2**-10. Small perturbations seldom show it. So those for float16 are 2**-13, which
    changes the rounding of every fourth to eighth number.
    """
    return 1024.0 if precision == "mixed_float16" else JUMP_UNITS


_SMALLEST = 1e-3
"""The least norm that counts, as a share of a larger one (see `_scales`)."""


class Perturbation:
    """A random perturbation that scales every element up or down by the same relative amount.

    Args:
        draw: Number of the draw, from 0. The first two are small. Of the others, each odd one has
            the opposite signs of the one before it.
        jump_units: The size of the others.
    """

    def __init__(self, draw: int, jump_units: float = JUMP_UNITS) -> None:
        smooth = draw < SMOOTH_DRAWS
        self._signs = np.random.default_rng([draw if smooth else draw // 2, int(smooth)])
        units = _SMALL if smooth else jump_units
        self._size = UNIT * units * (-1 if draw % 2 and not smooth else 1)

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a perturbed copy of the same type; 0 stays 0."""
        ups = self._signs.integers(0, 2, array.shape, np.int8)
        factors = np.array([1 - self._size, 1 + self._size], array.dtype)
        perturbed: NDArray[Any] = array * factors[ups]
        return perturbed


@dataclass(frozen=True)
class Distance:
    """The distance of an array from the reference and its budget, both relative to the array's scale."""

    value: float
    budget: float

    @property
    def share(self) -> float:
        """The distance over the budget; above 1 it is exceeded. It is infinite if the distance is NaN."""
        if self.value <= self.budget:
            return self.value / self.budget if self.budget else 0.0
        return self.value / self.budget if self.budget and np.isfinite(self.value) else float("inf")


class Budget:
    """The budgets of all arrays, step by step; they are the same for all backends.

    Args:
        floor: Returns, for a kind, the share of an array's scale that is allowed in any case.
        jump_factor: The multiple of the effect of jumps that is allowed.
    """

    def __init__(self, floor: Callable[[ArrayKind], float], jump_factor: float = JUMP_FACTOR) -> None:
        self._floor, self._jump_factor = floor, jump_factor
        self._reference: ArraysByKind = {}
        self._scales: dict[ArrayKind, dict[str, float]] = {}
        self._drifts: dict[tuple[ArrayKind, str], tuple[float, float]] = {}

    def advance(self, reference: ArraysByKind, perturbed: Iterable[ArraysByKind] = ()) -> None:
        """Set the arrays of the next step, of all kinds or of those whose distances are asked for next.

        Args:
            reference: The reference's arrays.
            perturbed: The same arrays for each draw of perturbations; none in float64. They are taken one
                after the other, so that an iterator need not keep all of them.
        """
        self._reference = reference
        self._scales = {kind: _scales(kind, arrays) for kind, arrays in reference.items()}
        drifts: dict[tuple[ArrayKind, str], list[float]] = {}
        for draw in perturbed:
            for kind, arrays in reference.items():
                for name, array in arrays.items():
                    drift = difference(draw[kind][name], array, self._scales[kind][name])
                    drifts.setdefault((kind, name), []).append(drift)
        for key, of_draws in drifts.items():
            if not np.isfinite(of_draws).all():  # the reference itself has NaN or infinity
                continue
            smooth, jump = max(of_draws[:SMOOTH_DRAWS]), max(of_draws[SMOOTH_DRAWS:])
            before = self._drifts.get(key, (0.0, 0.0))
            now = (SMOOTH / _SMALL * smooth, self._jump_factor * jump)
            self._drifts[key] = max(before[0], now[0]), max(before[1], now[1])

    def distances(self, received: ArraysByKind) -> dict[ArrayKind, dict[str, Distance]]:
        """Return each array's distance at this step; infinite if a side lacks the array or shapes differ."""
        return {kind: self._of_kind(kind, received.get(kind, {})) for kind in self._reference}

    def _of_kind(self, kind: ArrayKind, received: State) -> dict[str, Distance]:
        reference, floor, found = self._reference[kind], self._floor(kind), {}
        for name in [*reference, *(name for name in received if name not in reference)]:
            distance = float("inf")
            if name in reference and name in received:
                distance = difference(received[name], reference[name], self._scales[kind][name])
            found[name] = Distance(distance, floor + sum(self._drifts.get((kind, name), (0.0, 0.0))))
        return found


def _scales(kind: ArrayKind, reference: State) -> dict[str, float]:
    """Return the norm of each array, which distances are divided by.

    An array that is 0 except for rounding would have a large relative distance, so each norm is at least a
    thousandth of a larger one:

    - for gradients, updates and weights: of the largest array's;
    - for moments: of the largest in the same slot. Adam's `v` are squares, so it is a millionth there;
    - for a running mean: of the standard deviations that stand beside it. A mean is 0 for any weights where
      batch norm, without an activation, comes before a convolution and another batch norm.
    """
    norms = {name: float(np.linalg.norm(array)) for name, array in reference.items()}
    return {name: max(norm, _least(kind, name, reference, norms), 1e-300) for name, norm in norms.items()}


def _least(kind: ArrayKind, name: str, reference: State, norms: Mapping[str, float]) -> float:
    if kind in ("gradient", "update", "weight"):
        return _SMALLEST * max(norms.values())
    if kind == "moment":
        slot = slot_of(name)
        largest = max(norm for other, norm in norms.items() if slot_of(other) == slot)
        return float(_SMALLEST ** (2 if slot == "v" else 1) * largest)
    variance = reference.get(name.removesuffix("moving_mean") + "moving_variance")
    if kind == "statistic" and name.endswith("/moving_mean") and variance is not None:
        return float(_SMALLEST * np.sqrt(np.sum(np.abs(variance))))
    return 0.0


def largest_share(found: Mapping[str, Distance]) -> tuple[str, Distance]:
    """Return name and distance of the array with the largest share of its budget; ("-", 0 of 1) for none."""
    return max(found.items(), key=lambda item: item[1].share, default=("-", Distance(0.0, 1.0)))
