"""Smooth random displacements of an image's pixels, for augmentation.

A displacement says, for each pixel, how far away its new value is read, in pixels down and to the right. It
is a B-spline: nodes at equal distances have random displacements, and a pixel's displacement is the mean of
those near it, weighted by the B-spline. The weights are at least 0 and add up to 1, so no pixel is displaced
further than a node.

    elastic     degree 3. This is white noise smoothed with a cubic B-spline, which is nearly a Gaussian: the
                elastic deformation of Simard et al. (2003, "Best practices for convolutional neural
                networks", section 2). A cubic B-spline of nodes at distance s has the standard deviation
                s / sqrt(3), so nodes at sqrt(3) * sigma give the smoothness sigma.
    grid        degree 1. The nodes are the corners of the cells of a grid, and between them a displacement is
                bilinear: the grid distortion of albumentations, where each line of the grid is displaced.

Displacements never fold an image: see `unfolded`. All arithmetic is NumPy's, element by element in float32,
and so the same on every machine.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GREATEST_GRADIENT = 0.7
"""The limit of the gradient of a displacement; from 1 on an image could fold."""


class Lattice(NamedTuple):
    """The nodes of a displacement.

    Attributes:
        spacing: Distance of the nodes, in pixels down and to the right, at least 1.
        reach: The greatest displacement of a node, in pixels down and to the right.
        degree: Degree of the B-spline, 1 or 3.
    """

    spacing: tuple[float, float]
    reach: tuple[float, float]
    degree: int

    def nodes(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the number of nodes, down and to the right, that an image of a height and width needs."""
        down, right = (
            int((size - 1) / each) + self.degree + 1 for size, each in zip(shape, self.spacing, strict=True)
        )
        return down, right

    def displacement(self, drawn: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return the displacement of each pixel.

        Args:
            drawn: (2, n, m) in [-1, 1], as many as `nodes`: each node's displacement down and to the right,
                as a share of the greatest one.
            shape: Height and width of the image.

        Returns:
            (2, height, width) pixels down and to the right.
        """
        nodes = (drawn * np.reshape(self.reach, (2, 1, 1))).astype(np.float32)
        (row, by_row), (column, by_column) = (
            _weights(size, each, self.degree) for size, each in zip(shape, self.spacing, strict=True)
        )
        along = np.zeros((*nodes.shape[:2], shape[1]), np.float32)
        for tap, weight in enumerate(by_column):
            along += nodes[:, :, column + tap] * weight
        found = np.zeros((2, *shape), np.float32)
        starts = np.searchsorted(row, np.arange(row[-1] + 2))
        for node, (first, after) in enumerate(itertools.pairwise(starts.tolist())):
            rows = found[:, first:after]  # all between two nodes, and few enough for the processor's cache
            for tap, weight in enumerate(by_row[:, first:after, np.newaxis]):
                rows += along[:, node + tap, np.newaxis] * weight
        return found


def elastic_lattice(shape: tuple[int, int], amount: float, smoothness: float) -> Lattice:
    """Return the nodes of an elastic displacement.

    Args:
        shape: Height and width of the image.
        amount: The greatest displacement, as a share of the shorter side.
        smoothness: Standard deviation of the Gaussian, as a share of the shorter side.
    """
    distance, reach = max(math.sqrt(3.0) * smoothness * min(shape), 1.0), amount * min(shape)
    return Lattice((distance, distance), (reach, reach), 3)


def grid_lattice(shape: tuple[int, int], amount: float, cells: int) -> Lattice:
    """Return the nodes of a grid, whose first and last lines go through the outermost pixels.

    Args:
        shape: Height and width of the image.
        amount: The greatest displacement, as a share of a cell's height and width.
        cells: Number of cells along each side.
    """
    height, width = (max((size - 1) / cells, 1.0) for size in shape)
    return Lattice((height, width), (amount * height, amount * width), 1)


def unfolded(displacement: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a displacement, reduced as a whole so far that its gradient is at most `GREATEST_GRADIENT`.

    The gradient is the greatest change from a pixel to the one below plus the greatest change to the one at
    the right, of the displacement down or of that to the right, whichever is more. Below 1 the displacement
    is a contraction in the maximum norm. So two points p and q, displaced by d, stay two: |p + d(p) - q -
    d(q)| is at least (1 - gradient) * |p - q|, for pixels and for the bilinear interpolation between them.

    Args:
        displacement: (2, H, W) pixels down and to the right.
    """
    steepest = max(float(_greatest_change(one, 0) + _greatest_change(one, 1)) for one in displacement)
    if steepest <= GREATEST_GRADIENT:
        return displacement
    return displacement * np.float32(GREATEST_GRADIENT / steepest)


def _weights(size: int, spacing: float, degree: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return, for each pixel of an axis, its first node and the weights of that and of those after it.

    Args:
        size: Pixels of the axis.
        spacing: Distance of its nodes in pixels.
        degree: 1 or 3.

    Returns:
        (size,) indices, and (degree + 1, size) weights.
    """
    places = np.arange(size) / spacing
    first = places.astype(np.int64)
    t = places - first
    if degree == 1:
        weights = [1 - t, t]
    else:  # products, because powers are not the same on every machine
        rest = 1 - t
        weights = [rest * rest * rest, 4 - 3 * t * t * (1 + rest), 1 + 3 * t * (1 + t * rest), t * t * t]
        weights = [weight / 6 for weight in weights]
    return first, np.array(weights, dtype=np.float32)


def _greatest_change(values: NDArray[np.float32], axis: int) -> np.float32:
    changes = np.abs(np.diff(values, axis=axis))
    return np.float32(changes.max(initial=0.0))
