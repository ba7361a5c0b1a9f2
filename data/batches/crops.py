"""Random crops of the training images, some of them with a pneumothorax in view.

A crop is a square of whole pixels inside the image, taken after augmentation, so that what is moved into it
is the image itself and not what lies beyond an edge. Of an image with a mask, with the probability
`positives`, one pixel of the mask is chosen, all with the same probability, and the crop is one of those that
contain this pixel, all with the same probability. Otherwise it is any crop, all with the same probability.

A crop depends only on the settings, the augmented mask, the seed, the epoch and the image's place in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.base.randomness import uniform


@dataclass(frozen=True)
class CropSettings:
    """How crops are taken; see the module.

    Args:
        size: Height and width in pixels, at least 1.
        positives: Probability that a crop of an image with a mask is chosen around a pixel of the mask.
    """

    size: int
    positives: float


def crop_window(
    mask: NDArray[np.uint8], settings: CropSettings, seed: int, epoch: int, place: int
) -> tuple[slice, slice]:
    """Return the rows and columns of an image's crop.

    Args:
        mask: (H, W) in {0, 1}, not smaller than the crop.
        settings: The size, and how often a pixel of the mask is chosen.
        seed: Seed of the random numbers, with the next two.
        epoch: Number of the epoch.
        place: Place of the image in the epoch, from 0.
    """
    coin, pixel, *places = uniform(seed, "crop", epoch, place, shape=(4,)).tolist()
    lowest, highest = [0, 0], [length - settings.size for length in mask.shape]
    if coin < settings.positives and (found := np.flatnonzero(mask)).size:
        chosen = divmod(int(found[int(pixel * found.size)]), mask.shape[1])
        lowest = [max(0, at - settings.size + 1) for at in chosen]
        highest = [min(last, at) for last, at in zip(highest, chosen, strict=True)]
    rows, columns = (
        slice(first, first + settings.size)
        for low, high, share in zip(lowest, highest, places, strict=True)
        for first in [low + int(share * (high - low + 1))]
    )
    return rows, columns
