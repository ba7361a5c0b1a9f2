"""How often the intervals that `tune` gives hold, on simulated images or on those that a model held out.

    python -m benchmarks.threshold_intervals [--repetitions 1000] [--images 60 120 250 500] [--epochs 1]
    python -m benchmarks.threshold_intervals --model DIR -f NAME --data FILE [--repetitions 1000]

From a large population of simulated images a sample is drawn, as often as asked, and thresholds are searched
on it. The other images are held out. Printed is the share of the samples whose 95 % intervals hold the
results of the held-out images with these thresholds: the gain over the all-negative baseline, sensitivity and
specificity. "forgetful" is the interval of the gain on the images of the search, which forgets that there was
one. With --model the population is what the model held out, and half of it is the sample.

With --epochs N the simulated network has N epochs, in each of which it is as sure of every image as in the
others but for noise. The epoch with the least cross-entropy on the sample is taken, and thresholds are
searched on the same sample. This shows what the intervals lose because they forget the choice of the epoch.

The held-out images are a sample too, which matters where they are few. So the intervals of means are widened
by the standard error of theirs, and two rates are compared by Newcombe's interval of a difference ("Interval
estimation for the difference between independent proportions", Statistics in Medicine 17, 1998, method 10),
which joins Wilson's intervals of both.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.backend.registry import load_backend
from core.prediction.predictor_process import BeginPrediction
from core.prediction.trained_models import Member, find_members
from core.scoring.histograms import LOWER_ENDS, Histograms
from core.scoring.intervals import QUANTILE, Interval, Proportion
from core.scoring.metrics import Confusion
from core.scoring.operating_points import OperatingPoint
from core.scoring.threshold_search import search_thresholds
from core.tasks.progress import Watcher
from core.tasks.scoring import open_here
from core.tasks.tuning import held_out_histograms
from data.hdf5.store import Store

PIXELS = 64 * 64
"""Number of pixels of a simulated image."""


def population(
    count: int, seed: int = 0, positive: float = 0.22, epoch: int = 0, noise: float = 0.5
) -> Histograms:
    """Return simulated images: their histograms, as a network of middling quality would give them.

    A positive image has a pneumothorax of lognormal area that is found with a certainty of its own; every
    fourth negative image has a suspicious area. Certainties are spread by the logistic distribution. Other
    epochs of the network have other certainties; `noise` is the standard deviation of the differences.
    """
    random, of_epoch = np.random.default_rng(seed), np.random.default_rng([seed, epoch])
    is_positive = random.random(count) < positive
    area = np.clip(np.exp(random.normal(np.log(60), 0.9, count)), 4, 900).round()
    moved = of_epoch.normal(0, noise if epoch else 0, (2, count))
    inside = _levels(np.where(is_positive, area, 0), random.normal(0.8, 1.6, count) + moved[0], 1.2)
    suspicious = np.where(random.random(count) < np.where(is_positive, 0.6, 0.25), area / 2, 0).round()
    outside = _levels(suspicious, random.normal(-0.6, 1.3, count) + moved[1], 1.0)
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
    epochs: Sequence[Histograms], size: int, repetitions: int, point: OperatingPoint | None = None
) -> Coverage:
    """Search on random samples of `size` images and compare the intervals with the other images.

    Of several epochs, the one with the least cross-entropy on the sample is taken.
    """
    results, entropies = [], [_cross_entropy(epoch) for epoch in epochs]
    for number in range(repetitions):
        order = np.random.default_rng([size, number]).permutation(len(epochs[0]))
        everyone = epochs[int(np.argmin([entropy[order[:size]].mean() for entropy in entropies]))]
        sample, held_out = everyone[order[:size]], everyone[order[size:]]
        found = search_thresholds(sample, point)
        if found is None or found.cross_fitted is None:
            continue
        gains = held_out.dice(found.thresholds) - ~held_out.positive
        gain, error = float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(len(gains))
        rates = Confusion.count(held_out.decisions(found.thresholds), held_out.positive)
        own = sample.dice(found.thresholds) - ~sample.positive
        reach = QUANTILE * math.hypot(own.std(ddof=1) / math.sqrt(size), error)
        fitted = found.cross_fitted
        width = math.hypot(fitted.gain_interval.upper - fitted.gain, QUANTILE * error)
        results.append(
            [
                _holds(Interval(fitted.gain - width, fitted.gain + width), gain),
                _holds(Interval(own.mean() - reach, own.mean() + reach), gain),
                _agree(found.confusion.sensitivity, rates.sensitivity),
                _agree(found.confusion.specificity, rates.specificity),
                fitted.gain - gain,
                own.mean() - gain,
            ]
        )
    return Coverage(*np.mean(results, axis=0).tolist())


def _cross_entropy(images: Histograms) -> NDArray[np.float64]:
    """Return the sum over each image's pixels, as far as their levels tell it."""
    ends = np.append(LOWER_ENDS, 1.0).astype(np.float64)
    middle = (ends[:-1] + ends[1:]) / 2
    sums: NDArray[np.float64] = -(
        images.truth @ np.log(middle) + (images.pixels - images.truth) @ np.log(1 - middle)
    )
    return sums


