"""Heat map of the mean Dice over two thresholds."""

from __future__ import annotations

import math

import numpy as np

from core.pictures.plotting import Axes
from core.report.plots import Plot, label_axes, nan_if_none
from core.report.svg import drawing
from core.scoring.evaluation_record import Evaluation, Surface
from core.scoring.thresholds import Thresholds


def surface(model: Evaluation, grid: Surface) -> Plot:
    """Draw the mean Dice over two thresholds as a heat map, with a ring at the thresholds in use."""
    dice = np.array([[nan_if_none(value) for value in row] for row in grid.dice])
    row, column = _nearest(grid, model.summary.thresholds)
    best_row, best_column = np.unravel_index(int(np.nanargmax(dice)), dice.shape)
    baseline, most = model.summary.dice_all_empty, float(np.nanmax(dice))
    least = max(float(np.nanmin(dice)), baseline) if most > baseline else float(np.nanmin(dice))
    alt = (
        f"Heat map: mean Dice over the {grid.column_name} and {grid.row_name} thresholds, "
        f"from {np.nanmin(dice):.4f} to {np.nanmax(dice):.4f}; in use: {dice[row, column]:.4f}."
    )
    with drawing(alt) as plot:
        image = plot.axes.imshow(
            dice, vmin=least, origin="lower", aspect="auto", cmap="viridis", interpolation="nearest"
        )
        plot.axes.plot(
            [column], [row], "o", markersize=7, color="none", markeredgecolor="white", markeredgewidth=2.4
        )
        plot.axes.plot(
            [column], [row], "o", markersize=7, color="none", markeredgecolor="black", markeredgewidth=1
        )
        _grid_ticks(plot.axes, grid)
        label_axes(plot.axes, _threshold_label(grid.column_name), _threshold_label(grid.row_name))
        plot.axes.spines[:].set_visible(False)
        bar = plot.figure.colorbar(
            image, ax=plot.axes, pad=0.02, extend="min" if least == baseline else "neither"
        )
        bar.outline.set_visible(False)
    best = {grid.column_name: grid.columns[best_column], grid.row_name: grid.rows[best_row]}
    there = ", ".join(f"{name} {_value(value)}" for name, value in best.items())
    caption = (
        f"Mean Dice, {grid.fixed} fixed at {_value(grid.value)}. Ring: in use, {dice[row, column]:.4f}. "
    )
    if np.isclose(dice[row, column], np.nanmax(dice), rtol=0, atol=5e-5):
        caption += "No pair of this grid does better on these images."
    else:
        caption += f"Best of this grid on these images: {np.nanmax(dice):.4f} at {there}."
    if least == baseline:
        caption += " Darkest: the floor, or less."
    return Plot(f"{grid.row_name.capitalize()} and {grid.column_name}", plot.svg, caption)


def _nearest(grid: Surface, used: Thresholds) -> tuple[int, int]:
    """Return row and column of the pair with a value that is nearest to the thresholds in use."""
    rows, columns = np.array(grid.rows), np.array(grid.columns)
    row_distance = np.abs(rows - getattr(used, grid.row_name)) / max(float(np.ptp(rows)), 1e-9)
    column_distance = np.abs(columns - getattr(used, grid.column_name)) / max(float(np.ptp(columns)), 1e-9)
    distance = row_distance[:, np.newaxis] + column_distance
    distance[np.array([[value is None for value in row] for row in grid.dice])] = math.inf
    row, column = np.unravel_index(int(np.argmin(distance)), distance.shape)
    return int(row), int(column)


def _grid_ticks(axes: Axes, grid: Surface) -> None:
    for axis, values in ((axes.xaxis, grid.columns), (axes.yaxis, grid.rows)):
        step = math.ceil(len(values) / 6)
        texts = [f"{value:.0f}" if max(values) > 1 else f"{value:.2f}" for value in values[::step]]
        axis.set_ticks(range(0, len(values), step), texts)


def _threshold_label(name: str) -> str:
    return "area (pixels at 1024x1024)" if name == "area" else f"{name} threshold"


def _value(value: float) -> str:
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
