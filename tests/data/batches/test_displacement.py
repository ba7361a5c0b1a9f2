"""Displacements are the splines that they claim to be, move masks with images, and never fold an image."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from core.base.randomness import uniform
from data.batches import warping
from data.batches.augmentation import AugmentationSettings, augment
from data.batches.displacement import (
    GREATEST_GRADIENT,
    Lattice,
    elastic_lattice,
    grid_lattice,
    unfolded,
)
from data.batches.warping import move

SHAPES = [(9, 14), (31, 22), (1, 7), (40, 40)]


def de_boor(node: int, degree: int, t: float) -> float:
    """Return a B-spline with knots at whole numbers, of which the first is `node`, by de Boor's recursion."""
    if degree == 0:
        return float(node <= t < node + 1)
    left = (t - node) / degree * de_boor(node, degree - 1, t)
    return left + (node + degree + 1 - t) / degree * de_boor(node + 1, degree - 1, t)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["elastic", "grid"])
def test_a_displacement_is_a_spline_of_its_nodes(shape: tuple[int, int], kind: str) -> None:
    lattice = elastic_lattice(shape, 0.2, 0.13) if kind == "elastic" else grid_lattice(shape, 0.3, 3)
    drawn = 2 * np.random.default_rng(1).random((2, *lattice.nodes(shape))) - 1
    found = lattice.displacement(drawn, shape)
    assert found.shape == (2, *shape)
    degree, expected = lattice.degree, np.zeros(found.shape)
    for row in range(shape[0]):
        for column in range(shape[1]):
            for n in range(drawn.shape[1]):
                down = de_boor(n - degree, degree, row / lattice.spacing[0])
                for m in range(drawn.shape[2] if down else 0):
                    weight = down * de_boor(m - degree, degree, column / lattice.spacing[1])
                    expected[:, row, column] += weight * drawn[:, n, m] * lattice.reach
    np.testing.assert_allclose(found, expected, atol=1e-6 * max(lattice.reach))


def test_the_corners_of_a_grid_are_displaced_by_what_was_drawn() -> None:
    shape, cells = (13, 21), 4
    lattice = grid_lattice(shape, 0.25, cells)
    assert lattice == Lattice((3.0, 5.0), (0.75, 1.25), 1)
    drawn = 2 * np.random.default_rng(2).random((2, *lattice.nodes(shape))) - 1
    found = lattice.displacement(drawn, shape)
    np.testing.assert_allclose(found[0, ::3, ::5], 0.75 * drawn[0, :5, :5], rtol=1e-6)
    np.testing.assert_allclose(found[1, ::3, ::5], 1.25 * drawn[1, :5, :5], rtol=1e-6)
    above = 3 / 5 * found[:, 3, 5] + 2 / 5 * found[:, 3, 10]
    below = 3 / 5 * found[:, 6, 5] + 2 / 5 * found[:, 6, 10]
    np.testing.assert_allclose(found[:, 4, 7], 2 / 3 * above + 1 / 3 * below, rtol=1e-5)


def test_the_smoothness_is_a_gaussian_s() -> None:
    """The weights of one node, seen as a distribution, have the standard deviation that was asked for."""
    shape, smoothness = (120, 200), 0.08
    lattice = elastic_lattice(shape, 1.0, smoothness)
    drawn = np.zeros((2, *lattice.nodes(shape)))
    drawn[1, 4, 6] = 1.0
    weights = lattice.displacement(drawn, shape)[1].astype(float)
    for axis, size in enumerate(shape):
        along, places = weights.sum(axis=1 - axis), np.arange(size)
        mean = (along * places).sum() / along.sum()
        variance = (along * (places - mean) ** 2).sum() / along.sum()
        assert np.sqrt(variance) == pytest.approx(smoothness * 120, rel=0.01)


