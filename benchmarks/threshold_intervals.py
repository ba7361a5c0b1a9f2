"""How often the intervals that `tune` gives hold, on simulated images.

    python -m benchmarks.threshold_intervals [--repetitions 1000] [--images 60 120 250 500]

From a large population of simulated images a sample is drawn, as often as asked, and thresholds are searched
on it. The other images are held out. Printed is the share of the samples whose 95 % intervals hold the
results of the held-out images with these thresholds: the gain over the all-negative baseline, sensitivity and
specificity. "forgetful" is the interval of the gain on the images of the search, which forgets that there was
one.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.scoring.histograms import LOWER_ENDS, Histograms
from core.scoring.intervals import QUANTILE, Interval
from core.scoring.metrics import Confusion
from core.scoring.operating_points import OperatingPoint
from core.scoring.threshold_search import search_thresholds

PIXELS = 64 * 64
"""Number of pixels of a simulated image."""


def population(count: int, seed: int = 0, positive: float = 0.22) -> Histograms:
    """Return simulated images: their histograms, as a network of middling quality would give them.

    A positive image has a pneumothorax of lognormal area that is found with a certainty of its own; every
    fourth negative image has a suspicious area. Certainties are spread by the logistic distribution.
    """
    random = np.random.default_rng(seed)
    is_positive = random.random(count) < positive
    area = np.clip(np.exp(random.normal(np.log(60), 0.9, count)), 4, 900).round()
    inside = _levels(np.where(is_positive, area, 0), random.normal(0.8, 1.6, count), 1.2)
    suspicious = np.where(random.random(count) < np.where(is_positive, 0.6, 0.25), area / 2, 0).round()
    outside = _levels(suspicious, random.normal(-0.6, 1.3, count), 1.0)
    rest = PIXELS - inside.sum(axis=1) - outside.sum(axis=1)
    background = _levels(rest.astype(np.float64), random.normal(-8, 0.8, count), 0.7)
    return Histograms(inside + outside + background, inside)


def _levels(pixels: NDArray[np.float64], centre: NDArray[np.float64], spread: float) -> NDArray[np.int64]:
    """Return (n, 128) histograms with these numbers of pixels, whose logits are logistic around `centre`."""
    edges = LOWER_ENDS[1:].astype(np.float64)
    logits = np.log(edges / (1 - edges))
    below = 1 / (1 + np.exp(-(logits - centre[:, np.newaxis]) / spread))
    ends = np.round(pixels[:, np.newaxis] * np.pad(below, ((0, 0), (1, 1)), constant_values=(0, 1)))
    return np.diff(ends, axis=1).astype(np.int64)


class Coverage(NamedTuple):
    """The results of some repetitions.

    Attributes:
        gain: Share of them in which the interval of the gain holds that of the held-out images.
        forgetful: The same of the interval of the images of the search, which forgets the search.
        sensitivity: Share in which Wilson's interval holds the sensitivity of the held-out images.
        specificity: The same of the specificity.
        bias: Mean of the cross-fitted gain minus the gain of the held-out images.
        optimism: Mean of the gain on the images of the search minus the gain of the held-out images.
    """

    gain: float
    forgetful: float
    sensitivity: float
    specificity: float
    bias: float
    optimism: float


def coverage(
    everyone: Histograms, size: int, repetitions: int, point: OperatingPoint | None = None
) -> Coverage:
    """Search on random samples of `size` images and compare the intervals with the other images."""
    results = []
    for number in range(repetitions):
        order = np.random.default_rng([size, number]).permutation(len(everyone))
        sample, held_out = everyone[order[:size]], everyone[order[size:]]
        found = search_thresholds(sample, point)
        if found is None or found.cross_fitted is None:
            continue
        gain = float((held_out.dice(found.thresholds) - ~held_out.positive).mean())
        rates = Confusion.count(held_out.decisions(found.thresholds), held_out.positive)
        own = sample.dice(found.thresholds) - ~sample.positive
        reach = QUANTILE * own.std(ddof=1) / math.sqrt(size)
        results.append(
            [
                _holds(found.cross_fitted.gain_interval, gain),
                _holds(Interval(own.mean() - reach, own.mean() + reach), gain),
                _holds(found.confusion.sensitivity.interval, rates.sensitivity.share),
                _holds(found.confusion.specificity.interval, rates.specificity.share),
                found.cross_fitted.gain - gain,
                own.mean() - gain,
            ]
        )
    return Coverage(*np.mean(results, axis=0).tolist())


def _holds(interval: Interval | None, value: float | None) -> float:
    return float(interval is not None and value is not None and interval.lower <= value <= interval.upper)


def main() -> None:
    """Print a table for each way of choosing thresholds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--images", type=int, nargs="+", default=[60, 120, 250, 500])
    options = parser.parse_args()
    everyone = population(10000)
    points = (None, OperatingPoint("sensitivity", 0.9), OperatingPoint("specificity", 0.9))
    for point in points:
        print("best Dice" if point is None else str(point))
        print("images  gain  forgetful  sensitivity  specificity  bias     optimism")
        for size in options.images:
            found = coverage(everyone, size, options.repetitions, point)
            print(
                f"{size:6d}  {found.gain:.3f}  {found.forgetful:.3f}    {found.sensitivity:.3f}        "
                f"{found.specificity:.3f}      {found.bias:+.4f}  {found.optimism:+.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
