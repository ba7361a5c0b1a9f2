"""The certificate as a picture: loss curves above, distances and their budget below."""

from __future__ import annotations

import io
import math

from core.parity.certificate import Certificate, Series
from core.plotting import Axes, Figure


def draw(certificate: Certificate, suffix: str) -> bytes:
    """The plot in the format that a file name's `suffix` (".png", ".svg", ".pdf") stands for."""
    figure = Figure(figsize=(9, 10), layout="constrained")
    losses, distances, weights = figure.subplots(3, 1, sharex=True)
    steps = list(range(1, certificate.steps + 1))
    losses.plot(steps, certificate.base_losses, "0.75", label=certificate.base, linewidth=4)
    for index, (name, series) in enumerate(certificate.runs.items()):
        losses.plot(steps[-len(series.losses) :], series.losses, f"C{index}", label=name, linewidth=1)
    losses.set_ylabel("loss")
    losses.legend()
    losses.set_title(f"{certificate.precision}, {certificate.steps} steps, compared with {certificate.base}")
    for axes, kind in ((distances, "loss"), (weights, "weight")):
        _draw_distances(axes, certificate, kind, steps)
    weights.set_xlabel("step")
    image = io.BytesIO()
    figure.savefig(image, format=suffix.lstrip("."), dpi=100)
    return image.getvalue()


def _draw_distances(axes: Axes, certificate: Certificate, kind: str, steps: list[int]) -> None:
    def line(series: Series) -> tuple[list[int], list[float]]:
        # Identical results have no logarithm: a gap.
        values = [value or math.nan for value in series.distances[kind]]
        return steps[len(steps) - len(values) :], values

    for index, series in enumerate(certificate.drifts.values()):
        label = "a backend from itself, nudged by one unit in the last place" if index == 0 else None
        axes.plot(*line(series), color="0.75", linewidth=0.8, label=label)
    for index, (name, series) in enumerate(certificate.runs.items()):
        axes.plot(*line(series), f"C{index}", linewidth=1.2, label=name)
    axes.plot(steps, certificate.budgets[kind], "k--", linewidth=1, label="budget")
    axes.set_yscale("log")
    what = "the loss" if kind == "loss" else f"the farthest {kind}"
    axes.set_ylabel(f"relative distance of {what}")
    axes.legend(fontsize="small")
