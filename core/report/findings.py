"""What the page says in words.

Promises: a difference of two mean scores is taken image by image, so that hard images count alike on both
sides, and comes with its 95 % confidence interval (normal approximation: 1.96 standard errors). What the
interval does not tell apart from zero is not called better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.scoring.evaluation_record import Evaluation, ImageRow

_QUANTILE = 1.959963984540054  # of the standard normal distribution, two-sided 95 %


@dataclass(frozen=True)
class Difference:
    """A mean difference of Dice over images.

    Args:
        mean: First minus second.
        margin: Half the width of its 95 % interval; infinite for a single image.
    """

    mean: float
    margin: float

    @property
    def direction(self) -> int:
        """1 or -1 where the interval lies on one side of zero, else 0."""
        return int(np.sign(self.mean)) if abs(self.mean) > self.margin else 0


@dataclass(frozen=True)
class ModelComparison:
    """One model beside another on the same images.

    Args:
        dice: Difference of Dice.
        changed: Images whose Dice differs by more than 0.001.
        decided_otherwise: Images that one of them calls positive, and the other does not.
    """

    dice: Difference
    changed: int
    decided_otherwise: int


def above_baseline(rows: Sequence[ImageRow]) -> Difference:
    """Dice over that of empty masks."""
    return _difference(_dice(rows) - np.array([row.truth_pixels == 0 for row in rows], dtype=np.float64))


def compare(first: Evaluation, second: Evaluation) -> ModelComparison | None:
    """`second` minus `first`; None unless they were scored on the same images."""
    if not same_images(first, second):
        return None
    distance = _dice(second.rows) - _dice(first.rows)
    pairs = zip(first.rows, second.rows, strict=True)
    return ModelComparison(
        dice=_difference(distance),
        changed=int(np.count_nonzero(np.abs(distance) > 1e-3)),
        decided_otherwise=sum((a.predicted_pixels > 0) != (b.predicted_pixels > 0) for a, b in pairs),
    )


def same_images(first: Evaluation, second: Evaluation) -> bool:
    """Whether both were scored on the same images with the same truth."""
    return [(row.id, row.truth_pixels) for row in first.rows] == [
        (row.id, row.truth_pixels) for row in second.rows
    ]


def proportion_interval(successes: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (E. B. Wilson, JASA 22, 1927): honest for few images and near 0 and 1."""
    share, z = successes / count, _QUANTILE
    centre = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max((centre - reach) / scale, 0.0), min((centre + reach) / scale, 1.0)


def roc_curve(rows: Sequence[ImageRow]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rate for every threshold of the existence score, from (0, 0) to (1, 1).

    Equal scores are one step, so that ties draw a slope: the area under it is `Summary.auroc`. Needs a
    positive and a negative image.
    """
    score = np.array([row.existence for row in rows])
    positive = np.array([row.truth_pixels > 0 for row in rows])
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(rows) - 1)  # of each group of equal scores
    true, false = np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])


def _difference(values: NDArray[np.float64]) -> Difference:
    count = len(values)
    margin = _QUANTILE * float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return Difference(float(values.mean()), margin)


def _dice(rows: Sequence[ImageRow]) -> NDArray[np.float64]:
    return np.array([row.dice for row in rows])
