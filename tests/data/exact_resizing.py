"""Resizing by matrices of overlaps: what `data.radiographs.resize` is compared with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def weights(source: int, target: int) -> NDArray[np.float64]:
    """(target, source): area averages when shrinking, linear interpolation when enlarging."""
    matrix = np.zeros((target, source))
    ratio = source / target
    for row in range(target):
        if target <= source:
            start, end = row * ratio, (row + 1) * ratio
            for column in range(math.floor(start), min(math.ceil(end), source)):
                overlap = min(end, column + 1) - max(start, column)
                matrix[row, column] = max(overlap, 0) / ratio
        else:
            position = (row + 0.5) * ratio - 0.5  # pixel centres, the border repeated
            below = int(np.floor(position))
            for column, weight in ((below, 1 - position + below), (below + 1, position - below)):
                matrix[row, min(max(column, 0), source - 1)] += weight
    return matrix


def exact(pixels: NDArray[np.generic], height: int, width: int) -> NDArray[np.float64]:
    rows, columns = weights(pixels.shape[0], height), weights(pixels.shape[1], width)
    return np.asarray(rows @ pixels.astype(np.float64) @ columns.T)
