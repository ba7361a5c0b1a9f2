"""Scores of predicted masks, as the competition counts them.

Promises: the Dice coefficient of an image is 2|P and T| / (|P| + |T|), and 1 when both masks are empty;
the score of a set is the mean over its images (SIIM-ACR Pneumothorax Segmentation, evaluation page).
It is never shown without `dice_all_empty`, the score of predicting nothing anywhere, nor without
`dice_positive`, the mean over the images that have something to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    return dice_from_counts(
        np.count_nonzero(p & t, axis=1), np.count_nonzero(p, axis=1), np.count_nonzero(t, axis=1)
    )


def dice_from_counts(
    overlap: NDArray[np.int64], predicted: NDArray[np.int64], truth: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Dice of each image from numbers of pixels, all (N,): set in both masks, and in either."""
    total = predicted + truth
    return np.where(total == 0, 1.0, 2.0 * overlap / np.maximum(total, 1))


def iou_from_counts(
    overlap: NDArray[np.int64], predicted: NDArray[np.int64], truth: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Intersection over union (Jaccard) from what `dice_from_counts` takes, 1 where both masks are empty."""
    union = predicted + truth - overlap
    return np.where(union == 0, 1.0, overlap / np.maximum(union, 1))


def summarise(dice: NDArray[np.float64], positive: NDArray[np.bool_]) -> Scores:
    """The scores of a set from each image's Dice and whether its truth is not empty, both (N,)."""
    return Scores(
        dice=float(dice.mean()),
        dice_all_empty=float(1.0 - positive.mean()),
        dice_positive=float(dice[positive].mean()) if positive.any() else None,
        images=len(dice),
        positives=int(positive.sum()),
    )
