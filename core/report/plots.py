"""The type of the report's figures, and helpers for axes that they share.

No figure contains text from outside. Names of models are in the page's legend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from core.pictures.plotting import Axes, MaxNLocator, NullLocator
from core.scoring.evaluation_record import Evaluation


@dataclass(frozen=True)
class Plot:
    """A figure with its title and caption.

    Args:
        title: The title, a few words.
        svg: The SVG element.
        caption: What the figure shows and how to read it.
    """

    title: str
    svg: Markup
    caption: str


Draw = Callable[[Sequence[Evaluation]], Plot | None]
"""Draws one figure of some models; returns None where there is nothing to draw."""


def nan_if_none(value: float | None) -> float:
    """Return NaN, which matplotlib leaves out, for None."""
    return math.nan if value is None else value


def unit_square(axes: Axes) -> None:
    """Set both axes to the range from 0 to 1."""
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.25, 0.5, 0.75, 1], yticks=[0, 0.25, 0.5, 0.75, 1])


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Label both axes; an axis of epochs has integer ticks."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def logarithmic_axis(axes: Axes, which: str) -> None:
    """Make the axis "x" or "y" logarithmic, with at least three round numbers as ticks if possible."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log"})
    low, high = sorted(axis.get_view_interval())
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
        if len(ticks) < 3:
            ticks = [d * 10.0**power for power in decades for d in digits if low <= d * 10.0**power <= high]
    axis.set_ticks(ticks, [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())
