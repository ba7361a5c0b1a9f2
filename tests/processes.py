"""How tests start other processes, and what they ask of them, as Linux tells of them."""

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
    """Processes started in this block can be interrupted, even where these tests themselves cannot.

    A background job of a shell without job control ignores SIGINT, what `nohup` starts ignores SIGHUP, and
    so does every process that they start: only what is ignored survives `exec`, and Python then installs no
    handler of its own. A signal with a handler gets its default action in the new process, so a handler is
    all that is needed.
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
    assert process.returncode in (0, 3, -signal.SIGKILL), errors  # the bereaved may complain, and then go
