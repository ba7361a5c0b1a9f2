"""The import of ONNX and ONNX Runtime, and sessions of it with the settings that `core`'s rules need.

Nothing else imports these two.
"""

from __future__ import annotations

import os
from typing import Any

# Since 1.29 the builds for Linux, too, send data about sessions and models to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnx
import onnxruntime

from core.base.errors import UserError
from core.base.system import available_cores

onnxruntime.set_default_logger_severity(
    3
)  # errors only; its warnings, of a graph's unused parts, do not help

__all__ = ["has_cuda", "onnx", "open_session"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def open_session(model: bytes, device: str) -> Any:
    """Open an `onnxruntime.InferenceSession` for a serialised model on one of `list_devices`.

    Raises:
        UserError: ONNX Runtime cannot use the device.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = available_cores()
    options.inter_op_num_threads = 1
    # Otherwise each thread that waits for the next image uses a whole core.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers: list[Any] = [_CPU]
    if device != "cpu":
        # TF32 keeps 10 bits of a float32 product.
        providers.insert(0, (_CUDA, {"device_id": device.partition(":")[2], "use_tf32": "0"}))
    session = onnxruntime.InferenceSession(model, options, providers=providers)
    if device != "cpu" and session.get_providers()[0] != _CUDA:  # with a mere warning it uses the CPU
        raise UserError(
            f"ONNX Runtime cannot use {device}: its CUDA libraries do not load",
            "Use --device cpu, or install onnxruntime-gpu with the CUDA and cuDNN that it names.",
        )
    return session


def has_cuda() -> bool:
    """Return whether this build of ONNX Runtime is for NVIDIA's GPUs."""
    return _CUDA in onnxruntime.get_available_providers()
