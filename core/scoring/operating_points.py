"""Operating points: thresholds by which a given share of the images is decided rightly.

"At least 95 % sensitivity" leaves a choice, and the choice is the one that loses least specificity; for "at
least 95 % specificity" the other way round. `admissible` returns every minimum area and image threshold that
decides so on some images. The search then takes the mask with the best Dice among them
(`core.scoring.threshold_search`).

Without the existence head the image threshold and the minimum area decide, so both are tried together. With
it the existence threshold decides: it is chosen from the probabilities of the head alone, between two of the
images', and the triplet must not make any image negative that the head found rightly.

An image whose probabilities are all below 0.001 has no mask with any threshold of the search, so it is
negative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.rounding import to_float32
from core.scoring.histograms import AREAS, LEVELS, Histograms, from_above
from core.scoring.intervals import Proportion

_ROUNDING = 1e-9  # so that 0.95 of 20 images are 19


@dataclass(frozen=True)
class OperatingPoint:
    """A requirement on the decision about images.

    Args:
        rate: The rate that is required.
        least: Its least value, above 0 and at most 1.

    Raises:
        UserError: The value is outside its range.
    """

    rate: Literal["sensitivity", "specificity"]
    least: float

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1:
            raise UserError(
                f"--{self.rate} must be a share above 0 and at most 1, as in 0.95. Received: {self.least:g}"
            )

    def __str__(self) -> str:
        return f"{self.rate} of at least {self.least:g}"


class Admissible(NamedTuple):
    """The thresholds of an operating point.

    Attributes:
        existence: The existence threshold; None without the existence head.
        triplets: (areas, 128) bool, the pairs of minimum area and level of the image threshold.
    """

    existence: float | None
    triplets: NDArray[np.bool_]


def admissible(images: Histograms, point: OperatingPoint) -> Admissible | None:
    """Return the thresholds that reach an operating point on some images, with the other rate at its best.

    None if no thresholds reach it, or no image is of the kind whose rate is required.
    """
    of_kind = images.positive if point.rate == "sensitivity" else ~images.positive
    count = int(np.count_nonzero(of_kind))
    if not count:
        return None
    right = math.ceil(point.least * count - _ROUNDING)  # images that must be decided rightly
    existence = None
    if images.head is not None:
        existence = _existence(images, images.head, point, right)
        if existence is None:
            return None
    true, false = _detected(images.at(existence))
    allowed = np.arange(LEVELS) > 0
    if images.head is not None:
        return Admissible(existence, (true == true[0, 1]) & allowed)
    if point.rate == "sensitivity":
        reached = (true >= right) & allowed
        best = reached & (false == np.min(false, where=reached, initial=len(images)))
    else:
        reached = (count - false >= right) & allowed
        best = reached & (true == np.max(true, where=reached, initial=0))
    return Admissible(None, best) if reached.any() else None


def greatest_rate(images: Histograms, rate: Literal["sensitivity", "specificity"]) -> Proportion:
    """Return the greatest rate that any thresholds of the search reach on some images."""
    if rate == "sensitivity":
        true, _ = _detected(images.at(None))
        return Proportion(int(true[0, 1]), int(np.count_nonzero(images.positive)))
    _, false = _detected(images.at(None if images.head is None else 1.0))
    wrong = int(false[:, -1].min() if images.head is None else false[0, 1])
    negatives = int(np.count_nonzero(~images.positive))
    return Proportion(negatives - wrong, negatives)


def _detected(images: Histograms) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of true and of false positives by area and level, (areas, 128) each."""
    passing = images.passing
    levels = np.stack([images.existence(area) for area in AREAS])
    kinds = (images.positive & passing, ~images.positive & passing)
    true, false = (
        from_above(np.stack([np.bincount(row[kind], minlength=LEVELS) for row in levels])) for kind in kinds
    )
    return true, false


def _existence(
    images: Histograms, head: NDArray[np.float64], point: OperatingPoint, right: int
) -> float | None:
    """Return the existence threshold with which `right` images of the required kind are decided rightly.

    It is halfway between the existence probabilities of two images, so that other images are decided by the
    nearer one. None if there is none.
    """
    seen = images.existence(0) > 0
    known = np.unique(head[seen])
    if point.rate == "sensitivity":
        positives = np.sort(head[seen & images.positive])
        if len(positives) < right:
            return None
        return _below(positives[-right], known)
    negatives = np.sort(head[seen & ~images.positive])
    wrong = int(np.count_nonzero(~images.positive)) - right
    if len(negatives) <= wrong:
        return 0.0
    excluded = negatives[-wrong - 1]
    higher = known[known > excluded]
    if len(higher):
        return _below(higher[0], known)
    return to_float32(float(np.nextafter(np.float32(excluded), np.float32(2)))) if excluded < 1 else None


def _below(value: float, known: NDArray[np.float64]) -> float:
    """Return the middle between a value and the next lower one, in float32; at most the value."""
    lower = known[known < value]
    if not len(lower):
        return 0.0
    middle = to_float32((float(lower[-1]) + float(value)) / 2)
    return middle if middle > lower[-1] else float(value)
