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

from core.network.plan import AveragePool2D, Conv2D, GlobalMean, MaxPool2D, Plan

Axis = Literal["height", "width"]
AXES: tuple[Axis, Axis] = ("height", "width")


def step(plan: Plan, axis: Axis) -> int | None:
    """Return the number of which the axis may be any multiple; None if it must be as planned."""
    whole = getattr(plan.input, axis)
    sizes = {plan.input.name: whole}
    for op in plan.operations:
        if isinstance(op, GlobalMean) or op.input not in sizes:
            continue  # one pixel, whatever the size
        sizes[op.output.name] = getattr(op.output, axis)
        if isinstance(op, Conv2D | MaxPool2D | AveragePool2D):
            is_proportional = sizes[op.output.name] * op.stride == sizes[op.input]
            if sizes[op.input] % op.stride or not is_proportional:
                return None
    return math.lcm(*(Fraction(size, whole).denominator for size in sizes.values()))
