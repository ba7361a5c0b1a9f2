"""The devices ONNX Runtime runs on."""

from __future__ import annotations

import ctypes

from backends.onnx.framework import has_cuda


def list_devices() -> list[str]:
    """Return the CPU, then every GPU that the CUDA driver sees if this build of ONNX Runtime can use it."""
    return ["cpu", *(f"gpu:{index}" for index in range(_gpus() if has_cuda() else 0))]


def _gpus() -> int:
    """Ask the CUDA driver for the number of GPUs, which ONNX Runtime does not tell."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    except OSError:
        return 0
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
