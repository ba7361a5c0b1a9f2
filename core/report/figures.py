"""The figures of the report.

Promises: each function draws one figure from the records alone, or gives None where there is nothing to
draw. Models keep one colour through the page. No text from outside stands in a figure: names are in the
page's legend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from core.pictures.plotting import Axes, FuncFormatter, MaxNLocator, NullLocator
from core.report.findings import roc_curve
from core.report.svg import INK, LINE, MUTED, PAPER, colour, drawing, line_style
from core.scoring.evaluation_record import Calibration, Evaluation, MemberRecord, Surface
from core.scoring.thresholds import AREA_SIZE, Thresholds

_BINS = 25
_FEW, _MANY = 20, 500  # positive images: fewer have no median by size, more are drawn with smaller dots


@dataclass(frozen=True)
class Plot:
    """A figure with what stands around it.

    Args:
        title: In a few words.
        svg: The element.
        caption: What it shows and how to read it.
    """

    title: str
    svg: Markup
    caption: str


# ------------------------------------------------------------------------------------------- training


def loss_curves(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Training and validation loss over the epochs."""
    if not _trained(evaluations):
        return None
    with drawing("Line chart: training loss and validation loss over the epochs.") as plot:
        values: list[float] = []
        for number, member, epochs in _curves(evaluations):
            training = [record.loss for record in member.history]
            validation = [record.validation_loss for record in member.history]
            plot.axes.plot(epochs, training, color=colour(number), linewidth=0.8, alpha=0.5)
            plot.axes.plot(epochs, validation, **line_style(number))
            _mark_epoch(plot.axes, number, member, validation)
            values += training + validation
        _scale(plot.axes, values)
        _label(plot.axes, "epoch", "loss")
    return Plot(
        "Loss",
        plot.svg,
        "Strong: on held-out images; faint: on training images. Dot: the checkpoint that was evaluated.",
    )


