"""Which device a run uses: the meaning of `--device auto|cpu|gpu|gpu:N`, the same for every backend.

`cuda` and `cuda:N`, PyTorch's names, mean `gpu` and `gpu:N`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.base.errors import UserError


def choose_device(request: str, available: Sequence[str], title: str) -> str:
    """One of `available` ("cpu", "gpu:0", …) for the user's `request`.

    `auto` takes the first GPU the framework sees, else the CPU.

    Raises:
        UserError: The request is not understood, or the framework does not see that device.
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
