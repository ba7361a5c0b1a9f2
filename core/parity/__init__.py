"""The comparison of backends while they train, step by step, and the certificate of the result.

Every backend trains in a process of its own from the same initial weights, on the same batches, with the same
dropout masks and step sizes. After each step the loss and every gradient, update, weight, running statistic
and moment are compared with a base. In float64 the base is one of the backends and the budget is fixed: a
larger distance means that a backend computes something else. In the other precisions the base is the
reference in float64, and the budget is the effect of rounding on it (`core.tolerance.budget`); no backend's
own rounding errors enter the budget. Checks of single parts of a backend are in `core.conformance`.
"""

from __future__ import annotations

from core.parity.certificate import Certificate, RunHistory, certify
from core.parity.measures import KINDS, Violation

__all__ = ["KINDS", "Certificate", "RunHistory", "Violation", "certify"]
