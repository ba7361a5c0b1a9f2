"""The devices TensorFlow runs on."""

from __future__ import annotations

from backends.tf.framework import tf


def list_devices() -> list[str]:
    """The CPU, then every GPU that TensorFlow sees."""
    gpus = tf.config.list_physical_devices("GPU")
    return ["cpu", *(f"gpu:{index}" for index in range(len(gpus)))]


def framework_device(name: str) -> str:
    """TensorFlow's name of a device of `list_devices`."""
    return f"/device:{name.upper()}" if ":" in name else f"/device:{name.upper()}:0"
