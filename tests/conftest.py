"""Backends under test, each in a process of its own.

The frameworks are chosen by the environment variable PNEUMOSEG_BACKENDS (default: all that the
toolkit ships). One that is named and cannot be used fails its tests; it never turns into a skip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from remote import Remote

BACKENDS = [name for name in os.environ.get("PNEUMOSEG_BACKENDS", "tf,mxnet").split(",") if name]


@pytest.fixture(scope="session", params=BACKENDS)
def remote(request: pytest.FixtureRequest) -> Iterator[Remote]:
    """A backend, by turns each of `BACKENDS`."""
    with Remote(request.param) as process:
        yield process
