"""Scores of predicted masks, as the competition counts them.

Promises: the Dice coefficient of an image is 2|P and T| / (|P| + |T|), and 1 when both masks are empty;
the score of a set is the mean over its images (SIIM-ACR Pneumothorax Segmentation, evaluation page).
It is never shown without `dice_all_empty`, the score of predicting nothing anywhere, nor without
`dice_positive`, the mean over the images that have something to find. Whether there is something at all is
judged image by image: `auroc` of a score, `Confusion` of yes and no. `docs/evaluation.md` explains them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Scores:
    """Scores of a set of images.

    Args:
        dice: Mean over all images.
        dice_all_empty: The same for masks that are all empty: the share of negative images.
        dice_positive: Mean over the positive images; None where there are none.
        images: How many images.
        positives: How many of them have a mask that is not empty.
    """

    dice: float
    dice_all_empty: float
    dice_positive: float | None
    images: int
    positives: int


def dice_per_image(predicted: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Dice of each image of two (N, ...) arrays of 0 and 1 (or booleans), as (N,)."""
    p = predicted.reshape(len(predicted), -1).astype(bool)
    t = truth.reshape(len(truth), -1).astype(bool)
    counts = [np.count_nonzero(mask, axis=1) for mask in (p & t, p, t)]
    return dice_of_counts(*counts)


def dice_of_counts(overlap: Counts, predicted: Counts, truth: Counts) -> NDArray[np.float64]:
    """Dice from numbers of pixels: in both masks, in the predicted, in the true one; any shape."""
    total = predicted + truth
    return np.where(total == 0, 1.0, 2.0 * overlap / np.maximum(total, 1))


def iou_of_counts(overlap: Counts, predicted: Counts, truth: Counts) -> NDArray[np.float64]:
    """Intersection over union (Jaccard, 1901) from the same; 1 where both masks are empty."""
    union = predicted + truth - overlap
    return np.where(union == 0, 1.0, overlap / np.maximum(union, 1))


def auroc(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float | None:
    """Area under the receiver operating characteristic.

    The share of pairs of a positive and a negative image of which the positive one has the higher score,
    equal scores counting half: the Mann-Whitney U over the number of pairs (Hanley and McNeil, Radiology
    143, 1982).

    Args:
        scores: (n,) the higher, the surer.
        positive: (n,) bool.

    Returns:
        From 0 to 1; None where there is no pair.
    """
    ill, well = scores[positive], np.sort(scores[~positive])
    if not len(ill) or not len(well):
        return None
    below, not_above = np.searchsorted(well, ill, "left"), np.searchsorted(well, ill, "right")
    return float((below + not_above).sum() / (2 * len(ill) * len(well)))


@dataclass(frozen=True)
class Confusion:
    """Images by what was said of them and what is true of them."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def count(cls, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Confusion:
        """Of two (n,) arrays."""
        return cls(
            tp=int(np.count_nonzero(predicted & truth)),
            fp=int(np.count_nonzero(predicted & ~truth)),
            fn=int(np.count_nonzero(~predicted & truth)),
            tn=int(np.count_nonzero(~predicted & ~truth)),
        )

    @property
    def sensitivity(self) -> float | None:
        """Share of the positives that were found, tp / (tp + fn); None where there are none."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else None

    @property
    def specificity(self) -> float | None:
        """Share of the negatives that were left in peace, tn / (tn + fp); None where there are none."""
        return self.tn / (self.tn + self.fp) if self.tn + self.fp else None


def summarise(dice: NDArray[np.float64], positive: NDArray[np.bool_]) -> Scores:
    """The scores of a set from each image's Dice and whether its truth is not empty, both (N,)."""
    return Scores(
        dice=float(dice.mean()),
        dice_all_empty=float(1.0 - positive.mean()),
        dice_positive=float(dice[positive].mean()) if positive.any() else None,
        images=len(dice),
        positives=int(positive.sum()),
    )
