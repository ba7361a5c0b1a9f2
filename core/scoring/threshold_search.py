"""The search of the triplet of thresholds on scored images, in seconds.

Promises: of an image only two histograms of its probabilities are kept (over all pixels at the original
size, and over those of the true mask), 128 levels each, and from them the Dice of every triplet whose
`pixel` and `score` are multiples of 1/128 follows exactly: no map is needed again, and an image takes a few
KiB. All such triplets are tried with every area of `AREAS`. What is sought is the competition's mean Dice.

Against chance: the best triplet of a small set is often a lone peak, which another set does not have. So
what is maximised is the mean Dice over the neighbours of a triplet (both probabilities up to `reach` levels
away, areas one step), and of triplets that cannot be told apart (within a tenth of the standard error of the
mean) the one nearest to the middle of them all is taken: the middle of a plateau wins, not the edge of a
cliff. `reach` is wider the fewer images there are of the rarer kind. A triplet that scores less than the
defaults on the images themselves is not taken.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from core.scoring.evaluation_record import Surface
from core.scoring.metrics import dice_of_counts
from core.scoring.thresholds import AREA_SIZE, Thresholds

N = TypeVar("N", np.int64, np.float64)

LEVELS = 128
"""Of probability: level k is [k / 128, (k + 1) / 128), and the last one includes 1."""

AREAS = (
    *(0, 50, 100, 150, 200, 300, 400, 500, 750, 1000, 1250, 1500, 1750, 2000),
    *(2500, 3000, 4000, 5000, 6000, 8000, 10000, 12000, 16000),
)
"""What is tried, in pixels of a 1024x1024 image; the competition's winners used 1000 and 2000."""

_SHOWN = 4  # levels between two lines of a surface
_ALIKE = 0.1  # of a standard error
_PARTS = 5  # of the images, for cross-fitting


@dataclass(frozen=True)
class Histograms:
    """What is kept of some images.

    Args:
        pixels: (n, 128) int64, pixels of each level.
        truth: (n, 128) int64, those of them that belong to the true mask.
    """

    pixels: NDArray[np.int64]
    truth: NDArray[np.int64]

    def __len__(self) -> int:
        """Images."""
        return len(self.pixels)

    def __getitem__(self, chosen: NDArray[np.int64]) -> Histograms:
        """Some of the images, (k,) indices."""
        return Histograms(self.pixels[chosen], self.truth[chosen])

    @functools.cached_property
    def positive(self) -> NDArray[np.bool_]:
        """(n,) whether the true mask is not empty."""
        return np.asarray(self.truth.any(axis=1))

    @functools.cached_property
    def above(self) -> NDArray[np.int64]:
        """(n, 128) pixels of at least each level."""
        return _from_above(self.pixels)

    @functools.cached_property
    def gain(self) -> NDArray[np.float64]:
        """(n, 128) how much Dice a mask from each level on has over an empty one."""
        dice = dice_of_counts(_from_above(self.truth), self.above, self.truth.sum(axis=1, keepdims=True))
        gain: NDArray[np.float64] = dice - ~self.positive[:, np.newaxis]
        return gain

    def existence(self, area: float) -> NDArray[np.int64]:
        """(n,) the level of each image's existence score for an area."""
        size = self.above[:, :1]
        least = np.minimum(np.maximum(np.ceil(area * size / AREA_SIZE**2), 1), size)
        levels: NDArray[np.int64] = np.count_nonzero(self.above >= least, axis=1) - 1
        return levels

    def dice(self, thresholds: Thresholds) -> NDArray[np.float64]:
        """(n,) Dice of each image, at the levels nearest to `pixel` and `score`."""
        pixel, score = nearest_level(thresholds.pixel), nearest_level(thresholds.score)
        found = self.existence(thresholds.area) >= score
        of_nothing = np.where(self.positive, 0.0, 1.0)
        dice: NDArray[np.float64] = of_nothing + np.where(found, self.gain[:, pixel], 0.0)
        return dice

    def dice_sums(self, area: float) -> NDArray[np.float64]:
        """Sum of Dice for all pairs of levels, (128, 128): [score, pixel]; NaN where it is no pair.

        Only images whose existence score reaches `score` gain, so the images are added up by the level of
        that score, and the levels then from above.
        """
        existence = self.existence(area)
        order = np.argsort(existence, kind="stable")
        levels, starts = np.unique(existence[order], return_index=True)
        gained = np.zeros((LEVELS, LEVELS))
        if len(self):
            gained[levels] = np.add.reduceat(self.gain[order], starts, axis=0)
        sums: NDArray[np.float64] = np.count_nonzero(~self.positive) + _from_above(gained, axis=0)
        sums[np.triu_indices(LEVELS, 1)] = np.nan  # score < pixel
        sums[:, 0] = np.nan  # a threshold of 0 is none
        return sums


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        thresholds: The triplet.
        dice: Mean Dice with it, on the images it was found on.
        dice_default: With the defaults.
        dice_cross_fitted: What is to be expected of other images: the mean where each fifth of the images is
            judged by the triplet that the other four give; None with fewer than five positive images.
        dice_all_empty: The floor.
        images: How many images.
        positives: How many of them are positive.
        reach: In levels: see the module.
    """

    thresholds: Thresholds
    dice: float
    dice_default: float
    dice_cross_fitted: float | None
    dice_all_empty: float
    images: int
    positives: int
    reach: int


def histograms_of(
    probability: NDArray[np.float32], truth: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two histograms of an image, (128,) each, from its (H, W) probability and true mask.

    A multiplication by 128 is exact in float32, so a level is compared as its threshold is.
    """
    level = np.minimum(probability * np.float32(LEVELS), LEVELS - 1).astype(np.uint8)
    pixels = np.bincount(level.ravel(), minlength=LEVELS)
    return pixels, np.bincount(level[truth.astype(bool)], minlength=LEVELS)


