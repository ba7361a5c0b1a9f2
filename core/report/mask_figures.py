"""Figures of the masks of positive images: distribution of Dice, Dice by size, areas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.pictures.plotting import Axes
from core.report.plots import Draw, Plot, label_axes, logarithmic_axis, unit_square
from core.report.svg import LINE, colour, drawing, line_style
from core.scoring.evaluation_record import Evaluation
from core.scoring.thresholds import AREA_SIZE

_FEW, _MANY = 20, 500  # positive images: with fewer no medians are drawn, with more the dots are smaller


def dice_distribution(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Draw for each Dice the share of the positive images that reach it."""
    if not _any_positive(evaluations):
        return None
    with drawing("Line chart: for each Dice, the share of the positive images that reach it.") as plot:
        for number, model in enumerate(evaluations):
            dice = np.sort([row.dice for row in model.rows if row.truth_pixels])
            reached = np.linspace(1, 0, len(dice) + 1)
            plot.axes.stairs(reached, [0, *dice, 1], baseline=None, **line_style(number))
        unit_square(plot.axes)
        label_axes(plot.axes, "Dice", "share of positives")
    return Plot(
        "How good are the masks?",
        plot.svg,
        "The share of positive images whose Dice is at least that. Higher and farther right is better.",
    )


def dice_by_size(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Draw the Dice of the positive images over the true area."""
    if not _any_positive(evaluations):
        return None
    with drawing("Scatter plot: Dice of each positive image over the true area, logarithmic.") as plot:
        for number, model in enumerate(evaluations):
            true, _, dice = _areas(model)
            _scatter(plot.axes, number, true, dice)
            if len(true) >= _FEW:
                parts = np.array_split(np.argsort(true, kind="stable"), 5)
                centres = [float(np.median(true[part])) for part in parts]
                medians = [float(np.median(dice[part])) for part in parts]
                plot.axes.plot(centres, medians, **line_style(number))
        plot.axes.set_ylim(-0.03, 1.03)
        logarithmic_axis(plot.axes, "x")
        label_axes(plot.axes, "true area (pixels at 1024x1024)", "Dice")
    caption = "A dot is a positive image; at 0 it was missed, or the mask lies elsewhere."
    if any(len(_areas(model)[0]) >= _FEW for model in evaluations):
        caption += " Line: the median of each fifth by size."
    return Plot("Does size matter?", plot.svg, caption)


def area_agreement(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Draw the predicted area over the true area of the positive images with a predicted mask."""
    if not any(_areas(model)[1].any() for model in evaluations):
        return None
    with drawing("Scatter plot: area drawn over true area of each positive image, both logarithmic.") as plot:
        both: list[float] = []
        for number, model in enumerate(evaluations):
            true, drawn, _ = _areas(model)
            _scatter(plot.axes, number, true[drawn > 0], drawn[drawn > 0])
            both += [*true[drawn > 0], *drawn[drawn > 0]]
        ends = [min(both), max(both)]
        plot.axes.plot(ends, ends, color=LINE, linewidth=0.8, zorder=0)
        logarithmic_axis(plot.axes, "x")
        logarithmic_axis(plot.axes, "y")
        label_axes(plot.axes, "true area (pixels at 1024x1024)", "area drawn")
    return Plot(
        "Too large, too small?",
        plot.svg,
        "Positive images with a mask. Above the diagonal too much was drawn.",
    )


def _any_positive(evaluations: Sequence[Evaluation]) -> bool:
    return any(row.truth_pixels for model in evaluations for row in model.rows)


def _areas(model: Evaluation) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return true area, predicted area (both in pixels at 1024x1024) and Dice of the positive images."""
    rows = [row for row in model.rows if row.truth_pixels]
    scale = np.array([AREA_SIZE**2 / (row.height * row.width) for row in rows])
    true = np.array([row.truth_pixels for row in rows]) * scale
    drawn = np.array([row.predicted_pixels for row in rows]) * scale
    return true, drawn, np.array([row.dice for row in rows])


def _scatter(axes: Axes, number: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    many = len(x) > _MANY
    axes.plot(
        *_dots(x, y),
        color=colour(number),
        alpha=0.3 if many else 0.55,  # dots below other dots stay visible
        linewidth=2 if many else 3.5,
        solid_capstyle="round",
    )


def _dots(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lines of length zero that round caps show as dots; they take a tenth of the bytes of markers."""
    gap = np.full(len(x), math.nan)
    return np.stack([x, x, gap], axis=1).ravel(), np.stack([y, y, gap], axis=1).ravel()


MASKS: tuple[Draw, ...] = (dice_distribution, dice_by_size, area_agreement)
