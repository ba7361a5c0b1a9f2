"""The devices ONNX Runtime runs on."""

from __future__ import annotations

import ctypes

from backends.onnx.framework import has_cuda


def list_devices() -> list[str]:
    """The CPU, then every GPU that the CUDA driver sees, where this build of ONNX Runtime can use one."""
    return ["cpu", *(f"gpu:{index}" for index in range(_gpus() if has_cuda() else 0))]


def _gpus() -> int:
    """Asked of the driver itself: ONNX Runtime does not tell how many there are."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    except OSError:
        return 0
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
