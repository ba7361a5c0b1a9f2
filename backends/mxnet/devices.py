"""The devices MXNet runs on."""

from __future__ import annotations

from typing import Any

from backends.mxnet.framework import mx


def list_devices() -> list[str]:
    """Return the CPU, then every GPU that MXNet sees; a build without CUDA sees none."""
    try:
        count = mx.context.num_gpus()
    except mx.base.MXNetError:  # a GPU build without a driver raises instead of answering 0
        count = 0
    return ["cpu", *(f"gpu:{index}" for index in range(count))]


def framework_device(name: str) -> Any:
    """Return MXNet's context for a device of `list_devices`."""
    kind, _, index = name.partition(":")
    return mx.Context(kind, int(index or 0))
