"""The certificate that a backend cannot be told from another by its numbers.

Promises: every backend trains in a process of its own from the same initial weights, on the same batches
with the same dropout masks and step sizes; after each step the loss, every gradient, update, weight,
running statistic and moment is compared with those of one of them, the base. In float64 the budget is fixed:
what exceeds it is a difference of meaning. In float32 it is measured: the drift that each backend shows from
itself when its initial weights move by one unit in the last place.
"""

from __future__ import annotations

from core.parity.certificate import Certificate, certify
from core.parity.measures import KINDS, Violation

__all__ = ["KINDS", "Certificate", "Violation", "certify"]
