"""Copies of arrays from the host to a device, made while the device computes."""

from __future__ import annotations

from typing import Any

from backends.torch.framework import torch
from backends.torch.operations import Tensor


class Sender:
    """Sends arrays to one device.

    A GPU copies them in a stream of its own, so the copies for an update run beside the update before.
    Whatever is computed afterwards waits for them; the host waits for nothing.

    Args:
        device: PyTorch's device.

    Source: PyTorch 2.13, "CUDA semantics" (pinned memory, streams), `Tensor.record_stream`.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._stream = None if device.type == "cpu" else torch.cuda.Stream(device)

    def send(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor of the host on the device; on the CPU the tensor itself."""
        if self._stream is None:
            return tensor
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            sent = tensor.pin_memory().to(self._device, non_blocking=True)
        computing.wait_stream(self._stream)
        sent.record_stream(computing)  # its memory is used again only after what was computed from it
        return sent
