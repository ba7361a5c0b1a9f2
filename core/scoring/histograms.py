"""Histograms of probabilities: all that is kept of an image for the search of thresholds.

Each image is reduced to two histograms of its probabilities with 128 levels each: over all pixels at the
original size, and over the pixels of the true mask. They give the exact Dice and the exact decision of every
triplet whose `pixel` and `score` are in `LOWER_ENDS`, so no probability map is needed again, and an image
takes a few KiB.

The levels are equally wide in the logit, log(p / (1 - p)). A network trained with the Dice loss gives most
pixels a probability near 0 or 1, and there levels of equal width in p would not tell images apart.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from core.scoring.metrics import dice_of_counts
from core.scoring.thresholds import AREA_SIZE, Thresholds

N = TypeVar("N", np.int64, np.float64)

LEVELS = 128
"""Number of probability levels. Level 64 begins at 0.5."""

_LOGITS_PER_LEVEL = 7 / 64
_SPARE_BITS = 8  # the last bits of a float32 number, by which levels do not differ


def _lower_ends() -> NDArray[np.float32]:
    logits = (np.arange(LEVELS) - LEVELS / 2) * _LOGITS_PER_LEVEL
    ends = (1 / (1 + np.exp(-logits))).astype(np.float32)
    ends[0] = 0
    bits = ends.view(np.uint32) >> np.uint32(_SPARE_BITS) << np.uint32(_SPARE_BITS)
    return bits.view(np.float32)


LOWER_ENDS: NDArray[np.float32] = _lower_ends()
"""(128,) the least probability of each level: 0, then from 0.001 to 0.999. The last level includes 1."""

AREAS = (
    *(0, 50, 100, 150, 200, 300, 400, 500, 750, 1000, 1250, 1500, 1750, 2000),
    *(2500, 3000, 4000, 5000, 6000, 8000, 10000, 12000, 16000),
)
"""The areas that are tried, in pixels of a 1024x1024 image; the competition's winners used 1000 and 2000."""


