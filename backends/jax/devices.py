"""The devices JAX runs on."""

from __future__ import annotations

from typing import Any

from backends.jax.framework import jax


def list_devices() -> list[str]:
    """Return the CPU, then every GPU that JAX sees; a build without CUDA or ROCm sees none."""
    try:
        count = len(jax.local_devices(backend="gpu"))
    except RuntimeError:  # JAX raises it if there are none
        count = 0
    return ["cpu", *(f"gpu:{index}" for index in range(count))]


def framework_device(name: str) -> Any:
    """Return JAX's device for a device of `list_devices`."""
    kind, _, index = name.partition(":")
    return jax.local_devices(backend=kind)[int(index or 0)]
