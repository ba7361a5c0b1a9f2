"""Augmentation: random changes of the training images and their masks.

The result depends only on the settings, the seed, the epoch and the image's place in the epoch, not on the
threads that do the work. Radiographs stay float32 in [0, 1] and masks in {0, 1}. A mask and its radiograph
are moved by the same map.

    flip        left and right exchanged, with probability `horizontal_flip`
    move        with `affine_probability` one affine map about the image's centre: rotated by up to
                `rotate` degrees either way, scaled by 1 - `scale` to 1 + `scale`, shifted by up to `shift`
                of the height and of the width; each number uniform in its range
    tone        with `intensity_probability` x = mean + c * (x - mean) + b, c from 1 - `contrast` to
                1 + `contrast`, b up to `brightness` either way; then x ** g, where log g is uniform up to
                log(1 + `gamma`) either way
    noise       with `noise_probability` Gaussian noise, independent for each pixel, its standard deviation
                uniform up to `noise`

Radiograph and mask (as 0.0 and 1.0) are interpolated bilinearly at the same points; the mask is set where
the result is at least 1/2, as in `data.radiographs.resize`. Nearest-neighbour interpolation of the mask would
move the outline against the radiograph by up to half a pixel. The points are rounded to 1/32 of a pixel, like
those of `cv2.warpAffine` in OpenCV 4; OpenCV 5 does not round and gives other images. This module computes
the points itself, so that the images are the same with any version of OpenCV, or without it.

Outside the image the radiograph continues with the value at its edge, the mask with 0. Black would add a
straight edge between light and dark through the chest, and a thin edge along a dark field looks like a
pneumothorax. A mirror image would show parts of lungs without a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.randomness import normal, uniform

_FINE_BITS, _STEP_BITS = 10, 5  # points are added up in 1/1024 of a pixel and rounded to 1/32
_FINE, _STEPS = 1 << _FINE_BITS, 1 << _STEP_BITS
_ROWS = 64  # rows moved at a time, so that intermediate results stay in the processor's cache
_BORDERS = 1, 2  # pixels before and after an image: a point on the last border has a neighbour to its right


class _Points(NamedTuple):
    """The points at which pixels are interpolated, (rows, W) each.

    Attributes:
        place: Index, in the image with its borders, of the pixel above and to the left of the point.
        stride: Pixels in a row of that image.
        right: Distance of the point to the right of that pixel, in [0, 1).
        down: Distance of the point below that pixel, in [0, 1).
    """

    place: NDArray[np.signedinteger[Any]]
    stride: int
    right: NDArray[np.float32]
    down: NDArray[np.float32]


@dataclass(frozen=True)
class AugmentationSettings:
    """The probabilities and amounts of the changes; see the module. Amounts of zero change nothing.

    Args:
        horizontal_flip: Probability.
        shift: Share of height and width, from 0 to below 1.
        scale: From 0 to below 1.
        rotate: Degrees, from 0 to 180.
        affine_probability: Probability of an affine map.
        brightness: Share of the full scale, from 0 to 1.
        contrast: From 0 to 1.
        gamma: At least 0.
        intensity_probability: Probability of a change of tone.
        noise: Share of the full scale, from 0 to 1.
        noise_probability: Probability of noise.
    """

    horizontal_flip: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    affine_probability: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    intensity_probability: float = 1.0
    noise: float = 0.0
    noise_probability: float = 1.0

    @property
    def moves(self) -> bool:
        """Whether affine maps are possible."""
        return self.affine_probability > 0 and max(self.shift, self.scale, self.rotate) > 0

    @property
    def tones(self) -> bool:
        """Whether changes of tone are possible."""
        return self.intensity_probability > 0 and max(self.brightness, self.contrast, self.gamma) > 0

    @property
    def roughens(self) -> bool:
        """Whether noise is possible."""
        return self.noise_probability > 0 and self.noise > 0

    @property
    def alters(self) -> bool:
        """Whether any change is possible."""
        return self.horizontal_flip > 0 or self.moves or self.tones or self.roughens


def augment(
    image: NDArray[np.float32],
    mask: NDArray[np.uint8],
    settings: AugmentationSettings,
    seed: int,
    epoch: int,
    place: int,
) -> None:
    """Change one radiograph and its mask, (H, W) each, in place.

    Args:
        image: In [0, 1].
        mask: In {0, 1}.
        settings: Probabilities and amounts.
        seed: Seed of the random numbers, with the next two.
        epoch: Number of the epoch.
        place: Place of the image in the epoch, from 0.
    """
    key = ("augmentation", epoch, place)
    # All numbers are always drawn, so that no setting changes another setting's numbers.
    coins = uniform(seed, *key, "coins", shape=(4,))
    drawn = 2.0 * uniform(seed, *key, "amounts", shape=(7,)) - 1.0
    if coins[0] < settings.horizontal_flip:
        image[:], mask[:] = image[:, ::-1].copy(), mask[:, ::-1].copy()
    if settings.moves and coins[1] < settings.affine_probability:
        height, width = image.shape
        shift = (drawn[0] * settings.shift * height, drawn[1] * settings.shift * width)
        move(image, mask, shift, 1.0 + drawn[2] * settings.scale, drawn[3] * settings.rotate)
    if settings.tones and coins[2] < settings.intensity_probability:
        gamma = (1.0 + settings.gamma) ** drawn[6]
        tone(image, drawn[4] * settings.brightness, 1.0 + drawn[5] * settings.contrast, gamma)
    if settings.roughens and coins[3] < settings.noise_probability:
        deviation = settings.noise * uniform(seed, *key, "deviation", shape=())
        image += np.float32(deviation) * normal(seed, *key, "noise", shape=image.shape)
        np.clip(image, 0.0, 1.0, out=image)


def move(
    image: NDArray[np.float32],
    mask: NDArray[np.uint8],
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    degrees: float = 0.0,
) -> None:
    """Map image and mask, in place, by out = centre + shift + scale * rotation(in - centre).

    Args:
        image: (H, W) in [0, 1].
        mask: (H, W) in {0, 1}.
        shift: Pixels down and to the right.
        scale: Above 0.
        degrees: Counter-clockwise rotation of the picture on a screen.
    """
    source = _source_of(image.shape, shift, scale, degrees)
    bordered = np.pad(image, _BORDERS, mode="edge")
    mask_bordered = np.pad(mask.astype(np.float32), _BORDERS) if mask.any() else None
    for first in range(0, len(image), _ROWS):
        rows = np.arange(first, min(first + _ROWS, len(image)))
        points = _points(source, rows, image.shape)
        np.clip(_read_at(points, bordered), 0.0, 1.0, out=image[rows[0] : rows[-1] + 1])
        if mask_bordered is not None:
            mask[rows[0] : rows[-1] + 1] = _read_at(points, mask_bordered) >= 0.5


def tone(image: NDArray[np.float32], brightness: float, contrast: float, gamma: float) -> None:
    """Change contrast (about the mean), brightness and gamma of an image, (H, W) in [0, 1], in place."""
    mean = float(image.mean(dtype=np.float64))
    image *= np.float32(contrast)
    image += np.float32((1.0 - contrast) * mean + brightness)
    np.clip(image, 0.0, 1.0, out=image)
    if gamma != 1.0:
        # image ** gamma, within 1e-6: NumPy has vector instructions for these on more processors.
        with np.errstate(divide="ignore"):  # log(0) is -inf, and exp(-inf) is 0
            np.log(image, out=image)
        image *= np.float32(gamma)
        np.exp(image, out=image)
        np.clip(image, 0.0, 1.0, out=image)


def _source_of(
    shape: tuple[int, ...], shift: tuple[float, float], scale: float, degrees: float
) -> NDArray[np.float64]:
    """Return the (2, 3) matrix from a point (x, y, 1) of the result to its point in the source image."""
    centre = (np.array([shape[1], shape[0]]) - 1) / 2.0
    cos, sin = np.cos(np.radians(degrees)) / scale, np.sin(np.radians(degrees)) / scale
    back = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([back, centre - back @ (centre + np.array(shift[::-1]))])


def _points(source: NDArray[np.float64], rows: NDArray[np.int64], shape: tuple[int, ...]) -> _Points:
    """Return the source points of some rows of the result, in an image with `_BORDERS` around it.

    Points outside the borders are moved into the borders, where all values are the same in that direction.
    """
    height, width = shape
    columns = np.arange(width)
    stride = width + sum(_BORDERS)
    whole = []
    for (by_column, by_row, constant), size in zip(source, (width, height), strict=True):
        # In 1/1024 of a pixel, separately along rows and columns, as OpenCV 4 adds them; then in 1/32.
        along_rows = np.rint((by_row * rows + constant) * _FINE) + _FINE // _STEPS // 2
        fine = _sums_of(along_rows, np.rint(by_column * columns * _FINE))
        fine >>= _FINE_BITS - _STEP_BITS
        np.clip(fine, -_STEPS, _STEPS * size, out=fine)
        fine += _STEPS * _BORDERS[0]
        whole.append(fine)
    right, down = ((each & (_STEPS - 1)).astype(np.float32) / np.float32(_STEPS) for each in whole)
    place = whole[1] >> _STEP_BITS
    place *= stride
    place += whole[0] >> _STEP_BITS
    return _Points(place, stride, right, down)


def _sums_of(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.signedinteger[Any]]:
    """Return the outer sum of two arrays of whole numbers, as int32 (faster) if the sums fit."""
    greatest = np.abs(rows).max() + np.abs(columns).max()
    kind = np.int32 if greatest < 2**31 else np.int64
    limit = float(2**61)  # larger values occur only if the whole image shrinks to far less than a pixel
    down, right = (np.clip(each, -limit, limit).astype(kind) for each in (rows, columns))
    sums: NDArray[np.signedinteger[Any]] = np.add.outer(down, right)
    return sums


def _read_at(points: _Points, bordered: NDArray[np.float32]) -> NDArray[np.float32]:
    """Interpolate bilinearly: first between neighbours in a row, then between the two rows."""
    flat = bordered.ravel()

    def between(first: int) -> NDArray[np.float32]:
        left = flat[first:].take(points.place)
        found: NDArray[np.float32] = flat[first + 1 :].take(points.place)
        found -= left
        found *= points.right
        found += left
        return found

    above, found = between(0), between(points.stride)
    found -= above
    found *= points.down
    found += above
    return found
