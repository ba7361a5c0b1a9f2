"""The one place that imports JAX, quietly and set up for the rules of `core`."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys

# Otherwise XLA takes three quarters of a GPU's memory at the first operation.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.export  # not there otherwise

# Without it float64 becomes float32 in silence; with it Python's numbers still take their array's type.
jax.config.update("jax_enable_x64", True)
# TF32 keeps 10 bits of a float32 product: runs on the GPU would leave the other backends' trajectory.
jax.config.update("jax_default_matmul_precision", "highest")
# Where there is a GPU and a build without CUDA it warns that it takes the CPU, which was asked for.
logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)


def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next step, instead of giving it back to the system.

    XLA asks for the memory of a whole step at once. By default it is mapped anew each time, and every page
    of it zeroed at its first use, which may take longer than the arithmetic. Memory stays at its peak.
    """
    trim_threshold, mmap_max = -1, -4  # of mallopt(3)
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library, which has no such function
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(mmap_max, 0)
            mallopt(trim_threshold, -1)


_keep_freed_memory()

__all__ = ["jax"]
