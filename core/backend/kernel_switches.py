"""Sizes at which a backend changes between two ways of computing the same result.

A backend declares each such size as a `Switch` and decides with it. The conformance suite then makes cases
below, at and above each size, and verifies that the backend did decide there. People train on both sides of
these sizes, and an error on one side only is easily overlooked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, TypeAlias

Quantity: TypeAlias = Literal[
    "pixels of a batch norm",
    "pixels of an image",
    "channels",
    "columns of a kernel",
    "filters of phases",
    "length of a side",
    "floats of unfolded windows",
    "squared mean over variance",
]
"""The quantity that a size counts; `core.conformance.switches` has the cases for each.

pixels of a batch norm      N * H * W, the number of elements behind each channel's statistics
pixels of an image          H * W of a batch norm's input
channels                    input or output channels of a convolution or transposed convolution
columns of a kernel         taps across of a convolution of each channel alone
filters of phases           stride**2 * output channels of a transposed convolution
length of a side            rows or columns of an image
floats of unfolded windows  size of one image's im2col matrix: windows * taps * channels
squared mean over variance  E[x**2] / Var[x] of a batch norm's input
"""

_recorded: ContextVar[dict[str, set[int]] | None] = ContextVar("recorded", default=None)


@dataclass(frozen=True)
class Switch:
    """A size at which a backend changes its way of computing.

    Args:
        name: What changes there, for people; unique in a backend.
        quantity: What the size counts.
        bound: The size.
        by_data: Whether the framework decides from computed arrays, so that the values cannot be recorded.
    """

    name: str
    quantity: Quantity
    bound: int
    by_data: bool = False

    def reached(self, value: int) -> bool:
        """Return whether `value` is at least the bound."""
        self._record(value)
        return value >= self.bound

    def padding_needed(self, value: int) -> int:
        """Return how much must be added to `value` to make it a multiple of the bound."""
        self._record(value)
        return -value % self.bound

    def part_count(self, value: int) -> int:
        """Return the number of parts of about the bound that `value` is divided into; at least 1."""
        self._record(value)
        return max(-(-value // self.bound), 1)

    def largest_divisor(self, value: int) -> int:
        """Return the largest divisor of `value` that is at most the bound."""
        self._record(value)
        return max(number for number in range(1, self.bound + 1) if value % number == 0)

    def _record(self, value: int) -> None:
        recorded = _recorded.get()
        if recorded is not None:
            recorded.setdefault(self.name, set()).add(value)


@contextmanager
def record_switch_values() -> Iterator[dict[str, set[int]]]:
    """Record the values that switches are asked about inside the `with` block, by the switch's name."""
    recorded: dict[str, set[int]] = {}
    token = _recorded.set(recorded)
    try:
        yield recorded
    finally:
        _recorded.reset(token)
