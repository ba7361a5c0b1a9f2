"""The one place that imports TensorFlow, quietly and set up for the rules of `core`."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from core.machine import keep_freed_memory


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Keep what C++ code writes to standard error to itself, unless the block raises."""
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(stderr, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Importing TensorFlow 2.21 writes "oneDNN custom operations are on" twice, before it reads any log level.
with _held_back_stderr():
    import tensorflow as tf

tf.get_logger().setLevel("ERROR")
keep_freed_memory()
# TF32 keeps 10 bits of a float32 product: runs on the GPU would leave the other backends' trajectory.
tf.config.experimental.enable_tensor_float_32_execution(False)
for _gpu in tf.config.list_physical_devices("GPU"):
    # Otherwise TensorFlow takes the whole memory of every GPU at the first operation.
    tf.config.experimental.set_memory_growth(_gpu, True)

Tensor = Any
"""A `tf.Tensor`; TensorFlow ships no type information."""

__all__ = ["Tensor", "tf"]
