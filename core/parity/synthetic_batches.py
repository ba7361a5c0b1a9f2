"""Synthetic images for comparing backends without a data set: asymmetric noise with bright patches."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.randomness import permutation, uniform


class SyntheticBatch(NamedTuple):
    """Images (n, H, W, 1) in [0, 1] and masks (n, H, W, 1) in {0, 1}."""

    images: NDArray[np.float32]
    masks: NDArray[np.uint8]


SYNTHETIC_SIZE = (64, 96)
"""Height and width of the images where no data file is given."""


class SyntheticBatches:
    """Three full batches and a short one in each epoch; every second image has a bright patch, its mask.

    Args:
        height: Height of the images.
        width: Width of the images.
        batch_size: Number of images in each batch but the last.
        seed: Seed of all random numbers.
    """

    def __init__(self, height: int, width: int, batch_size: int, seed: int) -> None:
        self.images = 3 * batch_size + max(batch_size // 2, 1)
        self.batches = 4
        self._seed, self._batch_size = seed, batch_size
        shape = (self.images, height, width, 1)
        masks = np.zeros(shape, np.uint8)
        corners = uniform(seed, "patches", shape=(self.images, 2))
        for index in range(0, self.images, 2):
            top, left = (corners[index] * (0.7 * height, 0.6 * width)).astype(int)
            masks[index, top : top + height // 4 + 1, left : left + width // 3 + 1] = 1
        noise = uniform(seed, "noise", shape=shape)
        shade = np.linspace(0.0, 0.3, width)[:, np.newaxis]
        self._images = (0.4 * noise + shade + 0.3 * masks).astype(np.float32)
        self._masks = masks

    def epoch(self, epoch: int, start: int = 0, every: int = 1) -> Generator[SyntheticBatch, None, None]:
        """Yield every `every`-th batch of an epoch, from batch `start` on."""
        order = permutation(self._seed, "order", epoch, count=self.images)
        for number in range(start, self.batches, every):
            chosen = order[number * self._batch_size : (number + 1) * self._batch_size]
            yield SyntheticBatch(self._images[chosen], self._masks[chosen])
