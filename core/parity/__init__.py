"""The certificate that a backend cannot be told from another by its numbers.

Promises: every backend trains in a process of its own from the same initial weights, on the same batches
with the same dropout masks and step sizes; after each step the loss, every gradient, update, weight,
running statistic and moment is compared with the truth's. In float64 the truth is one of the backends, the
base, and the budget is fixed: what exceeds it is a difference of meaning. In float32 the truth is the
reference in float64, and the budget is what rounding does to that (`core.tolerance.budget`): no backend's own
noise enters.
"""

from __future__ import annotations

from core.parity.certificate import Certificate, RunHistory, certify
from core.parity.measures import KINDS, Violation

__all__ = ["KINDS", "Certificate", "RunHistory", "Violation", "certify"]
