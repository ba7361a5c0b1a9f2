"""The import of JAX, without its messages and with the settings that `core`'s rules need.

Nothing else imports JAX.
"""

from __future__ import annotations

import logging
import os

# Otherwise XLA allocates three quarters of a GPU's memory at the first operation.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.export  # `import jax` does not import it

from core.base.system import keep_freed_memory

# Without this setting JAX silently turns float64 into float32. Python's numbers still get their array's type.
jax.config.update("jax_enable_x64", True)
# TF32 keeps 10 bits of a float32 product: runs on a GPU would deviate from the other backends' trajectory.
jax.config.update("jax_default_matmul_precision", "highest")
# On a machine with a GPU, a build without CUDA warns that it uses the CPU. That is what was asked for.
logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)

keep_freed_memory()  # otherwise predictions are much slower

__all__ = ["jax"]
