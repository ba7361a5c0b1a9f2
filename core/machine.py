"""This machine, as the standard library tells of it and as numerical work wants it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next array, instead of giving it back to the system.

    By default each array of 32 MiB or more is mapped anew, and every page of it zeroed at its first use,
    which may take longer than the arithmetic. Memory stays at its peak. Elsewhere than on Linux, and with
    other C libraries, nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library, which has no such function
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_MMAP_MAX, 0)
            mallopt(_TRIM_THRESHOLD, -1)
