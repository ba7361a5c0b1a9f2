"""Fixtures and settings of all tests: backends, each in its own process, real radiographs, slow tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
import turns
from selected import BACKENDS

from core.backend.process import BackendProcess

# Idle OpenMP threads sleep, in this process and its children. Several frameworks share few cores here, and
# spinning threads slow the others down (MXNet most). Their number, and so every sum, is unchanged.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# XLA does not optimise its machine code, since hundreds of networks are compiled and run once. Its own
# passes, which decide the order of sums, stay on; `run.py conformance -f jax` has all optimisations.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Hundreds of processes import the toolkit, so compiled modules are kept.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
turns.fix_day()


@pytest.fixture(scope="session", params=BACKENDS)
def remote(request: pytest.FixtureRequest) -> Iterator[BackendProcess]:
    """A process for each backend of `BACKENDS` in turn."""
    with BackendProcess(request.param) as process:
        yield process


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real radiographs; without it the test is skipped with a message."""
    folder = os.environ.get("PNEUMOSEG_REAL_DATA")
    if not folder:
        pytest.skip("PNEUMOSEG_REAL_DATA is not set: the real radiographs are not redistributed")
    path = Path(folder)
    assert path.is_dir(), f"PNEUMOSEG_REAL_DATA={folder} is not a folder"
    return path


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a parameter of bytes by its place: the content may differ from one process of the run to another.

    (A compressed file holds the second in which it was written, and xdist wants the same names everywhere.)
    """
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the slow tests that do not have their turn, if the run asks for it (`turns`).

    A test's place is a hash of its name, so its day does not depend on which other tests there are.
    """
    if turns.asked() != "turns":
        return
    kept, left = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        marker = item.get_closest_marker("turns")
        runs = marker is None or turns.has_turn(crc32(item.nodeid.encode()), *marker.args)
        (kept if runs else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show which test caught each deliberate error (mutant), and which facts are old."""
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
