"""What tests ask of other processes, as Linux tells of them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_ended(pids: list[int], seconds: float = 30.0) -> None:
    """Wait until all of them have ended.

    Raises:
        AssertionError: One still runs after so many seconds.
    """
    if sys.platform != "linux":
        pytest.skip("whether a process has ended is not known here: /proc is Linux's")
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def members(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def wait_for_group(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process that leads a group, in peace or killed, and of all that it started.

    Raises:
        AssertionError: One of them still runs after 20 seconds, or the process ended in another way.
    """
    _, errors = process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not members(process.pid), "orphans"
    assert process.returncode in (0, -signal.SIGKILL), errors  # the bereaved may complain, and then go
