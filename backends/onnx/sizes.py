"""Image sizes that an exported graph accepts besides the one that it was planned for.

An axis is free only if the plan for every multiple of a step has the same pads and crops as this one. SAME
pads of a convolution are the same for all sizes that its stride divides (their sum is max(k - s, 0)), and
crops never depend on the size. So it is enough that every stride of the plan divides its input's size. The
step is then the total stride on the way down.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from core.network.plan import Conv2D, Plan

Axis = Literal["height", "width"]
AXES: tuple[Axis, Axis] = ("height", "width")


def step(plan: Plan, axis: Axis) -> int | None:
    """Return the number of which the axis may be any multiple; None if it must be as planned."""
    sizes = {op.output.name: getattr(op.output, axis) for op in plan.operations}
    whole = sizes[plan.input.name] = getattr(plan.input, axis)
    if any(sizes[op.input] % op.stride for op in plan.operations if isinstance(op, Conv2D)):
        return None
    return math.lcm(*(Fraction(size, whole).denominator for size in sizes.values()))
