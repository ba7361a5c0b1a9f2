"""Statistical comparisons for the report: with the all-negative baseline, and between two models.

The difference of two mean scores is computed image by image (paired) and has a 95 % confidence interval by
the normal approximation: 1.96 standard errors. A model is called better only if the interval excludes zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.scoring.evaluation_record import Evaluation, ImageRow
from core.scoring.intervals import QUANTILE


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
        """1 or -1 if the interval lies on one side of zero, else 0."""
        return int(np.sign(self.mean)) if abs(self.mean) > self.margin else 0


@dataclass(frozen=True)
class ModelComparison:
    """Comparison of two models on the same images.

    Args:
        dice: Difference of Dice.
        changed: Number of images whose Dice differs by more than 0.001.
        decided_otherwise: Number of images that exactly one of the models predicts positive.
    """

    dice: Difference
    changed: int
    decided_otherwise: int


def above_baseline(rows: Sequence[ImageRow]) -> Difference:
    """Return the mean difference of Dice from the Dice of empty masks."""
    return _difference(_dice(rows) - np.array([row.truth_pixels == 0 for row in rows], dtype=np.float64))


def compare(first: Evaluation, second: Evaluation) -> ModelComparison | None:
    """Compare two models, `second` minus `first`; None unless they were scored on the same images."""
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
    """Tell whether both were scored on the same images with the same true masks."""
    return [(row.id, row.truth_pixels) for row in first.rows] == [
        (row.id, row.truth_pixels) for row in second.rows
    ]


def roc_curve(rows: Sequence[ImageRow]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positive rates for all thresholds of the existence score, (0, 0) to (1, 1).

    Equal scores form one sloped step, so the area under the curve is `Summary.auroc`. At least one positive
    and one negative image are required.
    """
    score = np.array([row.existence for row in rows])
    positive = np.array([row.truth_pixels > 0 for row in rows])
    order = np.argsort(-score, kind="stable")
    last = np.append(
        np.flatnonzero(np.diff(score[order])), len(rows) - 1
    )  # the last of each group of equal scores
    true, false = np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])


def _difference(values: NDArray[np.float64]) -> Difference:
    count = len(values)
    margin = QUANTILE * float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return Difference(float(values.mean()), margin)


def _dice(rows: Sequence[ImageRow]) -> NDArray[np.float64]:
    return np.array([row.dice for row in rows])
