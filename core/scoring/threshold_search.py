"""Search of the thresholds that maximise the competition's mean Dice on scored images.

All triplets whose `pixel` and `score` are multiples of 1/128 are tried with every area of `AREAS`. The
histograms of `core.scoring.histograms` give their exact Dice.

The best triplet of a small set is often an isolated peak that another set does not have. So the search
maximises the Dice averaged over neighbouring triplets: both probabilities up to `reach` levels away, the area
one step. Among triplets within 0.1 standard error of the best, it takes the one nearest to their centroid.
`reach` is larger the fewer images there are of the rarer class. If the result scores less than the default
thresholds on the images themselves, the defaults are returned.

With the existence head there is a fourth threshold, `existence`, of which 16 are tried. The Dice of each is
that of the best neighbourhood of triplets in multiples of 1/32, if the masks of images below it are empty. By
the same rule, the neighbours one step away count too, and the one nearest to the centroid of those that are
equally good is taken. Then the triplet is searched with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from core.scoring.evaluation_record import Surface
from core.scoring.histograms import AREAS, LEVELS, Histograms, nearest_level
from core.scoring.thresholds import Thresholds, default_thresholds

N = TypeVar("N", np.int64, np.float64)

EXISTENCE_STEPS = 16
"""Number of existence thresholds that are tried, from 0, which no image is below, in steps of 1 / 16."""

_COARSE = 4  # levels between two triplets by which existence thresholds are compared
_SURFACE_STEP = 4  # levels between two rows or columns of a surface
_TOLERANCE = 0.1  # standard errors within which triplets count as equally good
_PARTS = 5  # number of parts for cross-fitting


@dataclass(frozen=True)
class SearchResult:
    """The thresholds that a search found, with scores.

    Args:
        thresholds: The thresholds.
        dice: Mean Dice with them on the images of the search.
        dice_default: Mean Dice with the default thresholds.
        dice_cross_fitted: Estimate of the mean Dice on other images: each fifth of the images is scored with
            the thresholds found on the other four fifths; None with fewer than five positive images.
        dice_all_empty: Mean Dice of empty masks, the all-negative baseline.
        images: Number of images.
        positives: Number of positive images.
        reach: Size of the neighbourhood in levels: see the module.
    """

    thresholds: Thresholds
    dice: float
    dice_default: float
    dice_cross_fitted: float | None
    dice_all_empty: float
    images: int
    positives: int
    reach: int


def search_thresholds(images: Histograms) -> SearchResult | None:
    """Search the best thresholds for some images; None if no image is positive."""
    if not images.positive.any():
        return None
    parts = _divided(images)
    others = []
    if all(part.positive.any() for part in parts):
        others = [
            _concatenated([part for other, part in enumerate(parts) if other != number])
            for number in range(_PARTS)
        ]
    chosen = _existences(images, parts, others)
    tables = {existence: _tables(parts, existence) for existence in set(chosen)}
    found = _best_thresholds(images, np.sum(tables[chosen[0]], axis=0), chosen[0])
    return SearchResult(
        thresholds=found,
        dice=float(images.dice(found).mean()),
        dice_default=float(images.dice(default_thresholds(head=images.head is not None)).mean()),
        dice_cross_fitted=_cross_fitted(parts, others, tables, chosen[1:]),
        dice_all_empty=float(1 - images.positive.mean()),
        images=len(images),
        positives=int(np.count_nonzero(images.positive)),
        reach=_reach(images),
    )


def surfaces(images: Histograms, thresholds: Thresholds) -> tuple[Surface, Surface]:
    """Return the mean Dice over score and pixel (area fixed), and over area and score (pixel fixed)."""
    images = images.at(thresholds.existence)
    shown = np.arange(_SURFACE_STEP, LEVELS, _SURFACE_STEP)
    values = tuple((shown / LEVELS).tolist())
    pixel = nearest_level(thresholds.pixel)
    over_pixel = images.dice_sums(thresholds.area)[np.ix_(shown, shown)] / len(images)
    over_area = np.stack([images.dice_sums(area)[shown, pixel] for area in AREAS]) / len(images)
    return (
        Surface("area", thresholds.area, "score", "pixel", values, values, _with_none(over_pixel)),
        Surface("pixel", pixel / LEVELS, "area", "score", AREAS, values, _with_none(over_area)),
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


def _cross_fitted(
    parts: Sequence[Histograms],
    others: Sequence[Histograms],
    tables: Mapping[float | None, Tables],
    existences: Sequence[float | None],
) -> float | None:
    """Return the mean Dice when each part is scored with the thresholds found on the other parts.

    None if there are no `others`, with too few positives. No image influences its own thresholds, so the mean
    estimates the Dice on new images.
    """
    if not others:
        return None
    total = 0.0
    for number, (inside, outside) in enumerate(zip(parts, others, strict=True)):
        table = tables[existences[number]]
        sums = np.sum(table, axis=0) - table[number]
        total += float(inside.dice(_best_thresholds(outside, sums, existences[number])).sum())
    return total / sum(map(len, parts))


def _concatenated(parts: Sequence[Histograms]) -> Histograms:
    heads = [part.head for part in parts if part.head is not None]
    return Histograms(
        np.concatenate([p.pixels for p in parts]),
        np.concatenate([p.truth for p in parts]),
        np.concatenate(heads) if heads else None,
    )


def _best_thresholds(
    images: Histograms, sums: NDArray[np.float64], existence: float | None = None
) -> Thresholds:
    """Return the thresholds with the best neighbourhood, or the defaults if those score more.

    Args:
        images: The images.
        sums: (areas, 128, 128) the images' `dice_sums` for each area, with the existence threshold.
        existence: The existence threshold; None without the existence head.
    """
    smooth = _neighbourhoods(sums / len(images), _reach(images))
    area, score, pixel = (int(place) for place in np.unravel_index(np.nanargmax(smooth), smooth.shape))
    spread = images.dice(Thresholds(pixel / LEVELS, AREAS[area], score / LEVELS, existence)).std()
    tolerance = _TOLERANCE * float(spread) / math.sqrt(len(images)) + 1e-9
    candidates = np.argwhere(smooth >= smooth[area, score, pixel] - tolerance)
    scale = np.array([len(AREAS), LEVELS, LEVELS])
    distance = np.square((candidates - candidates.mean(axis=0)) / scale).sum(axis=1)
    area, score, pixel = candidates[np.argmin(distance)].tolist()
    found = Thresholds(pixel / LEVELS, AREAS[area], score / LEVELS, existence)
    default = default_thresholds(head=existence is not None)
    return found if images.dice(found).mean() >= images.dice(default).mean() else default


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
