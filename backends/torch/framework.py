"""The one place that imports PyTorch, set up for the rules of `core`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

import torch

# The same bits every time; an operator that cannot raises, as products on a GPU do without the variable.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch.use_deterministic_algorithms(True)
# Or else every new array is filled with NaN first, so that reading it would be deterministic too.
torch.utils.deterministic.fill_uninitialized_memory = False
# TF32, on by default in cuDNN, keeps 10 bits of a float32 product: runs on the GPU would leave the other
# backends' trajectory.
torch.backends.fp32_precision = "ieee"


def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next array, instead of giving it back to the system.

    By default each array of 32 MiB or more is mapped anew, and every page of it zeroed at its first use:
    the default network trains at 9 instead of 15 images/s on two cores. Memory stays at its peak.
    """
    trim_threshold, mmap_max = -1, -4  # of mallopt(3)
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library, which has no such function
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(mmap_max, 0)
            mallopt(trim_threshold, -1)


_keep_freed_memory()

__all__ = ["torch"]