def nearest_level(value: float) -> int:
    """The level, from 1, whose lower end is nearest to a threshold."""
    return min(max(round(value * LEVELS), 1), LEVELS - 1)


def search_thresholds(images: Histograms) -> SearchResult | None:
    """The best triplet for some images; None where none of them is positive, and nothing can be learnt."""
    if not images.positive.any():
        return None
    parts = _dealt(images)
    tables = [np.stack([part.dice_sums(area) for area in AREAS]) for part in parts]
    whole = np.sum(tables, axis=0)
    found = _best(images, whole)
    return SearchResult(
        thresholds=found,
        dice=float(images.dice(found).mean()),
        dice_default=float(images.dice(Thresholds()).mean()),
        dice_cross_fitted=_cross_fitted(parts, tables, whole),
        dice_all_empty=float(1 - images.positive.mean()),
        images=len(images),
        positives=int(np.count_nonzero(images.positive)),
        reach=_reach(images),
    )


def surfaces(images: Histograms, thresholds: Thresholds) -> tuple[Surface, Surface]:
    """Mean Dice around a triplet: over score and pixel at its area, over area and score at its pixel."""
    shown = np.arange(_SHOWN, LEVELS, _SHOWN)
    values = tuple((shown / LEVELS).tolist())
    pixel = nearest_level(thresholds.pixel)
    over_pixel = images.dice_sums(thresholds.area)[np.ix_(shown, shown)] / len(images)
    over_area = np.stack([images.dice_sums(area)[shown, pixel] for area in AREAS]) / len(images)
    return (
        Surface("area", thresholds.area, "score", "pixel", values, values, _rows(over_pixel)),
        Surface("pixel", pixel / LEVELS, "area", "score", AREAS, values, _rows(over_area)),
    )


def _dealt(images: Histograms) -> list[Histograms]:
    """The images in five parts, positive and negative ones dealt out in turn."""
    part = np.empty(len(images), dtype=np.int64)
    for label in (True, False):
        members = np.flatnonzero(images.positive == label)
        part[members] = np.arange(len(members)) % _PARTS
    return [images[np.flatnonzero(part == number)] for number in range(_PARTS)]


