"""What all tests share: the backends under test, each in a process of its own, and real radiographs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from selected import BACKENDS

from core.backend.process import BackendProcess

# Threads of OpenMP that have nothing to do sleep, in this process and those that it starts: several
# frameworks share few cores here, and threads that spin take them from each other (MXNet: twice the time).
# How many there are, and so every sum, stays as it is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# XLA does not optimise its machine code, for hundreds of networks that run once: a third of the time. Its own
# passes, which decide what is added to what, stay; `run.py conformance -f jax` has all of it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Hundreds of processes import the toolkit: what the first compiles, the next ones find compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session", params=BACKENDS)
def remote(request: pytest.FixtureRequest) -> Iterator[BackendProcess]:
    """A backend, by turns each of `BACKENDS`."""
    with BackendProcess(request.param) as process:
        yield process


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files; without it the test is skipped, and says so."""
    folder = os.environ.get("PNEUMOSEG_REAL_DATA")
    if not folder:
        pytest.skip("PNEUMOSEG_REAL_DATA is not set: the real radiographs are not redistributed")
    path = Path(folder)
    assert path.is_dir(), f"PNEUMOSEG_REAL_DATA={folder} is not a folder"
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what caught each error that was put into the toolkit on purpose, and which facts are old."""
    for key, title in (
        ("mutant", "{} errors put in on purpose, and what caught them"),
        ("old fact", "{} tables of speed and distance are older than what they describe"),
    ):
        passed = terminalreporter.stats.get("passed", [])
        lines = [text for report in passed for name, text in report.user_properties if name == key]
        if lines:
            terminalreporter.section(title.format(len(lines)))
            for line in sorted(lines):
                terminalreporter.write_line(line if len(line) <= 160 else f"{line[:159]}…")
