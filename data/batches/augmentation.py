"""Altered images for training: what a radiograph might as well have looked like.

Promises: what becomes of an image depends on the settings, the seed, the epoch and the image's place in
the epoch alone, never on the threads that work; radiographs stay float32 in [0, 1], masks in {0, 1}; and a
mask is moved by the very map that moves its radiograph.

    flip        left and right exchanged, with probability `horizontal_flip`
    move        with `affine_probability` one affine map about the image's centre: turned by up to
                `rotate` degrees either way, scaled by 1 - `scale` to 1 + `scale`, shifted by up to `shift`
                of the height and of the width; each number uniform in its range
    tone        with `intensity_probability` x = mean + c * (x - mean) + b, c from 1 - `contrast` to
                1 + `contrast`, b up to `brightness` either way; then x ** g, where log g is uniform up to
                log(1 + `gamma`) either way
    noise       with `noise_probability` Gaussian, the same for no two pixels, its standard deviation
                uniform up to `noise`

How a mask follows: radiograph and mask (as 0.0 and 1.0) are read at the same points by the same bilinear
interpolation, and the mask is where that gives at least 1/2, as in `data.radiographs.resize`. Reading the
nearest pixel instead would move the outline against the radiograph by up to half a pixel. The points are
rounded to 1/32 of a pixel, as `cv2.warpAffine` of OpenCV 4 does; OpenCV 5 does not, and gives other images.
This module computes them itself, so that the images are the same with any version of it, and without it.

Outside its edges the radiograph goes on with the value at the edge, the mask with 0. Black would draw a
new straight edge between light and dark through the chest, and a thin such edge along a dark field is just
what a pneumothorax looks like; a mirror image would show parts of lungs without a label of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.randomness import normal, uniform

_FINE_BITS, _STEP_BITS = 10, 5  # of a pixel, in which points are added up, and to which they are rounded
_FINE, _STEPS = 1 << _FINE_BITS, 1 << _STEP_BITS
_ROWS = 64  # moved at a time, so that what is computed on the way stays in the processor's cache
_BORDERS = 1, 2  # pixels before and after an image: a point on the last border has a neighbour to its right


class _Points(NamedTuple):
    """Where pixels are read, (rows, W) each.

    Attributes:
        place: Index, in the image with its borders, of the pixel above and to the left.
        stride: Pixels in a row of that image.
        right: How far to the right of it, in [0, 1).
        down: How far below it.
    """

    place: NDArray[np.signedinteger[Any]]
    stride: int
    right: NDArray[np.float32]
    down: NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """How much is altered; see the module. All zero alters nothing.

    Args:
        horizontal_flip: Probability.
        shift: Share of height and width, from 0 to below 1.
        scale: From 0 to below 1.
        rotate: Degrees, from 0 to 180.
        affine_probability: Of being moved at all.
        brightness: Share of the full scale, from 0 to 1.
        contrast: From 0 to 1.
        gamma: At least 0.
        intensity_probability: Of another tone at all.
        noise: Share of the full scale, from 0 to 1.
        noise_probability: Of any noise at all.
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
        """Whether there is any affine map to draw."""
        return self.affine_probability > 0 and max(self.shift, self.scale, self.rotate) > 0

    @property
    def tones(self) -> bool:
        """Whether there is any change of tone to draw."""
        return self.intensity_probability > 0 and max(self.brightness, self.contrast, self.gamma) > 0

    @property
    def roughens(self) -> bool:
        """Whether there is any noise to draw."""
        return self.noise_probability > 0 and self.noise > 0

    @property
    def alters(self) -> bool:
        """Whether there is anything to do."""
        return self.horizontal_flip > 0 or self.moves or self.tones or self.roughens


def augment(
    image: NDArray[np.float32],
    mask: NDArray[np.uint8],
    settings: Augmentation,
    seed: int,
    epoch: int,
    place: int,
) -> None:
    """Alter one radiograph and its mask, (H, W) each, where they lie.

    Args:
        image: In [0, 1].
        mask: In {0, 1}.
        settings: What is drawn.
        seed: Key of the drawing, as the two after it.
        epoch: Its number.
        place: Of the image in the epoch, from 0.
    """
    key = ("augmentation", epoch, place)
    # All are drawn whatever is asked for, so that one setting changes no other's numbers.
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
    """Map both by out = centre + shift + scale * turn(in - centre), where they lie.

    Args:
        image: (H, W) in [0, 1].
        mask: (H, W) in {0, 1}.
        shift: Down and right, in pixels.
        scale: Above 0.
        degrees: Counter-clockwise, as the picture is seen.
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
    """Change the values of (H, W) in [0, 1] where they lie: contrast about the mean, brightness, gamma."""
    mean = float(image.mean(dtype=np.float64))
    image *= np.float32(contrast)
    image += np.float32((1.0 - contrast) * mean + brightness)
    np.clip(image, 0.0, 1.0, out=image)
    if gamma != 1.0:
        # image ** gamma, within 1e-6: NumPy has vector instructions for these on more processors.
        with np.errstate(divide="ignore"):  # 0 has the logarithm -inf, and that the exponential 0
            np.log(image, out=image)
        image *= np.float32(gamma)
        np.exp(image, out=image)
        np.clip(image, 0.0, 1.0, out=image)


def _source_of(
    shape: tuple[int, ...], shift: tuple[float, float], scale: float, degrees: float
) -> NDArray[np.float64]:
    """The (2, 3) matrix that gives for a point (x, y, 1) of the result the point it is read at."""
    centre = (np.array([shape[1], shape[0]]) - 1) / 2.0
    cos, sin = np.cos(np.radians(degrees)) / scale, np.sin(np.radians(degrees)) / scale
    back = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([back, centre - back @ (centre + np.array(shift[::-1]))])


def _points(source: NDArray[np.float64], rows: NDArray[np.int64], shape: tuple[int, ...]) -> _Points:
    """Where the pixels of some rows of the result are read, in an image with `_BORDERS` around it.

    Beyond a border there is nothing but the border, so points far outside are read in it.
    """
    height, width = shape
    columns = np.arange(width)
    stride = width + sum(_BORDERS)
    whole = []
    for (by_column, by_row, constant), size in zip(source, (width, height), strict=True):
        # In 1/1024 of a pixel, along rows and columns apart, as OpenCV 4 adds them; then in 1/32.
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
    """All sums of one number of each, which are whole; in 32 bits, which are faster, where they fit."""
    greatest = np.abs(rows).max() + np.abs(columns).max()
    kind = np.int32 if greatest < 2**31 else np.int64
    limit = float(2**61)  # beyond it, the whole image has shrunk to far less than a pixel
    down, right = (np.clip(each, -limit, limit).astype(kind) for each in (rows, columns))
    sums: NDArray[np.signedinteger[Any]] = np.add.outer(down, right)
    return sums


def _read_at(points: _Points, bordered: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bilinear interpolation: first between neighbours in a row, then between the two rows."""
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
