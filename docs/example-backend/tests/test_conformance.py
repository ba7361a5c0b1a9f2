"""Run the toolkit's conformance suite on this package's backend, with one test per check."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.backend.process import BackendProcess
from core.conformance import Check, all_checks, examine

# Networks from the literature need them; four kinds of block do without.
LACKED = (
    *("Activation", "Add", "Affine", "AveragePool2D", "GlobalMean"),
    *("GroupedConv2D", "MaxPool2D", "Multiply", "Upsample"),
)


@pytest.fixture(scope="module")
def backend() -> Iterator[BackendProcess]:
    """The backend with its registered name, in a process of its own."""
    with BackendProcess("autograd") as process:
        yield process


@pytest.mark.parametrize("check", all_checks(), ids=str)
def test_conformance(backend: BackendProcess, check: Check) -> None:
    outcome = examine(check, backend)
    lacked = any(f"autograd has no operation {name} at " in outcome.detail for name in LACKED)
    assert outcome.status == ("refused" if lacked else "passed"), outcome.detail
