"""What tests ask of other processes, as Linux tells of them."""

from __future__ import annotations

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
