"""The devices TensorFlow runs on."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from backends.tf.framework import tf
from core.base import system
from core.base.rounding import Narrow


def list_devices() -> list[str]:
    """Return the CPU, then every GPU that TensorFlow sees."""
    gpus = tf.config.list_physical_devices("GPU")
    return ["cpu", *(f"gpu:{index}" for index in range(len(gpus)))]


def framework_device(name: str) -> str:
    """Return TensorFlow's name for a device of `list_devices`."""
    return f"/device:{name.upper()}" if ":" in name else f"/device:{name.upper()}:0"


@contextlib.contextmanager
def computing_on(device: str, narrow: Narrow | None) -> Iterator[None]:
    """Place operations on a `framework_device`; a GPU rounds to TF32 if that is the type of the products."""
    tf.config.experimental.enable_tensor_float_32_execution(narrow == "tf32")
    with tf.device(device):
        yield


@functools.cache
def multiplies(narrow: Narrow, name: str) -> bool:
    """Return whether a device's convolutions of a type are fast and add in float32.

    A GPU's do. A CPU multiplies float32 in place of float16 and TF32. Of bfloat16 oneDNN's do if the
    processor has such products, but Eigen's add in bfloat16 (a kernel's gradient is off by 2 % after 300
    pixels). A gradient that sums 1,024 ones shows which is used: addition in bfloat16 gives 256.
    """
    if name != "cpu":
        return True
    if narrow != "bfloat16" or not system.multiplies_bfloat16():
        return False
    with tf.device(framework_device(name)):
        ones = tf.ones([1, 32, 32, 16], tf.bfloat16)
        counts = tf.raw_ops.Conv2DBackpropFilter(
            input=ones, filter_sizes=[1, 1, 16, 16], out_backprop=ones, strides=[1, 1, 1, 1], padding="SAME"
        )
        return bool(tf.reduce_all(counts == 1024))
