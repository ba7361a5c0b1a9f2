"""Which sizes a written graph takes besides the one it was planned for.

Promises: an axis is free only if the plan for every multiple of a step has the same pads and crops as
this one. SAME pads of a convolution are the same for all sizes that its stride divides (their sum is
max(k - s, 0)); crops never depend on the size. So it is enough that no stride of the plan leaves a
remainder; the step is then what the strides on the way down come to.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from core.network.plan import Conv2D, Plan

Axis = Literal["height", "width"]
AXES: tuple[Axis, Axis] = ("height", "width")


def step(plan: Plan, axis: Axis) -> int | None:
    """The axis may be any multiple of this; None where it must be as planned."""
    sizes = {op.output.name: getattr(op.output, axis) for op in plan.operations}
    whole = sizes[plan.input.name] = getattr(plan.input, axis)
    if any(sizes[op.input] % op.stride for op in plan.operations if isinstance(op, Conv2D)):
        return None
    return math.lcm(*(Fraction(size, whole).denominator for size in sizes.values()))
