"""What MXNet cannot do, and where it is refused.

- bfloat16 on a GPU: MXNet 1.9 has it on the CPU alone. `check_precision` refuses it.
- TF32 on a GPU: MXNet has no switch for it. `check_precision` refuses it.
- Float32 numbers below 1e-19 as an operator's attribute: `backends.mxnet.framework.attribute` refuses them.
- GPUs of today: the last release was built for CUDA 11.7 at most (docs/gpu.md).
"""

from __future__ import annotations

from core.backend.contract import Precision
from core.base.errors import UserError


def check_precision(precision: Precision, device: str) -> None:
    """Raise a `UserError` if MXNet cannot compute a precision on a device."""
    reasons: dict[Precision, str] = {
        "mixed_bfloat16": "MXNet 1.9 has bfloat16 on the CPU alone",
        "tf32": "MXNet has no switch for it",
    }
    if precision in reasons and device != "cpu":
        raise UserError(
            f"mxnet cannot compute {precision} on {device}: {reasons[precision]}",
            "Use --device cpu, or training.precision float32.",
        )
