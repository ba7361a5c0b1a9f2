"""Normalised surface distance: the share of two masks' outlines that lie close to each other.

Dice counts pixels, so a large mask forgives an outline that is far off. The normalised surface distance (NSD,
or surface Dice; Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for
radiotherapy", J Med Internet Res 23, 2021) counts the outline instead: the pixels of each outline within a
tolerance of the other one, over the pixels of both outlines.

The outline of a mask holds its pixels that have a neighbour above, below, left or right outside of the mask;
what is beyond the edge of the image counts as outside. Distances are from centre to centre. The paper weighs
pieces of the outline by their length; here each pixel counts once.

The tolerance is 8 pixels of an image of 1024x1024, and in proportion to the root of the number of pixels for
other sizes. On a detector of 43 cm that is 3.4 mm. It is no distance in mm for each image: the headers of the
competition's images give none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.scoring.thresholds import AREA_SIZE

TOLERANCE = 8.0
"""The tolerance, in pixels of a 1024x1024 image."""


def tolerance_of(height: int, width: int) -> float:
    """Return the tolerance in pixels of an image of (height, width)."""
    return TOLERANCE * math.sqrt(height * width) / AREA_SIZE


def surface_distance(first: NDArray[Any], second: NDArray[Any], tolerance: float) -> float:
    """Return the normalised surface distance of two masks, from 0 to 1 (best).

    Args:
        first: (H, W) of 0 and 1 or booleans.
        second: The same.
        tolerance: The greatest distance, in pixels, at which outlines count as equal; at least 0.

    Returns:
        The share; 0 if one mask is empty, 1 if both are.
    """
    outlines = [_outline(mask.astype(bool)) for mask in (first, second)]
    total = sum(int(np.count_nonzero(outline)) for outline in outlines)
    if not total:
        return 1.0
    if not all(outline.any() for outline in outlines):
        return 0.0
    one, other = outlines
    return (_close(one, other, tolerance) + _close(other, one, tolerance)) / total


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask that have one of four neighbours outside of it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _close(outline: NDArray[np.bool_], other: NDArray[np.bool_], tolerance: float) -> int:
    """Count the pixels of an outline within the tolerance of another one."""
    reach = int(tolerance)
    padded = np.pad(other, reach).ravel()
    width = other.shape[1] + 2 * reach
    rows, columns = np.nonzero(outline)
    places = (rows + reach) * width + columns + reach
    steps = np.arange(-reach, reach + 1)
    squares = np.square(steps)[:, np.newaxis] + np.square(steps)
    down, right = np.nonzero(squares <= tolerance * tolerance)
    far = places  # those for which no pixel was found yet, nearest first
    for number in np.argsort(squares[down, right], kind="stable").tolist():
        far = far[~padded[far + steps[down[number]] * width + steps[right[number]]]]
        if not far.size:
            break
    return len(places) - len(far)
