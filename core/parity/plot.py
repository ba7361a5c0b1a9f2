"""Plot a certificate: loss curves at the top, distances and their budgets below.

A run that goes from backend to backend has the colour of its first one, and a line that is not solid.
"""

from __future__ import annotations

import math
from typing import Any

from core.parity.certificate import Certificate
from core.parity.measures import KINDS
from core.pictures.plotting import Axes, Figure, as_file

_LINES = ("--", "-.", ":", (0, (1, 3)))


def draw(certificate: Certificate, suffix: str) -> bytes:
    """Return the plot as a file of the format with this `suffix` (".png", ".svg", ".pdf")."""
    figure = Figure(figsize=(10, 10), layout="constrained")
    losses, distances, shares = figure.subplots(3, 1, sharex=True)
    steps = list(range(1, certificate.steps + 1))
    losses.plot(steps, certificate.base_losses, "0.75", label=certificate.base, linewidth=4)
    styles = _styles(certificate)
    for name, series in certificate.runs.items():
        losses.plot(steps[-len(series.losses) :], series.losses, **styles[name], label=name)
    losses.set_ylabel("loss")
    losses.set_title(f"{certificate.precision}, {certificate.steps} steps, compared with {certificate.base}")
    _draw_losses(distances, certificate, steps)
    _draw_shares(shares, certificate, steps)
    shares.set_xlabel("step")
    figure.legend(*losses.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return as_file(figure, suffix)


def _styles(certificate: Certificate) -> dict[str, dict[str, Any]]:
    """Return the colour and the line of each run."""
    first = {name: name.split(" > ")[0] for name in certificate.runs}
    colours = {giver: f"C{number}" for number, giver in enumerate(dict.fromkeys(first.values()))}
    styles: dict[str, dict[str, Any]] = {}
    for name, giver in first.items():
        relays = sum(1 for other in styles if other != first[other] == giver)
        line = "-" if name == giver else _LINES[relays % len(_LINES)]
        styles[name] = {
            "color": colours[giver],
            "linestyle": line,
            "linewidth": 1.2 if name == giver else 0.8,
        }
    return styles


def _draw_losses(axes: Axes, certificate: Certificate, steps: list[int]) -> None:
    """Plot the distances of the loss, and its budget, which is the same for all runs."""
    styles = _styles(certificate)
    for name, series in certificate.runs.items():
        # Identical results have distance 0, whose logarithm is undefined; they become gaps.
        values = [value or math.nan for value in series.distances["loss"]]
        axes.plot(steps[len(steps) - len(values) :], values, **styles[name])
    longest = max(certificate.runs.values(), key=lambda series: len(series.losses))
    axes.plot(steps, longest.budgets["loss"], "k--", linewidth=1)
    axes.set_yscale("log")
    axes.set_ylabel("relative distance of the loss\n(dashed: the budget)")


def _draw_shares(axes: Axes, certificate: Certificate, steps: list[int]) -> None:
    """Plot, for each run, the largest share of its budget that any array takes."""
    styles = _styles(certificate)
    for name, series in certificate.runs.items():
        shares = [max(of_kinds) for of_kinds in zip(*map(series.shares, KINDS), strict=True)]
        values = [value or math.nan for value in shares]
        axes.plot(steps[len(steps) - len(values) :], values, **styles[name])
    axes.axhline(1.0, color="k", linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.set_ylabel("largest share of its budget\nthat an array takes")
