"""What all tests share: the backends under test, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from remote import BACKENDS, Remote


@pytest.fixture(scope="session", params=BACKENDS)
def remote(request: pytest.FixtureRequest) -> Iterator[Remote]:
    """A backend, by turns each of `BACKENDS`."""
    with Remote(request.param) as process:
        yield process
