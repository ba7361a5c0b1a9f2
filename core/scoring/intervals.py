"""95 % confidence intervals: shares (Wilson), means over images (bootstrap), AUROC (DeLong).

All describe how far a score may be from that of all images of the same kind, if the scored images are a
random sample of them. They say nothing about images of another kind. None stands for "no interval".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.randomness import words

QUANTILE = 1.959963984540054
"""Quantile of the standard normal distribution, two-sided 95 %."""

RESAMPLES = 2000
"""Number of bootstrap resamples."""

_TAILS = (0.025, 0.975)
_BLOCK = 1 << 20  # images that are drawn at once
_HALF_WORD = 32


class Interval(NamedTuple):
    """A 95 % confidence interval, ends included."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Proportion:
    """A share of some images.

    Args:
        successes: Number of images that have the property.
        count: Number of images.
    """

    successes: int
    count: int

    @property
    def share(self) -> float | None:
        """Successes / count; None without images."""
        return self.successes / self.count if self.count else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's interval of the share; None without images.

        Its ends are the shares p from which the observed one, s, is 1.96 standard deviations away:
        |s - p| = z * sqrt(p * (1 - p) / n) (Wilson, JASA 22, 1927), so they are

            (s + z²/(2n) -+ z * sqrt(s * (1 - s) / n + z²/(4n²))) / (1 + z²/n)

        It is valid for few images and near 0 and 1 (Newcombe, Statistics in Medicine 17, 1998).
        """
        if not self.count:
            return None
        share, n, z = self.successes / self.count, self.count, QUANTILE
        centre = share + z * z / (2 * n)
        reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        lower = 0.0 if self.successes == 0 else (centre - reach) / scale
        upper = 1.0 if self.successes == n else (centre + reach) / scale
        return Interval(lower, upper)

    def as_json(self) -> dict[str, float | int | list[float] | None]:
        """Return share ("value"), its interval and the number of images ("images")."""
        interval = self.interval
        return {
            "value": self.share,
            "interval": None if interval is None else list(interval),
            "images": self.count,
        }


def resampled_sums(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Return the sums of the values of images over bootstrap resamples.

    A resample has n images, drawn with replacement. The draw depends on `seed` and n alone, so scores of the
    same images are resampled together.

    Args:
        values: (n, k) k values of each image.
        seed: The seed.

    Returns:
        (2000, k).
    """
    count = len(values)
    rows = max(_BLOCK // max(count, 1), 1)
    sums = []
    for first in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - first) * count
        # Half a word times n, over 2**32: uniform to within n / 2**32.
        drawn = words(seed, "bootstrap", count, count=-(-size // 2), start=-(-first * count // 2))
        halves = np.stack([drawn >> np.uint64(_HALF_WORD), drawn & np.uint64(2**_HALF_WORD - 1)], axis=1)
        chosen = (halves.ravel()[:size] * np.uint64(count)) >> np.uint64(_HALF_WORD)
        sums.append(values[chosen.astype(np.intp)].reshape(-1, count, values.shape[1]).sum(axis=1))
    return np.concatenate(sums)


def mean_interval(values: NDArray[np.float64], chosen: NDArray[np.bool_] | None = None) -> Interval | None:
    """Return the percentile bootstrap interval of a mean over images (Efron and Tibshirani, 1993, 13.3).

    Args:
        values: (n,) a value of each image.
        chosen: (n,) bool, the images over which the mean is taken; all images are resampled, so their number
            varies as it would in another sample. None takes the mean over all.

    Returns:
        The interval; None if all images that the mean is taken over have one value, as their resamples have:
        they do not tell how much others vary.
    """
    taken = np.ones(len(values)) if chosen is None else chosen.astype(np.float64)
    if len(np.unique(values[taken > 0])) < 2:
        return None
    total, count = resampled_sums(np.stack([values * taken, taken], axis=1)).T
    drawn = count > 0
    lower, upper = np.quantile(total[drawn] / count[drawn], _TAILS).tolist()
    return Interval(lower, upper)


def auroc_interval(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Interval | None:
    """Return DeLong's interval of the AUROC, on the logit scale.

    The variance of the AUROC is that of the images' mean placements (DeLong, DeLong and Clarke-Pearson,
    Biometrics 44, 1988), counted by ranks, so the time is that of sorting. Computed for the logit of the
    AUROC (delta method), the interval stays inside (0, 1) and is not symmetric, as the distribution near 1
    is not (Pepe, The statistical evaluation of medical tests, 2003, 5.2.4). DeLong's variance is exact in its
    formula and needs no resampling, which near 1 gives intervals that are too short.

    Args:
        scores: (n,) scores; higher means more likely positive.
        positive: (n,) bool, the truth.

    Returns:
        The interval; None with fewer than two images of a kind, and for an AUROC of 0 or 1, whose estimated
        variance is 0.
    """
    ill, healthy = np.sort(scores[positive]), np.sort(scores[~positive])
    if min(len(ill), len(healthy)) < 2:
        return None
    of_ill = _shares_below(ill, healthy)
    of_healthy = 1 - _shares_below(healthy, ill)
    area = float(of_ill.mean())
    variance = float(of_ill.var(ddof=1) / len(ill) + of_healthy.var(ddof=1) / len(healthy))
    if not 0 < area < 1 or variance == 0:
        return None
    logit, reach = math.log(area / (1 - area)), QUANTILE * math.sqrt(variance) / (area * (1 - area))
    return Interval(1 / (1 + math.exp(reach - logit)), 1 / (1 + math.exp(-reach - logit)))


def _shares_below(of: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each number the share of the (sorted) others below it; equal ones count half."""
    below, not_above = (np.searchsorted(others, of, side) for side in ("left", "right"))
    shares: NDArray[np.float64] = (below + not_above) / (2 * len(others))
    return shares
