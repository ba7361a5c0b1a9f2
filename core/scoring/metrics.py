"""Metrics of predicted masks: Dice as in the competition, IoU, AUROC and the confusion matrix of images.

The Dice coefficient of an image is 2|P and T| / (|P| + |T|), and 1 when both masks are empty. The score of a
set is the mean over its images (SIIM-ACR Pneumothorax Segmentation, evaluation page). It is always shown
with `dice_all_empty`, the score of predicting nothing anywhere (the all-negative baseline), and
`dice_positive`, the mean over the positive images. `auroc` and `Confusion` measure the classification of
whole images. `docs/evaluation.md` explains all metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.scoring.intervals import Proportion

Counts = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Scores:
    """Scores of a set of images.

    Args:
        dice: Mean Dice over all images.
        dice_all_empty: Mean Dice if all predicted masks were empty, which is the share of negative images.
        dice_positive: Mean Dice over the positive images; None where there are none.
        images: Number of images.
        positives: Number of positive images, whose true mask is not empty.
    """

    dice: float
    dice_all_empty: float
    dice_positive: float | None
    images: int
    positives: int


def dice_per_image(predicted: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Dice of each image, (N,), from two (N, ...) arrays of 0 and 1 or booleans."""
    p = predicted.reshape(len(predicted), -1).astype(bool)
    t = truth.reshape(len(truth), -1).astype(bool)
    counts = [np.count_nonzero(mask, axis=1) for mask in (p & t, p, t)]
    return dice_of_counts(*counts)


def dice_of_counts(overlap: Counts, predicted: Counts, truth: Counts) -> NDArray[np.float64]:
    """Return the Dice from numbers of pixels (any shape) in both masks, the predicted and the true one."""
    total = predicted + truth
    return np.where(total == 0, 1.0, 2.0 * overlap / np.maximum(total, 1))


def iou_of_counts(overlap: Counts, predicted: Counts, truth: Counts) -> NDArray[np.float64]:
    """Return the intersection over union (Jaccard, 1901) from these counts; 1 where both masks are empty."""
    union = predicted + truth - overlap
    return np.where(union == 0, 1.0, overlap / np.maximum(union, 1))


def auroc(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float | None:
    """Return the area under the receiver operating characteristic curve.

    It is the share of pairs of a positive and a negative image in which the positive image has the higher
    score; equal scores count half. It equals the Mann-Whitney U over the number of pairs (Hanley and McNeil,
    Radiology 143, 1982).

    Args:
        scores: (n,) scores; higher means more likely positive.
        positive: (n,) bool, the truth.

    Returns:
        A number from 0 to 1; None where there is no pair.
    """
    positives, negatives = scores[positive], np.sort(scores[~positive])
    if not len(positives) or not len(negatives):
        return None
    below, not_above = (np.searchsorted(negatives, positives, side) for side in ("left", "right"))
    return float((below + not_above).sum() / (2 * len(positives) * len(negatives)))


@dataclass(frozen=True)
class Confusion:
    """Number of images by prediction and truth."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def count(cls, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Confusion:
        """Count the images of two (n,) arrays."""
        return cls(
            tp=int(np.count_nonzero(predicted & truth)),
            fp=int(np.count_nonzero(predicted & ~truth)),
            fn=int(np.count_nonzero(~predicted & truth)),
            tn=int(np.count_nonzero(~predicted & ~truth)),
        )

    @property
    def sensitivity(self) -> Proportion:
        """The positive images predicted positive: tp of tp + fn."""
        return Proportion(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> Proportion:
        """The negative images predicted negative: tn of tn + fp."""
        return Proportion(self.tn, self.tn + self.fp)

    @property
    def ppv(self) -> Proportion:
        """Positive predictive value, the images predicted positive that are positive: tp of tp + fp."""
        return Proportion(self.tp, self.tp + self.fp)

    @property
    def npv(self) -> Proportion:
        """Negative predictive value, the images predicted negative that are negative: tn of tn + fn."""
        return Proportion(self.tn, self.tn + self.fn)


def summarise(dice: NDArray[np.float64], positive: NDArray[np.bool_]) -> Scores:
    """Return the scores of a set from each image's Dice and whether its true mask is not empty, both (N,)."""
    return Scores(
        dice=float(dice.mean()),
        dice_all_empty=float(1.0 - positive.mean()),
        dice_positive=float(dice[positive].mean()) if positive.any() else None,
        images=len(dice),
        positives=int(positive.sum()),
    )
