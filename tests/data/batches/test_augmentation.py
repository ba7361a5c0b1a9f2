"""Augmented images: exact where the geometry is exact, as computed elsewhere; masks follow their images.

The end of the test run lists wrong ways to move a mask, and that the tests notice each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.base.randomness import uniform
from data.batches import warping
from data.batches.augmentation import AugmentationSettings, augment, tone
from data.batches.warping import move
from data.radiographs.clahe import Clahe, equalize

SHAPES = [(9, 14), (16, 11), (12, 12), (13, 13)]
Image = NDArray[np.float32]
Mask = NDArray[np.uint8]


def drawn(shape: tuple[int, int], seed: int = 0) -> tuple[Image, Mask]:
    rng = np.random.default_rng(seed)
    return rng.random(shape, np.float32), (rng.random(shape) < 0.3).astype(np.uint8)


def moved(image: Image, mask: Mask, *how: Any, **more: Any) -> tuple[Image, Mask]:
    image, mask = image.copy(), mask.copy()
    move(image, mask, *how, **more)
    return image, mask


def altered(image: Image, mask: Mask, wanted: AugmentationSettings, *key: int) -> tuple[Image, Mask]:
    image, mask = image.copy(), mask.copy()
    augment(image, mask, wanted, *(key or (1, 2, 3)))
    return image, mask


@pytest.mark.parametrize("shape", SHAPES)
def test_without_settings_nothing_is_altered(shape: tuple[int, int]) -> None:
    image, mask = drawn(shape)
    assert not AugmentationSettings().alters
    for found, expected in zip(altered(image, mask, AugmentationSettings()), (image, mask), strict=True):
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_flip_is_exact(shape: tuple[int, int]) -> None:
    image, mask = drawn(shape)
    found = altered(image, mask, AugmentationSettings(horizontal_flip=1.0))
    np.testing.assert_array_equal(found[0], np.fliplr(image))
    np.testing.assert_array_equal(found[1], np.fliplr(mask))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 0), (0, 3), (-3, 1), (4, -5)])
def test_a_shift_by_whole_pixels_is_exact(shape: tuple[int, int], down: int, right: int) -> None:
    image, mask = drawn(shape)
    found_image, found_mask = moved(image, mask, (down, right))
    for row in range(shape[0]):
        for column in range(shape[1]):
            source = (row - down, column - right)
            nearest = tuple(np.clip(source, 0, np.array(shape) - 1))
            assert found_image[row, column] == image[nearest]
            assert found_mask[row, column] == (mask[nearest] if nearest == source else 0)


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_quarter_turns_of_a_square_are_exact(size: int, quarters: int) -> None:
    image, mask = drawn((size, size))
    found = moved(image, mask, degrees=90.0 * quarters)
    np.testing.assert_allclose(found[0], np.rot90(image, quarters), atol=1e-6)
    np.testing.assert_array_equal(found[1], np.rot90(mask, quarters))


def test_half_a_turn_of_any_image_is_exact() -> None:
    for shape in SHAPES:
        image, mask = drawn(shape)
        found = moved(image, mask, degrees=180.0)
        np.testing.assert_allclose(found[0], image[::-1, ::-1], atol=1e-6)
        np.testing.assert_array_equal(found[1], mask[::-1, ::-1])


def landing(
    point: tuple[float, float],
    shape: tuple[int, int],
    shift: tuple[float, float],
    scale: float,
    degrees: float,
) -> tuple[float, float]:
    """Return the new position of a point (row, column), by trigonometry; up is towards smaller rows."""
    middle = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    up, right = middle[0] - point[0], point[1] - middle[1]
    angle, length = math.atan2(up, right) + math.radians(degrees), scale * math.hypot(up, right)
    return (
        middle[0] + shift[0] - length * math.sin(angle),
        middle[1] + shift[1] + length * math.cos(angle),
    )


MAPS = [
    ((0.0, 0.0), 1.0, 17.0),
    ((3.3, -5.7), 1.0, 0.0),
    ((0.0, 0.0), 1.25, 0.0),
    ((-4.5, 6.25), 0.8, -33.0),
    ((2.0, 1.0), 1.1, 101.0),
]


@pytest.mark.parametrize(("shift", "scale", "degrees"), MAPS)
def test_a_mask_has_the_area_and_the_centroid_that_geometry_predicts(
    shift: tuple[float, float], scale: float, degrees: float
) -> None:
    shape = (101, 120)
    # Round outlines: a straight one along the pixels would snap to whole pixels.
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    mask = (((rows - 46) / 13) ** 2 + ((columns - 57) / 21) ** 2 < 1).astype(np.uint8)
    mask[(rows - 56) ** 2 + (columns - 71) ** 2 < 90] = 1  # no symmetry of any kind
    _, found = moved(mask.astype(np.float32), mask, shift, scale, degrees)
    assert found.sum() == pytest.approx(mask.sum() * scale**2, rel=0.01)
    centroids = [np.argwhere(which).mean(axis=0) for which in (mask, found)]
    expected = landing(tuple(centroids[0]), shape, shift, scale, degrees)
    np.testing.assert_allclose(centroids[1], expected, atol=0.2)  # pixels


@pytest.mark.parametrize(("shift", "scale", "degrees"), MAPS)
def test_a_radiograph_is_read_where_it_should_be(
    shift: tuple[float, float], scale: float, degrees: float
) -> None:
    """Two linear gradients show where a pixel came from: bilinear interpolation reproduces them exactly."""
    shape = (41, 60)
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    read = [
        moved(slope / 64, np.zeros(shape, np.uint8), shift, scale, degrees)[0] * 64
        for slope in (rows, columns)
    ]
    compared = 0
    for row in range(shape[0]):
        for column in range(shape[1]):
            source = (float(read[0][row, column]), float(read[1][row, column]))
            if 0 < source[0] < shape[0] - 1 and 0 < source[1] < shape[1] - 1:
                # Where it reads is rounded to 1/32 of a pixel.
                expected = landing(source, shape, shift, scale, degrees)
                assert math.dist(expected, (row, column)) < scale * 0.04
                compared += 1
    assert compared > 700


def read_by_hand(pixels: Image, matrix: NDArray[np.float64], mask: bool) -> NDArray[np.float64]:
    """Every pixel of the result one by one: the point in 1/32 of a pixel, and what lies around it.

    `matrix` gives the point (x, y) for a pixel (column, row, 1). As in OpenCV 4, the share of the column and
    that of the row are rounded to 1/1024 before they are added.
    """
    height, width = pixels.shape

    def value(row: int, column: int) -> float:
        if mask and not (0 <= row < height and 0 <= column < width):
            return 0.0
        return float(pixels[min(max(row, 0), height - 1), min(max(column, 0), width - 1)])

    found = np.zeros(pixels.shape)
    for row in range(height):
        for column in range(width):
            point = []
            for by_column, by_row, constant in matrix.tolist():
                shares = round((by_row * row + constant) * 1024), round(by_column * column * 1024)
                point.append((sum(shares) + 16) // 32)
            (left, x), (above, y) = (divmod(place, 32) for place in point)
            for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = abs(1 - down - y / 32) * abs(1 - right - x / 32)
                found[row, column] += weight * value(above + down, left + right)
    return found


@pytest.mark.parametrize(
    ("shape", "shift", "scale", "degrees"),
    [
        ((9, 14), (0.4, -1.3), 1.1, 11.0),
        ((70, 5), (-2.75, 0.6), 0.83, -24.0),  # of more rows than are moved at a time
        ((1, 7), (0.0, 2.4), 1.0, 0.0),
        ((6, 11), (5.9, 10.9), 0.05, 170.0),  # most of it from beyond the edges
        ((8, 5), (1.5, -2.0), 1e-6, 33.0),  # less than a pixel of it is left: beyond 32 bits
        ((8, 5), (0.5, 0.5), 40.0, 0.0),
    ],
)
def test_every_pixel_is_read_where_it_is_said(
    shape: tuple[int, int], shift: tuple[float, float], scale: float, degrees: float
) -> None:
    image, mask = drawn(shape, seed=3)
    mask[0, -1] = 1
    matrix = warping._source_of(shape, shift, scale, degrees)
    found = moved(image, mask, shift, scale, degrees)
    np.testing.assert_allclose(found[0], read_by_hand(image, matrix, False), atol=3e-7)
    shares = read_by_hand(mask.astype(np.float32), matrix, True)
    clear = abs(shares - 0.5) > 1e-6
    assert clear.sum() > 0.8 * mask.size
    np.testing.assert_array_equal(found[1][clear], shares[clear] >= 0.5)


def blob(shape: tuple[int, int], rng: np.random.Generator) -> Mask:
    """Return an irregular region away from the edges."""
    mask = np.zeros(shape, np.uint8)
    height, width = shape
    mask[height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
    mask[height // 3 : height // 2, width // 4 : width // 2] = rng.random(
        (height // 2 - height // 3, width // 2 - width // 4)
    ) < 0.7  # fmt: skip
    return mask


def out_of_step(how: Callable[..., None]) -> str | None:
    """Return how a mask deviates from its radiograph; None if it does not."""
    rng = np.random.default_rng(5)
    for number in range(60):
        shape = SHAPES[number % len(SHAPES)]
        shape = (3 * shape[0], 3 * shape[1])
        mask = blob(shape, rng)
        image = mask.astype(np.float32)
        down, right, scale, degrees = rng.uniform([-4, -4, 0.7, -90], [4, 4, 1.4, 90])
        how(image, mask, (down, right), scale, degrees)
        if not mask.any():
            return f"map {number}: the mask is gone"
        if wrong := int(((image >= 0.5) != mask.astype(bool)).sum()):
            return f"map {number}: {wrong} pixels of {mask.size} are labelled wrongly"
    return None


def test_a_mask_stays_with_its_radiograph() -> None:
    assert out_of_step(move) is None


def left_where_it_was(image: Image, mask: Mask, *how: Any) -> None:
    """The mask stays where it was."""
    move(image, mask.copy(), *how)


def nearest_pixel(image: Image, mask: Mask, shift: Any, scale: float, degrees: float) -> None:
    """The mask is read at the nearest pixel."""
    source = warping._source_of(mask.shape, shift, scale, degrees)
    before = mask.copy()
    move(image, mask, shift, scale, degrees)
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            x, y = np.rint(source @ (column, row, 1)).astype(int)
            inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
            mask[row, column] = before[y, x] if inside else 0


def turned_the_other_way(image: Image, mask: Mask, shift: Any, scale: float, degrees: float) -> None:
    """The mask is turned the other way."""
    other = mask.copy()
    move(image, mask, shift, scale, degrees)
    move(other.astype(np.float32), other, shift, scale, -degrees)
    mask[:] = other


def axes_exchanged(image: Image, mask: Mask, shift: Any, scale: float, degrees: float) -> None:
    """The mask is shifted down by what the radiograph is shifted to the right."""
    other = mask.copy()
    move(image, mask, shift, scale, degrees)
    move(other.astype(np.float32), other, shift[::-1], scale, degrees)
    mask[:] = other


def another_centre(image: Image, mask: Mask, shift: Any, scale: float, degrees: float) -> None:
    """The mask is turned about the corner between pixels, half a pixel away."""
    other, half = mask.copy(), np.array([0.5, 0.5])
    move(image, mask, shift, scale, degrees)
    turn = scale * np.array([
        [math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))],
        [math.sin(math.radians(degrees)), math.cos(math.radians(degrees))],
    ])  # fmt: skip
    move(other.astype(np.float32), other, tuple(shift + half - turn @ half), scale, degrees)
    mask[:] = other


@pytest.mark.parametrize(
    "how", [left_where_it_was, nearest_pixel, turned_the_other_way, axes_exchanged, another_centre]
)
def test_a_mask_led_astray_is_caught(
    how: Callable[..., None], record_property: Callable[[str, object], None]
) -> None:
    reason = out_of_step(how)
    assert reason is not None
    record_property("mutant", f"augmentation: {(how.__doc__ or '').rstrip('.')}: {reason}")


def test_outside_its_edges_a_radiograph_goes_on_and_a_mask_does_not() -> None:
    image, mask = np.full((10, 8), 0.7, np.float32), np.ones((10, 8), np.uint8)
    found_image, found_mask = moved(image, mask, (0.0, 0.0), 0.5)
    np.testing.assert_allclose(found_image, 0.7, rtol=1e-6)
    # Half of each length, between 2.5 and 7.5 down and 1.75 and 5.75 to the right at whole pixels.
    assert np.argwhere(found_mask).min(axis=0).tolist() == [2, 2]
    assert np.argwhere(found_mask).max(axis=0).tolist() == [7, 5]


def test_a_tone_by_hand() -> None:
    image = np.array([[0.2, 0.4], [0.6, 0.8]], np.float32)
    tone(image, 0.1, 0.5, 1.0)
    np.testing.assert_allclose(image, [[0.45, 0.55], [0.65, 0.75]], rtol=1e-6)
    tone(image, 0.0, 1.0, 2.0)
    np.testing.assert_allclose(image, [[0.2025, 0.3025], [0.4225, 0.5625]], rtol=1e-5)
    tone(image, -0.4, 2.0, 0.5)
    np.testing.assert_allclose(image**2, [[0, 0], [0.0725, 0.3525]], atol=1e-6)


def test_noise_has_the_deviation_that_was_drawn() -> None:
    image, mask = np.full((80, 90), 0.5, np.float32), np.ones((80, 90), np.uint8)
    deviations = []
    for place in range(60):
        found, _ = altered(image, mask, AugmentationSettings(noise=0.1), 1, 1, place)
        noise = found - image
        assert abs(noise.mean()) < 5 * 0.1 / 80
        neighbours = float(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1])
        assert abs(neighbours) < 0.06
        deviations.append(float(noise.std()))
    assert max(deviations) < 0.105
    assert np.mean(deviations) == pytest.approx(0.05, abs=0.015)
    assert np.std(deviations) == pytest.approx(0.1 / math.sqrt(12), rel=0.3)


def test_amounts_fill_their_ranges_evenly() -> None:
    """The random numbers are inferred from the change of one bright pixel and of a uniform grey."""
    shifts, tones = [], []
    for place in range(300):
        image, mask = np.zeros((41, 61), np.float32), np.zeros((41, 61), np.uint8)
        image[20, 30] = 1.0
        found, _ = altered(image, mask, AugmentationSettings(shift=0.25), 7, 1, place)
        shifts.append(np.array(np.unravel_index(found.argmax(), found.shape)) - [20, 30])
        grey, _ = altered(
            np.full((3, 3), 0.5, np.float32), mask[:3, :3], AugmentationSettings(gamma=1.0), 7, 1, place
        )
        tones.append(math.log2(math.log(float(grey[0, 0]), 0.5)))
    for values, limit in ((np.array(shifts)[:, 0], 10.25), (np.array(shifts)[:, 1], 15.25), (tones, 1.0)):
        assert np.abs(values).max() <= limit + 0.5 * (limit > 1)
        assert np.abs(values).max() > 0.9 * limit
        assert np.mean(values) == pytest.approx(0, abs=0.15 * limit)
        assert np.std(values) == pytest.approx(limit / math.sqrt(3), rel=0.1)
    assert abs(np.corrcoef(np.array(shifts).T)[0, 1]) < 0.2


def test_a_probability_is_a_share_of_the_images() -> None:
    image, mask = drawn((9, 7))
    for wanted in (
        AugmentationSettings(horizontal_flip=0.3),
        AugmentationSettings(shift=0.3, affine_probability=0.3),
        AugmentationSettings(elastic=0.3, elastic_probability=0.3),
        AugmentationSettings(grid_distortion=0.3, grid_probability=0.3),
        AugmentationSettings(clahe=3.0, clahe_tiles=2, clahe_probability=0.3),
        AugmentationSettings(contrast=0.5, intensity_probability=0.3),
        AugmentationSettings(noise=0.5, noise_probability=0.3),
    ):
        changed = [
            not np.array_equal(altered(image, mask, wanted, 1, 1, place)[0], image) for place in range(500)
        ]
        assert np.mean(changed) == pytest.approx(0.3, abs=0.07)


def test_the_key_decides() -> None:
    image, mask = drawn((16, 11))
    wanted = AugmentationSettings(0.5, 0.2, 0.2, 20, 1, 0.2, 0.2, 0.2, 1, 0.1)
    keys = [(1, 1, 0), (2, 1, 0), (1, 2, 0), (1, 1, 1)]
    found = [altered(image, mask, wanted, *key)[0].tobytes() for key in keys]
    assert len(set(found)) == 4
    assert found == [altered(image, mask, wanted, *key)[0].tobytes() for key in keys]


def test_one_setting_changes_no_other_s_numbers() -> None:
    image, mask = drawn((16, 11))
    for place in range(30):
        wanted = AugmentationSettings(0.5, rotate=20, affine_probability=0.5)
        alone = altered(image, mask, wanted, 1, 1, place)
        more = AugmentationSettings(
            0.5, rotate=20, affine_probability=0.5, brightness=0.3, contrast=0.3, gamma=1, noise=0.2
        )
        np.testing.assert_array_equal(altered(image, mask, more, 1, 1, place)[1], alone[1])


def test_an_equalization_has_the_limit_that_was_drawn() -> None:
    """The limit is the eighth number of the amounts, uniform from 1 to 1 + `clahe`."""
    image, mask = drawn((64, 48))
    for place in range(3):
        (share,) = uniform(1, "augmentation", 1, place, "amounts", shape=(8,))[7:]
        found = altered(image, mask, AugmentationSettings(clahe=6.0, clahe_tiles=2), 1, 1, place)
        np.testing.assert_array_equal(found[0], equalize(image, Clahe(1 + 6 * share, 2)))
        np.testing.assert_array_equal(found[1], mask)


def test_a_displacement_changes_no_other_s_numbers() -> None:
    image, mask = drawn((16, 11))
    seldom = AugmentationSettings(0.5, 0.1, 0.1, 20, 0.5, 0.2, 0.2, 0.2, 0.5, 0.1, 0.5, elastic=0.2)
    without, with_grid = (
        AugmentationSettings(**{**vars(seldom), "elastic_probability": 0.4, "grid_distortion": amount})
        for amount in (0.0, 0.5)
    )
    never = AugmentationSettings(**{**vars(seldom), "elastic": 0.0})
    same = []
    for place in range(60):
        one, both, none = (altered(image, mask, how, 1, 1, place) for how in (without, with_grid, never))
        same.append(np.array_equal(one[0], none[0]))
        gridless = AugmentationSettings(**{**vars(with_grid), "grid_probability": 0.0})
        np.testing.assert_array_equal(altered(image, mask, gridless, 1, 1, place)[0], one[0])
        assert not np.array_equal(both[0], one[0])
    assert np.mean(same) == pytest.approx(0.6, abs=0.2)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "a3c74cf05a1016a9dc4f3782bcf243d62aa33dd870a7f5ede19e79ab9821b4f6"),
        (
            {"elastic": 0.05, "elastic_probability": 0.7, "grid_distortion": 0.3, "grid_probability": 0.6},
            "ffa767fed25bdec86b8cdd86b51553400771d1d0c5b8d072fe86c3d627fcc365",
        ),
    ],
    ids=["version 0.2.0", "displacements"],
)
def test_images_of_before_stay(more: dict[str, float], expected: str) -> None:
    """With other bits, a run that is resumed would not be the same run. Hashes of what was given before."""
    wanted = AugmentationSettings(
        **{"horizontal_flip": 0.5, "shift": 0.1, "scale": 0.2, "rotate": 20, "affine_probability": 0.8},
        **{"brightness": 0.2, "contrast": 0.2, "intensity_probability": 0.7},
        **{"noise": 0.02, "noise_probability": 0.6},
        **more,
    )
    digest = hashlib.sha256()
    for place, shape in enumerate([(61, 83), (128, 96), (70, 45)] * 3):
        image = np.round(uniform(9, "image", place, shape=shape) * 255).astype(np.float32) / np.float32(255)
        mask = (uniform(9, "mask", place, shape=shape) < 0.3).astype(np.uint8)
        augment(image, mask, wanted, 3, 2, place)
        digest.update(image.tobytes() + mask.tobytes())
    assert digest.hexdigest() == expected


AMOUNT = st.floats(0, 1, exclude_max=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(AMOUNT, min_size=14, max_size=14), st.sampled_from(SHAPES), st.integers(0, 99))
def test_values_stay_what_they_are_allowed_to_be(
    amounts: list[float], shape: tuple[int, int], place: int
) -> None:
    amounts[3] *= 180
    *amounts, elastic, grid, clahe = amounts
    image, mask = drawn(shape, seed=place)
    image[:2] = [[0.0], [1.0]]
    wanted = AugmentationSettings(
        *amounts, elastic=elastic, grid_distortion=grid, grid_cells=1 + place, clahe=clahe, clahe_tiles=3
    )
    image, mask = altered(image, mask, wanted, 1, 1, place)
    assert image.dtype == np.float32
    assert mask.dtype == np.uint8
    assert 0 <= image.min() <= image.max() <= 1
    assert set(np.unique(mask)) <= {0, 1}