@dataclass(frozen=True)
class Histograms:
    """Histograms of the probabilities of some images.

    Args:
        pixels: (n, 128) int64, number of pixels at each level.
        truth: (n, 128) int64, number of pixels of the true mask at each level.
        head: (n,) existence probabilities; None without the existence head.
        least: The existence threshold: the masks of images below it are empty.
    """

    pixels: NDArray[np.int64]
    truth: NDArray[np.int64]
    head: NDArray[np.float64] | None = None
    least: float = 0.0

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def __getitem__(self, chosen: NDArray[np.int64]) -> Histograms:
        """Return some of the images, by (k,) indices."""
        head = None if self.head is None else self.head[chosen]
        return Histograms(self.pixels[chosen], self.truth[chosen], head, self.least)

    def at(self, existence: float | None) -> Histograms:
        """Return the same images with this existence threshold; None is that of images without the head."""
        return replace(self, least=existence or 0.0)

    @functools.cached_property
    def positive(self) -> NDArray[np.bool_]:
        """(n,) bool, whether the true mask is not empty."""
        return np.asarray(self.truth.any(axis=1))

    @functools.cached_property
    def passing(self) -> NDArray[np.bool_]:
        """(n,) bool, whether the existence probability reaches the existence threshold; all without it."""
        return np.ones(len(self), dtype=bool) if self.head is None else self.head >= self.least

    @functools.cached_property
    def above(self) -> NDArray[np.int64]:
        """(n, 128) number of pixels of at least each level."""
        return from_above(self.pixels)

    @functools.cached_property
    def gain(self) -> NDArray[np.float64]:
        """(n, 128) Dice of the mask of pixels of at least each level, minus the Dice of an empty mask."""
        dice = dice_of_counts(from_above(self.truth), self.above, self.truth.sum(axis=1, keepdims=True))
        gain: NDArray[np.float64] = dice - ~self.positive[:, np.newaxis]
        return np.where(self.passing[:, np.newaxis], gain, 0.0)

    def existence(self, area: float) -> NDArray[np.int64]:
        """Return the level of each image's existence score for an area, (n,)."""
        size = self.above[:, :1]
        least = np.minimum(np.maximum(np.ceil(area * size / AREA_SIZE**2), 1), size)
        levels: NDArray[np.int64] = np.count_nonzero(self.above >= least, axis=1) - 1
        return levels

    def decisions(self, thresholds: Thresholds) -> NDArray[np.bool_]:
        """Return whether each image is predicted positive, (n,), at the level nearest to `score`."""
        if self.least != (thresholds.existence or 0.0):
            return self.at(thresholds.existence).decisions(thresholds)
        return self.passing & (self.existence(thresholds.area) >= nearest_level(thresholds.score))

    def dice(self, thresholds: Thresholds) -> NDArray[np.float64]:
        """Return the Dice of each image, (n,), at the levels nearest to `pixel` and `score`."""
        if self.least != (thresholds.existence or 0.0):
            return self.at(thresholds.existence).dice(thresholds)
        of_empty = np.where(self.positive, 0.0, 1.0)
        gained = self.gain[:, nearest_level(thresholds.pixel)]
        dice: NDArray[np.float64] = of_empty + np.where(self.decisions(thresholds), gained, 0.0)
        return dice

    def dice_sums(self, area: float) -> NDArray[np.float64]:
        """Return the sum of Dice for all pairs of levels, (128, 128): [score, pixel]; NaN for invalid pairs.

        An image differs from the empty mask only if its existence score reaches `score`. So the gains are
        summed by the level of the existence score, then accumulated from the highest level down.
        """
        existence = self.existence(area)
        order = np.argsort(existence, kind="stable")
        levels, starts = np.unique(existence[order], return_index=True)
        gained = np.zeros((LEVELS, LEVELS))
        if len(self):
            gained[levels] = np.add.reduceat(self.gain[order], starts, axis=0)
        sums: NDArray[np.float64] = np.count_nonzero(~self.positive) + from_above(gained, axis=0)
        sums[np.triu_indices(LEVELS, 1)] = np.nan  # score < pixel
        sums[:, 0] = np.nan  # a threshold of 0 is not allowed
        return sums


def histograms_of(
    probability: NDArray[np.float32], truth: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the two histograms of an image, (128,) each, from its (H, W) probabilities and true mask."""
    bits = np.ascontiguousarray(probability, np.float32).view(np.uint32)
    level = _level_of_bits().take(bits >> np.uint32(_SPARE_BITS), mode="clip")
    pixels = np.bincount(level.ravel(), minlength=LEVELS)
    return pixels, np.bincount(level[truth.astype(bool)], minlength=LEVELS)


@functools.cache
def _level_of_bits() -> NDArray[np.uint8]:
    """Return the level of each float32 number from 0 to 1, by its bits without the last ones (4 MiB).

    Float32 numbers that are not negative have the order of their bits, read as integers. One more entry, 0,
    is for NaN and -0, whose bits come after: they reach no threshold.
    """
    one = np.float32(1).view(np.uint32) >> np.uint32(_SPARE_BITS)
    numbers = (np.arange(one + 1, dtype=np.uint32) << np.uint32(_SPARE_BITS)).view(np.float32)
    return np.append(np.searchsorted(LOWER_ENDS, numbers, side="right") - 1, 0).astype(np.uint8)


def nearest_level(value: float) -> int:
    """Return the level, at least 1, whose lower end is nearest to a threshold."""
    return 1 + int(np.argmin(np.abs(LOWER_ENDS[1:].astype(np.float64) - value)))


def threshold_at(level: int) -> float:
    """Return the threshold that the pixels of a level and of all higher ones reach."""
    return float(LOWER_ENDS[level])


def from_above(values: NDArray[N], axis: int = 1) -> NDArray[N]:
    """Return for each level the sum over it and all higher levels."""
    sums: NDArray[N] = np.flip(np.cumsum(np.flip(values, axis), axis), axis)
    return sums
