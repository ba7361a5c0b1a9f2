"""Numbers at which a backend changes between two ways of computing the same.

Promises: a backend declares each such number as a `Switch` and decides by it; so the conformance suite can
ask for all of them, make cases below, at and beyond each, and see that the backend did decide there. What
people train lies on both sides of such numbers, and an error on one side only is the kind that goes unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, TypeAlias

Quantity: TypeAlias = Literal[
    "pixels of a batch norm",
    "channels",
    "filters of phases",
    "length of a side",
    "floats of unfolded windows",
    "squared mean over variance",
]
"""What a number may count; `core.conformance.switches` has the cases of each.

pixels of a batch norm      N * H * W, which each channel's statistics are taken of
channels                    of the input or the result of a convolution or a transposed one
filters of phases           stride**2 * channels of the result of a transposed convolution
length of a side            rows or columns of an image
floats of unfolded windows  of one image under a convolution: windows * taps * channels
squared mean over variance  of the numbers that a batch norm sees: the mean of their squares over the variance
"""

_met: ContextVar[dict[str, set[int]] | None] = ContextVar("met", default=None)


@dataclass(frozen=True)
class Switch:
    """One of them.

    Args:
        name: What changes there, for people; unique in a backend.
        quantity: What the number counts.
        bound: The number.
        by_data: Whether arrays decide when they are computed, so that nobody can note what was met.
    """

    name: str
    quantity: Quantity
    bound: int
    by_data: bool = False

    def reached(self, value: int) -> bool:
        """Whether a value is not below the bound."""
        self._note(value)
        return value >= self.bound

    def missing(self, value: int) -> int:
        """What a value lacks to a multiple of the bound."""
        self._note(value)
        return -value % self.bound

    def parts(self, value: int) -> int:
        """In how many parts of about the bound a value can be cut; at least 1."""
        self._note(value)
        return max(-(-value // self.bound), 1)

    def divisor(self, value: int) -> int:
        """The largest divisor of a value that is not beyond the bound."""
        self._note(value)
        return max(number for number in range(1, self.bound + 1) if value % number == 0)

    def _note(self, value: int) -> None:
        met = _met.get()
        if met is not None:
            met.setdefault(self.name, set()).add(value)


@contextmanager
def switches_taken() -> Iterator[dict[str, set[int]]]:
    """The values that switches meet meanwhile, by the switch's name."""
    met: dict[str, set[int]] = {}
    token = _met.set(met)
    try:
        yield met
    finally:
        _met.reset(token)
