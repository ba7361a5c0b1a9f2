"""The one place that imports JAX, quietly and set up for the rules of `core`."""

from __future__ import annotations

import logging
import os

# Otherwise XLA takes three quarters of a GPU's memory at the first operation.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.export  # not there otherwise

from core.base.system import keep_freed_memory

# Without it float64 becomes float32 in silence; with it Python's numbers still take their array's type.
jax.config.update("jax_enable_x64", True)
# TF32 keeps 10 bits of a float32 product: runs on the GPU would leave the other backends' trajectory.
jax.config.update("jax_default_matmul_precision", "highest")
# Where there is a GPU and a build without CUDA it warns that it takes the CPU, which was asked for.
logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)

# Otherwise predictions take twice the time.
keep_freed_memory()

__all__ = ["jax"]
