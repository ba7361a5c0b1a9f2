"""The devices PyTorch runs on, and what is fast on each."""

from __future__ import annotations

from typing import Any

from backends.torch.framework import torch
from core.base import system
from core.base.rounding import Narrow


def list_devices() -> list[str]:
    """Return the CPU, then every GPU that PyTorch sees; a build without CUDA sees none."""
    return ["cpu", *(f"gpu:{index}" for index in range(torch.cuda.device_count()))]


def framework_device(name: str) -> Any:
    """Return PyTorch's device for a device of `list_devices`."""
    return torch.device(name.replace("gpu", "cuda"))


def memory_layout(name: str) -> Any:
    """Return the order of axes in memory that is fast on a device; PyTorch's order by index is the same.

    Tensor cores multiply arrays whose channels are last; of others cuDNN makes copies. On the CPU channels
    come first: see `backends.torch.operations`.
    """
    return torch.contiguous_format if name == "cpu" else torch.channels_last


def allow_tf32(allowed: bool) -> None:
    """Say whether, from here on, a GPU rounds the operands of convolutions of float32 to TF32."""
    torch.backends.cudnn.allow_tf32 = allowed


def multiplies(narrow: Narrow, name: str) -> bool:
    """Return whether a device's convolutions of a type are fast and add in float32.

    A GPU's do. A CPU multiplies float32 in place of float16 and TF32. Of bfloat16 oneDNN's do if the
    processor has such products, but PyTorch's own add tap by tap in bfloat16 (off by 3e-3) and are very slow.
    """
    if name != "cpu":
        return True
    if narrow != "bfloat16":
        return False
    return bool(torch.backends.mkldnn.is_available()) and system.multiplies_bfloat16()
