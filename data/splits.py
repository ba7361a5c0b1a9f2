"""Dividing images into those to learn from and those to judge by.

Promises: the division depends on the labels, the fraction and the seed alone (so it is the same on
every backend and machine), and both sides have the same share of positives as far as numbers allow.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.randomness import permutation


class Split(NamedTuple):
    """Indices of images, ascending: (t,) and (v,) int64; together every image exactly once."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]


def stratified_split(positive: NDArray[np.bool_], fraction: float, seed: int) -> Split:
    """Divide images, positives and negatives apart.

    Args:
        positive: (n,) bool, whether an image has a mask.
        fraction: Share for validation, from 0 to below 1; 0 leaves validation empty. Otherwise each
            class of at least two images gives at least one to each side, and a class of one trains.
        seed: Key of the drawing.

    Raises:
        ValueError: A fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the validation fraction must be in [0, 1). Received: {fraction}")
    chosen = np.zeros(len(positive), dtype=bool)
    for label in (False, True):
        members = np.flatnonzero(np.asarray(positive, dtype=bool) == label)
        size = _share(len(members), fraction)
        order = permutation(seed, "split", str(label), count=len(members))
        chosen[members[order[:size]]] = True
    return Split(np.flatnonzero(~chosen).astype(np.int64), np.flatnonzero(chosen).astype(np.int64))


def _share(count: int, fraction: float) -> int:
    if fraction == 0 or count < 2:
        return 0
    return min(max(math.floor(count * fraction + 0.5), 1), count - 1)
