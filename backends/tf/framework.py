"""The import of TensorFlow, without its messages and with the settings that `core`'s rules need.

Nothing else imports TensorFlow.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from core.base.system import hidden_stderr, keep_freed_memory

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow imports Keras, which reads and writes a file in the home folder; without a home, in ./~ or /tmp.
# Keras imports matplotlib if it is installed, which leaves a folder in /tmp if there is no home.
os.environ.setdefault("KERAS_HOME", os.devnull)
sys.modules.setdefault("matplotlib", None)  # type: ignore[arg-type] # its import then fails
# The import of TensorFlow 2.21 writes "oneDNN custom operations are on" twice, whatever the log level.
with hidden_stderr():
    import tensorflow as tf
if sys.modules.get("matplotlib") is None:
    del sys.modules["matplotlib"]

tf.get_logger().setLevel("ERROR")
keep_freed_memory()
# TF32 keeps 10 bits of a float32 product: runs on a GPU would deviate from the other backends' trajectory.
tf.config.experimental.enable_tensor_float_32_execution(False)
for _gpu in tf.config.list_physical_devices("GPU"):
    # Otherwise TensorFlow allocates the whole memory of every GPU at the first operation.
    tf.config.experimental.set_memory_growth(_gpu, True)

Tensor = Any
"""A `tf.Tensor`; TensorFlow ships no type information."""

__all__ = ["Tensor", "tf"]
