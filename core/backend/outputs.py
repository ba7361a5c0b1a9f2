"""What a network computes: a mask for each image and, with the existence head, one number for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from core.network.plan import Plan


class Outputs(NamedTuple):
    """Logits, or probabilities, of the two heads, as arrays of any framework.

    Attributes:
        masks: (N, H, W, 1), or (N, 1, H, W) in a framework of this layout.
        existence: (N, 1, 1, 1); None without the existence head.
    """

    masks: Any
    existence: Any | None

    @classmethod
    def of(cls, plan: Plan, values: Mapping[str, Any]) -> Outputs:
        """Return the logits among the values of a plan's tensors."""
        name = plan.existence_logit
        return cls(values[plan.logits], None if name is None else values[name])

    def mapped(self, function: Callable[[Any], Any]) -> Outputs:
        """Return a function's result for each head that there is."""
        return Outputs(*(x if x is None else function(x) for x in self))
