"""The devices PyTorch runs on."""

from __future__ import annotations

from typing import Any

from backends.torch.framework import torch


def list_devices() -> list[str]:
    """The CPU, then every GPU that PyTorch sees; a build without CUDA sees none."""
    return ["cpu", *(f"gpu:{index}" for index in range(torch.cuda.device_count()))]


def framework_device(name: str) -> Any:
    """PyTorch's device of a device of `list_devices`."""
    return torch.device(name.replace("gpu", "cuda"))
