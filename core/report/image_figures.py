"""Figures of the classification of images and of calibration: ROC, existence scores, reliability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.pictures.plotting import FuncFormatter, MaxNLocator
from core.report.findings import roc_curve
from core.report.plots import Plot, label_axes, nan_if_none, unit_square
from core.report.svg import INK, LINE, MUTED, PAPER, colour, drawing, line_style
from core.scoring.evaluation_record import Calibration, Evaluation

_BINS = 25


def roc(evaluations: Sequence[Evaluation]) -> Plot | None:
    """Draw the ROC curve of the existence score, with a dot at the thresholds in use."""
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
        unit_square(plot.axes)
        label_axes(plot.axes, "1 - specificity (false alarms)", "sensitivity (found)")
    return Plot("ROC curve", plot.svg, "Of the existence score. The dot: the thresholds in use.")


def existence_histogram(model: Evaluation, number: int, name: str | None = None) -> Plot:
    """Draw histograms of existence scores, positive images upwards and negative ones downwards.

    `name` is the model's name, if the page shows several models.
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
        label_axes(plot.axes, "existence score", "share of the images")
    return Plot(
        f"Existence scores, {name}" if name else "Existence scores",
        plot.svg,
        "Dashes: the score threshold. From there on an image is called positive.",
    )


def reliability(evaluations: Sequence[Evaluation], kind: str) -> Plot:
    """Draw the reliability diagram of images (`kind` "image") or pixels ("pixel")."""

    def calibration(model: Evaluation) -> Calibration:
        return model.image_calibration if kind == "image" else model.pixel_calibration

    said = "existence score" if kind == "image" else "probability"
    with drawing(f"Reliability diagram: share of {kind}s that are positive over their {said}.") as plot:
        plot.axes.plot([0, 1], [0, 1], color=LINE, linewidth=0.8)
        for number, model in enumerate(evaluations):
            bins = [bar for bar in calibration(model).bins if bar.predicted is not None]
            x, y = [nan_if_none(bar.predicted) for bar in bins], [nan_if_none(bar.observed) for bar in bins]
            plot.axes.plot(x, y, **line_style(number), clip_on=False)
            weight = np.sqrt([bar.count / max(b.count for b in bins) for bar in bins])
            plot.axes.scatter(x, y, 8 + 40 * weight, color=colour(number), linewidths=0, clip_on=False)
        unit_square(plot.axes)
        label_axes(plot.axes, f"mean {said}", f"share of {kind}s positive")
    return Plot(
        f"Reliability, {kind}s",
        plot.svg,
        "On the diagonal, what is said with probability p is true in a share p of the cases; below it the "
        f"model is too sure. Larger dots: more {kind}s.",
    )
