"""Helpers of tests that start processes and wait for their end, by /proc on Linux."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let processes started in this block be interrupted, even if the tests themselves cannot be.

    A background job of a shell without job control ignores SIGINT, and a program started by `nohup` ignores
    SIGHUP. Their child processes inherit this, and Python then installs no handler. A signal that has a
    handler gets its default action in the new process, so setting a handler here is enough.
    """
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]  # Windows: no SIGHUP
    ignored = [number for number in numbers if number and signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_ended(pids: list[int], seconds: float = 30.0) -> None:
    """Wait until all processes have ended.

    Raises:
        AssertionError: One still runs after `seconds`.
    """
    if sys.platform != "linux":
        pytest.skip("whether a process has ended is not known here: /proc is Linux's")
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def members(group: int) -> list[int]:
    """Return the processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def wait_for_group(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process that leads a group, and of all processes that it started.

    Raises:
        AssertionError: One of them still runs after 20 seconds, or the process neither succeeded nor was
            killed.
    """
    _, errors = process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not members(process.pid), "orphans"
    assert process.returncode in (0, 3, -signal.SIGKILL), (
        errors
    )  # children of a killed process may print errors before they end
