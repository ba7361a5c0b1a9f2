"""Plot a certificate: loss curves at the top, distances and their budgets below."""

from __future__ import annotations

import io
import math

from core.parity.certificate import Certificate
from core.parity.measures import KINDS
from core.pictures.plotting import Axes, Figure


def draw(certificate: Certificate, suffix: str) -> bytes:
    """Return the plot as a file of the format with this `suffix` (".png", ".svg", ".pdf")."""
    figure = Figure(figsize=(9, 10), layout="constrained")
    losses, distances, weights = figure.subplots(3, 1, sharex=True)
    steps = list(range(1, certificate.steps + 1))
    losses.plot(steps, certificate.base_losses, "0.75", label=certificate.base, linewidth=4)
    for index, (name, series) in enumerate(certificate.runs.items()):
        losses.plot(steps[-len(series.losses) :], series.losses, f"C{index}", label=name, linewidth=1)
    losses.set_ylabel("loss")
    losses.legend()
    losses.set_title(f"{certificate.precision}, {certificate.steps} steps, compared with {certificate.base}")
    _draw_losses(distances, certificate, steps)
    _draw_shares(weights, certificate, steps)
    weights.set_xlabel("step")
    image = io.BytesIO()
    figure.savefig(image, format=suffix.lstrip("."), dpi=100)
    return image.getvalue()


def _draw_losses(axes: Axes, certificate: Certificate, steps: list[int]) -> None:
    """Plot the distances of the loss, and its budget, which is the same for all runs."""
    for index, (name, series) in enumerate(certificate.runs.items()):
        # Identical results have distance 0, whose logarithm is undefined; they become gaps.
        values = [value or math.nan for value in series.distances["loss"]]
        axes.plot(steps[len(steps) - len(values) :], values, f"C{index}", linewidth=1.2, label=name)
    longest = max(certificate.runs.values(), key=lambda series: len(series.losses))
    axes.plot(steps, longest.budgets["loss"], "k--", linewidth=1, label="budget")
    axes.set_yscale("log")
    axes.set_ylabel("relative distance of the loss")
    axes.legend(fontsize="small")


def _draw_shares(axes: Axes, certificate: Certificate, steps: list[int]) -> None:
    """Plot, for each run, the largest share of its budget that any array takes."""
    for index, (name, series) in enumerate(certificate.runs.items()):
        shares = [max(of_kinds) for of_kinds in zip(*map(series.shares, KINDS), strict=True)]
        values = [value or math.nan for value in shares]
        axes.plot(steps[len(steps) - len(values) :], values, f"C{index}", linewidth=1.2, label=name)
    axes.axhline(1.0, color="k", linestyle="--", linewidth=1, label="budget")
    axes.set_yscale("log")
    axes.set_ylabel("largest share of its budget that an array takes")
    axes.legend(fontsize="small")