def _cross_fitted(
    parts: Sequence[Histograms], tables: Sequence[NDArray[np.float64]], whole: NDArray[np.float64]
) -> float | None:
    """Mean Dice where each part is judged by the triplet that the others give.

    None with too few positives. No image has a say in its own thresholds, so the mean is what may be
    expected of new ones.
    """
    if not all(part.positive.any() for part in parts):
        return None
    total = 0.0
    for number, (inside, table) in enumerate(zip(parts, tables, strict=True)):
        outside = _joined([part for other, part in enumerate(parts) if other != number])
        total += float(inside.dice(_best(outside, whole - table)).sum())
    return total / sum(map(len, parts))


def _joined(parts: Sequence[Histograms]) -> Histograms:
    return Histograms(np.concatenate([p.pixels for p in parts]), np.concatenate([p.truth for p in parts]))


def _best(images: Histograms, sums: NDArray[np.float64]) -> Thresholds:
    """The triplet with the best neighbourhood, or the defaults where those score more.

    Args:
        images: The images.
        sums: (areas, 128, 128) their `dice_sums`.
    """
    smooth = _neighbourhoods(sums / len(images), _reach(images))
    area, score, pixel = (int(place) for place in np.unravel_index(np.nanargmax(smooth), smooth.shape))
    spread = images.dice(Thresholds(pixel / LEVELS, AREAS[area], score / LEVELS)).std()
    tolerance = _ALIKE * float(spread) / math.sqrt(len(images)) + 1e-9
    candidates = np.argwhere(smooth >= smooth[area, score, pixel] - tolerance)
    scale = np.array([len(AREAS), LEVELS, LEVELS])
    distance = np.square((candidates - candidates.mean(axis=0)) / scale).sum(axis=1)
    area, score, pixel = candidates[np.argmin(distance)].tolist()
    found, default = Thresholds(pixel / LEVELS, AREAS[area], score / LEVELS), Thresholds()
    return found if images.dice(found).mean() >= images.dice(default).mean() else default


def _reach(images: Histograms) -> int:
    """How many levels away a neighbour may be: from 1, with thousands of images of both kinds, to 8."""
    positives = int(np.count_nonzero(images.positive))
    rarer = max(min(positives, len(images) - positives), 1)
    return min(max(round(LEVELS / math.sqrt(rarer)), 1), 8)


def _neighbourhoods(means: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """The mean over the neighbours of each triplet, (areas, score, pixel); what is NaN is none."""
    valid = ~np.isnan(means[:1])
    count = _window_sums(_window_sums(valid.astype(np.float64), 1, reach), 2, reach)
    total = np.where(valid, means, 0.0)
    for axis, width in ((0, 1), (1, reach), (2, reach)):
        total = _window_sums(total, axis, width)
    areas = _window_sums(np.ones((len(means), 1, 1)), 0, 1)
    return np.where(valid, total / (areas * np.maximum(count, 1)), np.nan)


def _window_sums(values: NDArray[np.float64], axis: int, width: int) -> NDArray[np.float64]:
    """Sums over windows that reach `width` places to either side, cut off at the ends."""
    sums = np.moveaxis(np.cumsum(values, axis=axis), axis, 0)
    ends = np.arange(len(sums)) + width
    windows = sums[np.minimum(ends, len(sums) - 1)]
    windows[width + 1 :] -= sums[: -width - 1]
    return np.moveaxis(windows, 0, axis)


def _from_above(values: NDArray[N], axis: int = 1) -> NDArray[N]:
    """For each level the sum over it and all higher ones."""
    sums: NDArray[N] = np.flip(np.cumsum(np.flip(values, axis), axis), axis)
    return sums


def _rows(dice: NDArray[np.float64]) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(None if math.isnan(value) else value for value in row) for row in dice.tolist())
