"""The learning-rate range test: which learning rates make the loss fall.

The network is trained for some updates while the learning rate grows by the same factor from one to the next.
At small rates the loss hardly moves, then it falls, and at large rates it rises until it diverges (Smith,
2017, Cyclical learning rates for training neural networks, section 3.3; on a logarithmic scale, as Howard
and Gugger, 2020, fastai). The loss of each batch is noisy, so it is smoothed: the mean of an update's loss
and those of `NEIGHBOURS` updates on either side. A mean of the updates before alone, as others take it, would
lag behind and show rates that are too large. The test ends early when the mean of the last losses exceeds
`DIVERGED` times the lowest such mean.

A rate of the steepest fall, or a tenth of the rate where the loss is lowest, is a good learning rate to begin
with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NEIGHBOURS, DIVERGED = 4, 4.0
LOWEST_RATE, HIGHEST_RATE, UPDATES = 1e-6, 1.0, 120


@dataclass(frozen=True)
class RateRange:
    """The result of a test; the lists have one number for each update.

    Args:
        rates: The learning rates, ascending.
        losses: The losses before the updates.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> tuple[float, ...]:
        """The smoothed losses."""
        return tuple(
            float(np.mean(self.losses[max(middle - NEIGHBOURS, 0) : middle + NEIGHBOURS + 1]))
            for middle in range(len(self.losses))
        )

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        return self.rates[int(np.argmin(self.smoothed))]

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls most for a rate that grows by a factor; None if never.

        The slopes are those of straight lines through nine neighbours (least squares), up to the lowest loss.
        """
        smoothed = self.smoothed
        end = int(np.argmin(smoothed)) + 1
        logs, losses = np.log(self.rates[:end]), np.array(smoothed[:end])
        slopes = {
            middle: float(np.polyfit(logs[middle - 4 : middle + 5], losses[middle - 4 : middle + 5], 1)[0])
            for middle in range(4, end - 4)
        }
        middle = min(slopes, key=slopes.__getitem__, default=None)
        return None if middle is None or slopes[middle] >= 0 else self.rates[middle]


def find_rates(
    update: Callable[[int, float], float],
    updates: int = UPDATES,
    lowest: float = LOWEST_RATE,
    highest: float = HIGHEST_RATE,
) -> RateRange:
    """Make the test.

    Args:
        update: Makes the update of a number (from 1) at a learning rate; returns the loss before it.
        updates: Number of updates.
        lowest: The first learning rate.
        highest: The last learning rate.
    """
    rates, losses, means = list[float](), list[float](), list[float]()
    for number in range(1, updates + 1):
        rate = lowest * (highest / lowest) ** ((number - 1) / max(updates - 1, 1))
        loss = update(number, rate)
        if not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss)
        means.append(float(np.mean(losses[-NEIGHBOURS:])))
        if means[-1] > DIVERGED * min(means):
            break
    return RateRange(tuple(rates), tuple(losses))


def draw_rates(found: RateRange, suffix: str) -> bytes:
    """Return the plot of a test as a file of the format with this `suffix` (".png", ".svg", ".pdf")."""
    from core.pictures.plotting import Figure, as_file  # imports matplotlib, which training does not need

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(found.rates, found.losses, "0.75", label="loss of the batch")
    axes.semilogx(found.rates, found.smoothed, "C0", label="smoothed")
    if found.steepest is not None:
        axes.axvline(found.steepest, color="C2", linestyle="--", label=f"steepest fall: {found.steepest:.2g}")
    axes.axvline(found.lowest, color="C3", linestyle=":", label=f"lowest: {found.lowest:.2g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.legend()
    return as_file(figure, suffix)