def _holds(interval: Interval, value: float) -> float:
    return float(interval.lower <= value <= interval.upper)


def _agree(one: Proportion, other: Proportion) -> float:
    """Return 1 if the 95 % interval of the difference of two rates holds 0."""
    a, b = (one.share, one.interval), (other.share, other.interval)
    if a[0] is None or b[0] is None or a[1] is None or b[1] is None:
        return 0.0
    (low, low_interval), (high, high_interval) = sorted([a, b], key=lambda pair: pair[0])
    return float(high - low <= math.hypot(low_interval.upper - low, high - high_interval.lower))


def held_out_by(folder: Path, framework: str, data: Path) -> Histograms:
    """Return the histograms of what the model in a folder held out of a data file."""
    implementation = load_backend(framework)[1]

    def open_models(members: Sequence[Member]) -> BeginPrediction:
        return open_here(members, implementation, "cpu")

    with Store.open(data) as store:
        return held_out_histograms(Watcher(), store, find_members([folder]), open_models, 8)


def main() -> None:
    """Print a table for each way of choosing thresholds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--images", type=int, nargs="+", help="sizes of samples")
    parser.add_argument("--epochs", type=int, default=1, metavar="N", help="the best of N simulated epochs")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a model whose held-out images are divided")
    parser.add_argument("-f", "--framework", default="tf", metavar="NAME", help="what predicts with --model")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the data file that it was trained on")
    options = parser.parse_args()
    if (options.model is None) != (options.data is None):
        parser.error("--model and --data go together")
    if options.model is not None and options.epochs != 1:
        parser.error("--epochs are those of simulated images; a model has one checkpoint")
    if options.model is None:
        epochs = [population(10000, epoch=epoch + 1) for epoch in range(options.epochs)]
        sizes = options.images or [60, 120, 250, 500]
    else:
        epochs = [held_out_by(options.model, options.framework, options.data)]
        sizes = options.images or [len(epochs[0]) // 2]
        print(f"{len(epochs[0])} held-out images, {epochs[0].positive.sum()} positive")
    points = (None, OperatingPoint("sensitivity", 0.9), OperatingPoint("specificity", 0.9))
    for point in points:
        print("best Dice" if point is None else str(point))
        print("images  gain  forgetful  sensitivity  specificity  bias     optimism")
        for size in sizes:
            found = coverage(epochs, size, options.repetitions, point)
            print(
                f"{size:6d}  {found.gain:.3f}  {found.forgetful:.3f}    {found.sensitivity:.3f}        "
                f"{found.specificity:.3f}      {found.bias:+.4f}  {found.optimism:+.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
