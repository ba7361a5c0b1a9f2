"""The one place that imports JAX, quietly and set up for the rules of `core`."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

# Otherwise XLA takes three quarters of a GPU's memory at the first operation.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.export  # not there otherwise

if sys.platform == "linux":
    # XLA asks for the memory of a whole step at once, and the C library gives it back to the system at its
    # end: the page faults of the next one take more time than its arithmetic, unless large blocks are kept.
    _libc, _TRIM_THRESHOLD, _MMAP_MAX = ctypes.CDLL(None), -1, -4  # as in glibc's malloc.h
    _libc.mallopt(_MMAP_MAX, 0)
    _libc.mallopt(_TRIM_THRESHOLD, -1)

# Without it float64 becomes float32 in silence; with it Python's numbers still take their array's type.
jax.config.update("jax_enable_x64", True)
# TF32 keeps 10 bits of a float32 product: runs on the GPU would leave the other backends' trajectory.
jax.config.update("jax_default_matmul_precision", "highest")
# Where there is a GPU and a build without CUDA it warns that it takes the CPU, which was asked for.
logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)

__all__ = ["jax"]
