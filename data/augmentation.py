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
interpolation (OpenCV's, which rounds points to 1/32 of a pixel), and the mask is where that gives at
least 1/2, as in `data.resize`. Reading the nearest pixel instead would move the outline against the
radiograph by up to half a pixel.

Outside its edges the radiograph goes on with the value at the edge, the mask with 0. Black would draw a
new straight edge between light and dark through the chest, and a thin such edge along a dark field is just
what a pneumothorax looks like; a mirror image would show parts of lungs without a label of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from core.randomness import normal, uniform


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
    image[:] = _read_at(source, image, cv2.BORDER_REPLICATE)
    np.clip(image, 0.0, 1.0, out=image)
    if mask.any():
        mask[:] = _read_at(source, mask.astype(np.float32), cv2.BORDER_CONSTANT) >= 0.5


def tone(image: NDArray[np.float32], brightness: float, contrast: float, gamma: float) -> None:
    """Change the values of (H, W) in [0, 1] where they lie: contrast about the mean, brightness, gamma."""
    mean = float(image.mean(dtype=np.float64))
    image *= np.float32(contrast)
    image += np.float32((1.0 - contrast) * mean + brightness)
    np.clip(image, 0.0, 1.0, out=image)
    if gamma != 1.0:
        cv2.pow(image, gamma, dst=image)  # within 1e-6 of NumPy's, in a fifth of the time
        np.clip(image, 0.0, 1.0, out=image)


def _source_of(
    shape: tuple[int, ...], shift: tuple[float, float], scale: float, degrees: float
) -> NDArray[np.float64]:
    """The (2, 3) matrix that gives for a point (x, y, 1) of the result the point it is read at."""
    centre = (np.array([shape[1], shape[0]]) - 1) / 2.0
    cos, sin = np.cos(np.radians(degrees)) / scale, np.sin(np.radians(degrees)) / scale
    back = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([back, centre - back @ (centre + np.array(shift[::-1]))])


def _read_at(source: NDArray[np.float64], pixels: NDArray[np.float32], border: int) -> NDArray[np.float32]:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found: NDArray[np.float32] = cv2.warpAffine(
        pixels, source, pixels.shape[::-1], flags=flags, borderMode=border, borderValue=0
    )
    return found