def areas(displacement: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return twice the signed areas of the four triangles of each square of pixels, once displaced."""
    rows, columns = np.indices(displacement.shape[1:])
    down, right = rows + displacement[0].astype(float), columns + displacement[1].astype(float)
    corners = [
        np.stack([down[s], right[s]])
        for s in (np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, 1:], np.s_[1:, :-1])
    ]
    found = []
    for number in range(4):
        before, here, after = (corners[(number + step) % 4] for step in (-1, 0, 1))
        (a, b), (c, d) = after - here, before - here
        found.append(b * c - a * d)
    return np.stack(found)


def test_no_displacement_folds_an_image() -> None:
    folded = 0
    for number, shape in enumerate([(40, 33), (25, 61), (7, 9)] * 6):
        rough, cells = 0.02 * (1 + number % 5), 1 + number % 7
        total = np.zeros((2, *shape), np.float32)
        for lattice in (elastic_lattice(shape, 0.4, rough), grid_lattice(shape, 0.9, cells)):
            drawn = 2 * uniform(number, "nodes", lattice.degree, shape=(2, *lattice.nodes(shape))) - 1
            total += lattice.displacement(drawn, shape)
        folded += areas(total).min() < 0
        safe = unfolded(total)
        assert areas(safe).min() >= (1 - GREATEST_GRADIENT) ** 2
        np.testing.assert_allclose(safe * (abs(total).max() / abs(safe).max()), total, rtol=1e-5, atol=1e-6)
    assert folded > 12


def test_what_cannot_fold_is_left_as_it_is() -> None:
    gentle = grid_lattice((30, 30), 0.1, 3).displacement(np.ones((2, 5, 5)), (30, 30))
    assert unfolded(gentle) is gentle
    steep = np.zeros((2, 4, 5), np.float32)
    steep[1, 2, 3] = 0.5
    np.testing.assert_allclose(unfolded(steep)[1, 2, 3], 0.5 * GREATEST_GRADIENT / (0.5 + 0.5))


def test_every_pixel_is_read_at_its_displaced_place() -> None:
    """The affine map and the displacement together, one interpolation, written out pixel by pixel."""
    shape, shift, scale, degrees = (70, 11), (1.7, -2.3), 0.9, 13.0
    rng = np.random.default_rng(4)
    image, mask = rng.random(shape, np.float32), (rng.random(shape) < 0.4).astype(np.uint8)
    away = (3 * rng.random((2, *shape)) - 1.5).astype(np.float32)
    matrix = warping._source_of(shape, shift, scale, degrees)
    expected, shares = np.zeros(shape), np.zeros(shape)
    for row in range(shape[0]):
        for column in range(shape[1]):
            place = np.array([column + away[1, row, column], row + away[0, row, column], 1.0])
            x, y = matrix @ place
            left, above = int(np.floor(x)), int(np.floor(y))
            for i in (above, above + 1):
                for j in (left, left + 1):
                    weight = (1 - abs(y - i)) * (1 - abs(x - j))
                    nearest = min(max(i, 0), shape[0] - 1), min(max(j, 0), shape[1] - 1)
                    expected[row, column] += weight * image[nearest]
                    shares[row, column] += weight * (mask[i, j] if nearest == (i, j) else 0)
    move(image, mask, shift, scale, degrees, away)
    # Points are rounded to 1/32 of a pixel, so a value is off by up to 1/64 of each difference of neighbours.
    assert abs(image - expected).max() < 2 / 64 + 1e-3
    assert abs(image - expected).mean() < 0.01
    clear = abs(shares - 0.5) > 2 / 64 + 1e-3
    assert clear.sum() > 0.9 * mask.size
    np.testing.assert_array_equal(mask[clear], shares[clear] >= 0.5)


def test_a_displaced_mask_stays_with_its_radiograph() -> None:
    wanted = AugmentationSettings(0.5, 0.05, 0.1, 15, elastic=0.1, grid_distortion=0.4)
    for place in range(20):
        mask = np.zeros((48, 37), np.uint8)
        mask[12:30, 9:22] = 1
        mask[20:36, 15:30] = 1
        image, before = mask.astype(np.float32), mask.copy()
        augment(image, mask, wanted, 3, 1, place)
        np.testing.assert_array_equal(image >= 0.5, mask == 1)
        assert (mask != before).sum() > 40
        # Nothing is lost: an area changes with the scale, and where it is pressed or stretched.
        assert 0.4 < mask.sum() / before.sum() < 2.5
