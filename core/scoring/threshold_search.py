"""Search of the thresholds that maximise the competition's mean Dice on scored images.

All triplets whose `pixel` and `score` are in `LOWER_ENDS` are tried with every area of `AREAS`. These are 127
probabilities at equal distances in the logit. The histograms of `core.scoring.histograms` give their exact
Dice.

The best triplet of a small set is often an isolated peak that another set does not have. So the search
maximises the Dice averaged over neighbouring triplets: both probabilities up to `reach` levels away, the area
one step. Among triplets within 0.1 standard error of the best, it takes the one nearest to their centroid.
`reach` is larger the fewer images there are of the rarer class. If the result scores less than the default
thresholds on the images themselves, the defaults are returned.

With the existence head there is a fourth threshold, `existence`, of which 16 are tried. The Dice of each is
that of the best neighbourhood among every fourth level, if the masks of images below it are empty. By
the same rule, the neighbours one step away count too, and the one nearest to the centroid of those that are
equally good is taken. Then the triplet is searched with it.

An operating point (`core.scoring.operating_points`) leaves some areas and image thresholds, and an existence
threshold. Among these triplets the search is the same, and the defaults are no choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.scoring.evaluation_record import Surface
from core.scoring.histograms import AREAS, LEVELS, Histograms, nearest_level, threshold_at
from core.scoring.intervals import QUANTILE, Interval
from core.scoring.metrics import Confusion
from core.scoring.operating_points import OperatingPoint, admissible
from core.scoring.thresholds import Thresholds, default_thresholds

EXISTENCE_STEPS = 16
"""Number of existence thresholds that are tried, from 0, which no image is below, in steps of 1 / 16."""

_COARSE = 4  # levels between two triplets by which existence thresholds are compared
_SURFACE_STEP = 4  # levels between two rows or columns of a surface
_TOLERANCE = 0.1  # standard errors within which triplets count as equally good
_PARTS = 5  # number of parts for cross-fitting

# Agresti and Min (2005) for differences of paired proportions: two images are added, of which half a one
# gains 1 and half a one loses 1. Otherwise the interval would have no width if no image is found.
_ADDED_IMAGES, _ADDED_SQUARES = 2, 1.0


@dataclass(frozen=True)
class CrossFitted:
    """Estimates for new images: each fifth is scored with the thresholds found on the other four fifths.

    No image influences its own thresholds, so the scores are free of the luck of the search. The interval has
    two parts. The first is the standard error of the mean of these scores over images (Bayle et al.,
    "Cross-validation confidence intervals for test error", NeurIPS 2020), with the correction of Agresti and
    Min ("Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24,
    2005) for few differences. It is for the mean of the five thresholds. Those found on all images differ
    from that by about as much as the five among themselves, so the standard deviation of the five mean scores
    on all images is the second. benchmarks/threshold_intervals measures how often the interval holds.

    Args:
        dice: Mean Dice.
        gain: Mean difference from the Dice of empty masks, the all-negative baseline, image by image.
        gain_interval: Its 95 % interval.
    """

    dice: float
    gain: float
    gain_interval: Interval


@dataclass(frozen=True)
class SearchResult:
    """The thresholds that a search found, with scores.

    Args:
        thresholds: The thresholds.
        dice: Mean Dice with them on the images of the search.
        dice_default: Mean Dice with the default thresholds.
        dice_all_empty: Mean Dice of empty masks, the all-negative baseline.
        confusion: Numbers of these images by prediction and truth.
        cross_fitted: Estimates for other images; None with fewer than five positive images, and if the
            operating point cannot be reached without one of the fifths.
        point: The operating point; None if the thresholds were to have the best Dice.
        images: Number of images.
        positives: Number of positive images.
        reach: Size of the neighbourhood in levels: see the module.
    """

    thresholds: Thresholds
    dice: float
    dice_default: float
    dice_all_empty: float
    confusion: Confusion
    cross_fitted: CrossFitted | None
    point: OperatingPoint | None
    images: int
    positives: int
    reach: int

    @property
    def dice_cross_fitted(self) -> float | None:
        """The cross-fitted mean Dice; None without cross-fitting."""
        return None if self.cross_fitted is None else self.cross_fitted.dice


def search_thresholds(images: Histograms, point: OperatingPoint | None = None) -> SearchResult | None:
    """Search the best thresholds for some images.

    Args:
        images: The images.
        point: An operating point that the thresholds must reach; None for the best Dice.

    Returns:
        The result; None if no image is positive, or no thresholds reach the operating point.
    """
    if not images.positive.any():
        return None
    parts = _divided(images)
    others = []
    if all(part.positive.any() for part in parts):
        others = [
            _concatenated([part for other, part in enumerate(parts) if other != number])
            for number in range(_PARTS)
        ]
    chosen: Sequence[Thresholds | None]
    if point is None:
        chosen = _with_best_dice(images, parts, others)
    else:
        chosen = [_at_point(some, point) for some in (images, *others)]
    found, *of_others = chosen
    if found is None:
        return None
    return SearchResult(
        thresholds=found,
        dice=float(images.dice(found).mean()),
        dice_default=float(images.dice(default_thresholds(head=images.head is not None)).mean()),
        dice_all_empty=float(1 - images.positive.mean()),
        confusion=Confusion.count(images.decisions(found), images.positive),
        cross_fitted=_cross_fitted(parts, of_others),
        point=point,
        images=len(images),
        positives=int(np.count_nonzero(images.positive)),
        reach=_reach(images),
    )


def surfaces(images: Histograms, thresholds: Thresholds) -> tuple[Surface, Surface]:
    """Return the mean Dice over score and pixel (area fixed), and over area and score (pixel fixed)."""
    images = images.at(thresholds.existence)
    shown = np.arange(_SURFACE_STEP, LEVELS, _SURFACE_STEP)
    values = tuple(map(threshold_at, shown.tolist()))
    pixel = nearest_level(thresholds.pixel)
    over_pixel = images.dice_sums(thresholds.area)[np.ix_(shown, shown)] / len(images)
    over_area = np.stack([images.dice_sums(area)[shown, pixel] for area in AREAS]) / len(images)
    return (
        Surface("area", thresholds.area, "score", "pixel", values, values, _with_none(over_pixel)),
        Surface("pixel", threshold_at(pixel), "area", "score", AREAS, values, _with_none(over_area)),
    )


def _divided(images: Histograms) -> list[Histograms]:
    """Divide the images into five parts; positive and negative images are distributed in turn."""
    part = np.empty(len(images), dtype=np.int64)
    for label in (True, False):
        members = np.flatnonzero(images.positive == label)
        part[members] = np.arange(len(members)) % _PARTS
    return [images[np.flatnonzero(part == number)] for number in range(_PARTS)]


Tables = list[NDArray[np.float64]]
"""For each part of the images, its `dice_sums` for each area, (areas, 128, 128)."""


def _tables(parts: Sequence[Histograms], existence: float | None) -> Tables:
    return [np.stack([part.at(existence).dice_sums(area) for area in AREAS]) for part in parts]


def _existences(
    images: Histograms, parts: Sequence[Histograms], others: Sequence[Histograms]
) -> list[float | None]:
    """Return the best existence threshold for all images, then those for each of `others`.

    It is None without the existence head.

    Args:
        images: All images.
        parts: The parts that they are divided into.
        others: The images outside each part; or nothing, if they are not asked for.
    """
    sets = [images, *others]
    if images.head is None:
        return [None] * len(sets)
    steps = [number / EXISTENCE_STEPS for number in range(EXISTENCE_STEPS)]
    best = np.zeros((len(sets), len(steps)))
    for number, step in enumerate(steps):
        if number and not ((images.head >= steps[number - 1]) & (images.head < step)).any():
            best[:, number] = best[:, number - 1]  # the same images are below it
            continue
        tables = _tables(parts, step)
        whole = np.sum(tables, axis=0)
        sums = [whole, *(whole - table for table in tables)]
        for place, (some, of_some) in enumerate(zip(sets, sums, strict=False)):
            coarse, reach = of_some[:, ::_COARSE, ::_COARSE], max(round(_reach(some) / _COARSE), 1)
            best[place, number] = np.nanmax(_neighbourhoods(coarse / len(some), reach))
    return [steps[_middle_of_the_best(some, row)] for some, row in zip(sets, best, strict=True)]


def _middle_of_the_best(images: Histograms, dice: NDArray[np.float64]) -> int:
    """Return the step that is nearest to the centroid of those that are as good as the best one."""
    ones = _window_sums(np.ones_like(dice), 0, 1)
    smooth = _window_sums(dice, 0, 1) / ones
    spread = images.dice(default_thresholds(head=True)).std()
    tolerance = _TOLERANCE * float(spread) / math.sqrt(len(images)) + 1e-9
    candidates = np.flatnonzero(smooth >= smooth.max() - tolerance)
    return int(candidates[np.argmin(np.abs(candidates - candidates.mean()))])


def _with_best_dice(
    images: Histograms, parts: Sequence[Histograms], others: Sequence[Histograms]
) -> list[Thresholds]:
    """Return the best thresholds for all images, then those for each of `others`; see `_existences`."""
    existences = _existences(images, parts, others)
    tables = {existence: _tables(parts, existence) for existence in set(existences)}
    sums = [np.sum(tables[existences[0]], axis=0)]
    for number, existence in enumerate(existences[1:]):
        sums.append(np.sum(tables[existence], axis=0) - tables[existence][number])
    sets = zip((images, *others), sums, existences, strict=True)
    return [_best_thresholds(some, of_some, existence) for some, of_some, existence in sets]


def _at_point(images: Histograms, point: OperatingPoint) -> Thresholds | None:
    """Return the thresholds with the best Dice at an operating point; None if it cannot be reached."""
    found = admissible(images, point)
    if found is None:
        return None
    (sums,) = _tables([images], found.existence)
    return _best_thresholds(images, sums, found.existence, found.triplets)


def _cross_fitted(parts: Sequence[Histograms], thresholds: Sequence[Thresholds | None]) -> CrossFitted | None:
    """Score each part with the thresholds found on the other parts; None if there are not all of these."""
    known = [one for one in thresholds if one is not None]
    if len(known) < _PARTS:
        return None
    dice = np.concatenate([part.dice(found) for part, found in zip(parts, known, strict=True)])
    gain = dice - ~np.concatenate([part.positive for part in parts])
    on_all = [sum(float(part.dice(found).sum()) for part in parts) / len(dice) for found in known]
    middle, count = float(gain.mean()), len(gain) + _ADDED_IMAGES
    spread = (np.square(gain - middle).sum() + _ADDED_SQUARES) / (count - 1)
    error = math.sqrt(spread / count + np.var(on_all, ddof=1))
    reach = QUANTILE * error
    return CrossFitted(float(dice.mean()), middle, Interval(middle - reach, middle + reach))


def _concatenated(parts: Sequence[Histograms]) -> Histograms:
    heads = [part.head for part in parts if part.head is not None]
    return Histograms(
        np.concatenate([p.pixels for p in parts]),
        np.concatenate([p.truth for p in parts]),
        np.concatenate(heads) if heads else None,
    )


def _best_thresholds(
    images: Histograms,
    sums: NDArray[np.float64],
    existence: float | None = None,
    triplets: NDArray[np.bool_] | None = None,
) -> Thresholds:
    """Return the thresholds with the best neighbourhood, or the defaults if those score more.

    Args:
        images: The images.
        sums: (areas, 128, 128) the images' `dice_sums` for each area, with the existence threshold.
        existence: The existence threshold; None without the existence head.
        triplets: (areas, 128) bool, the areas and image thresholds of an operating point, which exclude the
            others and the defaults; None allows all.
    """
    smooth = _neighbourhoods(sums / len(images), _reach(images))
    if triplets is not None:
        smooth[~triplets] = np.nan
    area, score, pixel = (int(place) for place in np.unravel_index(np.nanargmax(smooth), smooth.shape))
    spread = images.dice(_thresholds(pixel, area, score, existence)).std()
    tolerance = _TOLERANCE * float(spread) / math.sqrt(len(images)) + 1e-9
    candidates = np.argwhere(smooth >= smooth[area, score, pixel] - tolerance)
    scale = np.array([len(AREAS), LEVELS, LEVELS])
    distance = np.square((candidates - candidates.mean(axis=0)) / scale).sum(axis=1)
    area, score, pixel = candidates[np.argmin(distance)].tolist()
    found = _thresholds(pixel, area, score, existence)
    if triplets is not None:
        return found
    default = default_thresholds(head=existence is not None)
    return found if images.dice(found).mean() >= images.dice(default).mean() else default


def _thresholds(pixel: int, area: int, score: int, existence: float | None) -> Thresholds:
    """Return thresholds from two levels and the place of an area in `AREAS`."""
    return Thresholds(threshold_at(pixel), AREAS[area], threshold_at(score), existence)


def _reach(images: Histograms) -> int:
    """Return how many levels away a neighbour may be: from 1 (thousands of images of each class) to 8."""
    positives = int(np.count_nonzero(images.positive))
    rarer = max(min(positives, len(images) - positives), 1)
    return min(max(round(LEVELS / math.sqrt(rarer)), 1), 8)


def _neighbourhoods(means: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Return the mean over the neighbours of each triplet, (areas, score, pixel), without NaN entries."""
    valid = ~np.isnan(means[:1])
    count = _window_sums(_window_sums(valid.astype(np.float64), 1, reach), 2, reach)
    total = np.where(valid, means, 0.0)
    for axis, width in ((0, 1), (1, reach), (2, reach)):
        total = _window_sums(total, axis, width)
    areas = _window_sums(np.ones((len(means), 1, 1)), 0, 1)
    return np.where(valid, total / (areas * np.maximum(count, 1)), np.nan)


def _window_sums(values: NDArray[np.float64], axis: int, width: int) -> NDArray[np.float64]:
    """Return sums over windows of `width` places to either side, cut off at the ends."""
    sums = np.moveaxis(np.cumsum(values, axis=axis), axis, 0)
    ends = np.arange(len(sums)) + width
    windows = sums[np.minimum(ends, len(sums) - 1)]
    windows[width + 1 :] -= sums[: -width - 1]
    return np.moveaxis(windows, 0, axis)


def _with_none(dice: NDArray[np.float64]) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(None if math.isnan(value) else value for value in row) for row in dice.tolist())
