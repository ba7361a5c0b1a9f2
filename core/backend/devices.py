"""Choose the device of a run from `--device auto|cpu|gpu|gpu:N`, in the same way for every backend.

`cuda` and `cuda:N`, PyTorch's names, mean `gpu` and `gpu:N`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.base.errors import UserError


def choose_device(request: str, available: Sequence[str], title: str) -> str:
    """Return the one of `available` ("cpu", "gpu:0", …) that the user's `request` means.

    `auto` means the first GPU that the framework sees, or the CPU if it sees none.

    Raises:
        UserError: The request is invalid, or the framework does not see that device.
    """
    if not re.fullmatch(r"auto|cpu|(gpu|cuda)(:\d+)?", request):
        raise UserError(f"--device: received {request!r}; expected auto, cpu, gpu or gpu:N")
    gpus = [device for device in available if device.startswith("gpu")]
    if request == "auto":
        return gpus[0] if gpus else "cpu"
    wanted = request.replace("cuda", "gpu")
    wanted = "gpu:0" if wanted == "gpu" else wanted
    if wanted not in available:
        seen = ", ".join(available)
        raise UserError(
            f"--device {request}: {title} sees no such device; it sees: {seen}",
            "Use --device auto, or install the framework's GPU build and driver (docs/gpu.md).",
        )
    return wanted
