"""Choose the device of a run from `--device auto|cpu|gpu|gpu:N`, in the same way for every backend.

`cuda` and `cuda:N`, PyTorch's names, mean `gpu` and `gpu:N`. `OnDevice` moves a backend's models to a device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.base.errors import UserError

if TYPE_CHECKING:
    from core.backend.contract import Implementation, Model, Precision
    from core.backend.training_rules import TrainingRules
    from core.network.plan import Plan


def choose_device(request: str, available: Sequence[str], title: str, place: int = 0) -> str:
    """Return the one of `available` ("cpu", "gpu:0", …) that the user's `request` means.

    `auto` means a GPU that the framework sees, or the CPU if it sees none. `gpu` and `auto` mean the first
    GPU for the first worker of a machine (`place` 0), the second for the next one, and so on.

    Raises:
        UserError: The request is invalid, or the framework does not see that device.
    """
    if not re.fullmatch(r"auto|cpu|(gpu|cuda)(:\d+)?", request):
        raise UserError(f"--device: received {request!r}; expected auto, cpu, gpu or gpu:N")
    gpus = [device for device in available if device.startswith("gpu")]
    if request == "auto":
        return gpus[place % len(gpus)] if gpus else "cpu"
    wanted = request.replace("cuda", "gpu")
    if wanted == "gpu":
        wanted = gpus[place % len(gpus)] if gpus else "gpu:0"
    if wanted not in available:
        seen = ", ".join(available)
        raise UserError(
            f"--device {request}: {title} sees no such device; it sees: {seen}",
            "Use --device auto, or install the framework's GPU build and driver (docs/gpu.md).",
        )
    return wanted


class OnDevice:
    """An implementation whose models all compute on one device, whatever `compile` is asked for.

    Args:
        implementation: The backend's; everything but `compile` is its own.
        device: One of its devices.
    """

    def __init__(self, implementation: Implementation, device: str) -> None:
        self._implementation, self.device = implementation, device

    def compile(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> Model:
        """Compile the plan on the device of this object."""
        del device
        return self._implementation.compile(plan, rules, self.device, precision)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._implementation, name)