def dice_curves(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Dice of the held-out images over the epochs, and the floor."""
    if not _trained(evaluations):
        return None
    with drawing("Line chart: Dice of the scored images over the epochs, with the all-empty floor.") as plot:
        for number, member, epochs in _curves(evaluations):
            dice = [record.dice for record in member.history]
            floor = [record.dice_all_empty for record in member.history]
            positive = [_number(record.dice_positive) for record in member.history]
            plot.axes.plot(epochs, floor, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            plot.axes.plot(epochs, positive, color=colour(number), linewidth=0.8, alpha=0.5)
            plot.axes.plot(epochs, dice, **line_style(number))
            _mark_epoch(plot.axes, number, member, dice)
        plot.axes.set_ylim(-0.02, 1.02)
        _label(plot.axes, "epoch", "Dice")
    return Plot(
        "Dice while training",
        plot.svg,
        "Strong: all scored images; faint: the positive ones; dashes: the floor. Counted at the network's "
        "size with a threshold of 0.5, so not the numbers above.",
    )


def rate_curves(evaluations: Sequence[Evaluation]) -> Plot | None:
    """The learning rate over the epochs."""
    if not _trained(evaluations):
        return None
    with drawing("Line chart: the learning rate over the epochs.") as plot:
        values: list[float] = []
        for number, member, epochs in _curves(evaluations):
            rates = [record.learning_rate for record in member.history]
            plot.axes.plot(epochs, rates, **line_style(number))
            values += rates
        _scale(plot.axes, values)
        _label(plot.axes, "epoch", "learning rate")
        if plot.axes.get_yscale() == "linear":
            plot.axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.3g}"))
    return Plot("Learning rate", plot.svg, "Of each epoch's last step.")


def _trained(evaluations: Sequence[Evaluation]) -> bool:
    return any(member.history for model in evaluations for member in model.origin.members)


def _curves(evaluations: Sequence[Evaluation]) -> Iterator[tuple[int, MemberRecord, list[int]]]:
    """Number of the colour, member and epochs: of each model, or of each member if there is but one model."""
    for number, model in enumerate(evaluations):
        for place, member in enumerate(model.origin.members):
            if member.history:
                epochs = [record.epoch for record in member.history]
                yield (place if len(evaluations) == 1 else number), member, epochs


def _mark_epoch(axes: Axes, number: int, member: MemberRecord, values: Sequence[float]) -> None:
    """A dot where the evaluated checkpoint is."""
    for record, value in zip(member.history, values, strict=True):
        if record.epoch == member.epoch:
            axes.plot(
                [record.epoch], [value], "o", color=colour(number), markersize=4.5, markeredgecolor=PAPER
            )


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """From zero; logarithmic where the values span more than a factor of thirty."""
    least, most = min(values), max(values)
    if 0 < least * 30 < most:
        _logarithmic(axes, "y")
    elif least >= 0 < most:
        axes.set_ylim(0, most * 1.05)


# ----------------------------------------------------------------------------------------- thresholds


def surface(model: Evaluation, grid: Surface) -> Plot:
    """Mean Dice over two thresholds as a heat map, the pair in use marked."""
    dice = np.array([[_number(value) for value in row] for row in grid.dice])
    row, column = _nearest(grid, model.summary.thresholds)
    best_row, best_column = np.unravel_index(int(np.nanargmax(dice)), dice.shape)
    floor, most = model.summary.dice_all_empty, float(np.nanmax(dice))
    least = max(float(np.nanmin(dice)), floor) if most > floor else float(np.nanmin(dice))
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
        _label(plot.axes, _threshold_label(grid.column_name), _threshold_label(grid.row_name))
        plot.axes.spines[:].set_visible(False)
        bar = plot.figure.colorbar(
            image, ax=plot.axes, pad=0.02, extend="min" if least == floor else "neither"
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
    if least == floor:
        caption += " Darkest: the floor, or less."
    return Plot(f"{grid.row_name.capitalize()} and {grid.column_name}", plot.svg, caption)


def _nearest(grid: Surface, used: Thresholds) -> tuple[int, int]:
    """Row and column of the thresholds in use; the closest pair that has a value."""
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


# ------------------------------------------------------------------------------------------ existence


def roc(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Receiver operating characteristic of the existence score, with the points in use."""
    drawn = [(n, model) for n, model in enumerate(evaluations) if model.summary.auroc is not None]
    if not drawn:
        return None
    with drawing("ROC curve: sensitivity over 1 - specificity, with the thresholds in use as a dot.") as plot:
        plot.axes.plot([0, 1], [0, 1], color=LINE, linewidth=0.8)
        for number, model in drawn:
            false, true = roc_curve(model.rows)
            plot.axes.plot(false, true, **line_style(number), clip_on=False)
            found, cleared = model.summary.sensitivity, model.summary.specificity
            if found is not None and cleared is not None:
                point = {"color": colour(number), "markersize": 6, "markeredgecolor": PAPER, "zorder": 5}
                plot.axes.plot([1 - cleared], [found], "o", clip_on=False, **point)  # type: ignore[arg-type]
        _unit_square(plot.axes)
        _label(plot.axes, "1 - specificity (false alarms)", "sensitivity (found)")
    return Plot("ROC curve", plot.svg, "Of the existence score. The dot: the thresholds in use.")


def existence_histogram(model: Evaluation, number: int, name: str | None = None) -> Plot:
    """Existence scores of positive images upwards, of negative ones downwards, with the threshold.

    `name` tells the model from others of the page.
    """
    edges = np.linspace(0, 1, _BINS + 1)
    positive = np.array([row.existence for row in model.rows if row.truth_pixels])
    negative = np.array([row.existence for row in model.rows if not row.truth_pixels])
    with drawing(
        f"Histogram of existence scores: {len(positive)} images with a pneumothorax upwards, "
        f"{len(negative)} without downwards; the threshold is at {model.summary.thresholds.score:.3g}."
    ) as plot:
        shares = []
        for scores, sign, alpha in ((positive, 1, 1.0), (negative, -1, 0.45)):
            share = np.histogram(scores, edges)[0] / max(len(scores), 1)
            plot.axes.stairs(sign * share, edges, fill=True, color=colour(number), alpha=alpha)
            shares.append(float(share.max()))
        top = max(*shares, 0.01) * 1.15
        plot.axes.set(xlim=(0, 1), ylim=(-top, top))
        plot.axes.axhline(0, color=MUTED, linewidth=0.6)
        plot.axes.axvline(model.summary.thresholds.score, color=INK, linewidth=1, linestyle=(0, (4, 2)))
        for height, text in ((0.93, "with pneumothorax"), (0.04, "without")):
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
            plot.axes.text(0.5, height, text, transform=plot.axes.transAxes, ha="center", bbox=box)
        plot.axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{abs(share):.0%}"))
        plot.axes.yaxis.set_major_locator(MaxNLocator(5))
        _label(plot.axes, "existence score", "share of the images")
    return Plot(
        f"Existence scores, {name}" if name else "Existence scores",
        plot.svg,
        "Dashes: the score threshold. From there on an image is called positive.",
    )


# ---------------------------------------------------------------------------------------- calibration


def reliability(evaluations: Sequence[Evaluation], kind: str) -> Plot:
    """Reliability diagram of images ("image") or pixels ("pixel")."""

    def calibration(model: Evaluation) -> Calibration:
        return model.image_calibration if kind == "image" else model.pixel_calibration

    said = "existence score" if kind == "image" else "probability"
    with drawing(f"Reliability diagram: share of {kind}s that are positive over their {said}.") as plot:
        plot.axes.plot([0, 1], [0, 1], color=LINE, linewidth=0.8)
        for number, model in enumerate(evaluations):
            bins = [bar for bar in calibration(model).bins if bar.predicted is not None]
            x, y = [_number(bar.predicted) for bar in bins], [_number(bar.observed) for bar in bins]
            plot.axes.plot(x, y, **line_style(number), clip_on=False)
            weight = np.sqrt([bar.count / max(b.count for b in bins) for bar in bins])
            plot.axes.scatter(x, y, 8 + 40 * weight, color=colour(number), linewidths=0, clip_on=False)
        _unit_square(plot.axes)
        _label(plot.axes, f"mean {said}", f"share of {kind}s positive")
    return Plot(
        f"Reliability, {kind}s",
        plot.svg,
        "On the diagonal, what is said with probability p is true in a share p of the cases; below it the "
        f"model is too sure. Larger dots: more {kind}s.",
    )


# ------------------------------------------------------------------------------------------- position


def dice_distribution(evaluations: Sequence[Evaluation]) -> Plot | None:
    """For each Dice, the share of the positive images that reach it."""
    if not _any_positive(evaluations):
        return None
    with drawing("Line chart: for each Dice, the share of the positive images that reach it.") as plot:
        for number, model in enumerate(evaluations):
            dice = np.sort([row.dice for row in model.rows if row.truth_pixels])
            reached = np.linspace(1, 0, len(dice) + 1)
            plot.axes.stairs(reached, [0, *dice, 1], baseline=None, **line_style(number))
        _unit_square(plot.axes)
        _label(plot.axes, "Dice", "share of positives")
    return Plot(
        "How good are the masks?",
        plot.svg,
        "The share of positive images whose Dice is at least that. Higher and farther right is better.",
    )


def dice_by_size(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Dice of the positive images over the true area."""
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
        _logarithmic(plot.axes, "x")
        _label(plot.axes, "true area (pixels at 1024x1024)", "Dice")
    caption = "A dot is a positive image; at 0 it was missed, or the mask lies elsewhere."
    if any(len(_areas(model)[0]) >= _FEW for model in evaluations):
        caption += " Line: the median of each fifth by size."
    return Plot("Does size matter?", plot.svg, caption)


def area_agreement(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Area drawn over the true area, of the positive images that got a mask."""
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
        _logarithmic(plot.axes, "x")
        _logarithmic(plot.axes, "y")
        _label(plot.axes, "true area (pixels at 1024x1024)", "area drawn")
    return Plot(
        "Too large, too small?",
        plot.svg,
        "Positive images with a mask. Above the diagonal too much was drawn.",
    )


def _any_positive(evaluations: Sequence[Evaluation]) -> bool:
    return any(row.truth_pixels for model in evaluations for row in model.rows)


def _areas(model: Evaluation) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """True area, area drawn (both in pixels at 1024x1024) and Dice of the positive images."""
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
        alpha=0.3 if many else 0.55,  # what lies under a dot is still seen
        linewidth=2 if many else 3.5,
        solid_capstyle="round",
    )


def _logarithmic(axes: Axes, which: str) -> None:
    """A logarithmic axis with three round numbers at least, where there are as many."""
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


def _dots(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lines of no length, which round caps make dots: a tenth of the bytes of as many markers."""
    gap = np.full(len(x), math.nan)
    return np.stack([x, x, gap], axis=1).ravel(), np.stack([y, y, gap], axis=1).ravel()


# --------------------------------------------------------------------------------------------- shared


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.25, 0.5, 0.75, 1], yticks=[0, 0.25, 0.5, 0.75, 1])


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


Draw = Callable[[Sequence[Evaluation]], Plot | None]
TRAINING: tuple[Draw, ...] = (loss_curves, dice_curves, rate_curves)
MASKS: tuple[Draw, ...] = (dice_distribution, dice_by_size, area_agreement)
