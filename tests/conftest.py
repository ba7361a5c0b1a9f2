"""What all tests share: the backends under test, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selected import BACKENDS

from core.isolation import Isolated


@pytest.fixture(scope="session", params=BACKENDS)
def remote(request: pytest.FixtureRequest) -> Iterator[Isolated]:
    """A backend, by turns each of `BACKENDS`."""
    with Isolated(request.param) as process:
        yield process
