"""A random choice of images of a data file, to look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.base.randomness import permutation
from data.hdf5.store import Store


def choose_images(store: Store, count: int, seed: int) -> NDArray[np.int64]:
    """Draw images at random: three positives to one negative as far as there are enough; ascending indices.

    Args:
        store: The file; without annotations all images are drawn alike.
        count: The largest number of images; at least 1.
        seed: Seed of the drawing.
    """
    if not store.annotated:
        return np.sort(permutation(seed, "overlays", count=store.count)[:count])
    positive, negative = np.flatnonzero(store.positive), np.flatnonzero(~store.positive)
    few = min(count // 4, len(negative))
    chosen = [
        members[permutation(seed, "overlays", str(label), count=len(members))[:wanted]]
        for label, members, wanted in ((True, positive, count - few), (False, negative, few))
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
