"""Augmentation: random changes of the training images and their masks.

The result depends only on the settings, the seed, the epoch and the image's place in the epoch, not on the
threads that do the work. Radiographs stay float32 in [0, 1] and masks in {0, 1}. A mask and its radiograph
are moved by the same map.

    flip        left and right exchanged, with probability `horizontal_flip`
    move        with `affine_probability` one affine map about the image's centre: rotated by up to
                `rotate` degrees either way, scaled by 1 - `scale` to 1 + `scale`, shifted by up to `shift`
                of the height and of the width; each number uniform in its range
    elastic     with `elastic_probability` each pixel displaced by noise of up to `elastic` of the shorter
                side either way, smoothed by `elastic_smoothness` of the shorter side
    grid        with `grid_probability` the corners of `grid_cells` times `grid_cells` cells displaced by up
                to `grid_distortion` of a cell either way, and what is between them in proportion
    clahe       with `clahe_probability` contrast-limited adaptive histogram equalisation with `clahe_tiles`
                tiles along each side, the limit uniform from 1 to 1 + `clahe` (`data.radiographs.clahe`)
    tone        with `intensity_probability` x = mean + c * (x - mean) + b, c from 1 - `contrast` to
                1 + `contrast`, b up to `brightness` either way; then x ** g, where log g is uniform up to
                log(1 + `gamma`) either way
    noise       with `noise_probability` Gaussian noise, independent for each pixel, its standard deviation
                uniform up to `noise`

Move, elastic and grid are one map and one interpolation (`data.batches.warping`). Displacements are added and
then reduced so far that they cannot fold the image (`data.batches.displacement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.base.randomness import normal, uniform
from data.batches.displacement import Lattice, elastic_lattice, grid_lattice, unfolded
from data.batches.warping import move
from data.radiographs.clahe import Clahe, equalize


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
        elastic: Share of the shorter side, from 0 to 1.
        elastic_smoothness: Share of the shorter side, above 0.
        elastic_probability: Probability of an elastic displacement.
        grid_distortion: Share of a cell, from 0 to 1.
        grid_cells: Number of cells along each side, at least 1.
        grid_probability: Probability of a displaced grid.
        clahe: At least 0.
        clahe_tiles: Number of tiles along each side, at least 1.
        clahe_probability: Probability of an equalisation.
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
    elastic: float = 0.0
    elastic_smoothness: float = 0.1
    elastic_probability: float = 1.0
    grid_distortion: float = 0.0
    grid_cells: int = 5
    grid_probability: float = 1.0
    clahe: float = 0.0
    clahe_tiles: int = 8
    clahe_probability: float = 1.0

    @property
    def moves(self) -> bool:
        """Whether affine maps are possible."""
        return self.affine_probability > 0 and max(self.shift, self.scale, self.rotate) > 0

    @property
    def displaces(self) -> bool:
        """Whether displacements are possible."""
        return min(self.elastic, self.elastic_probability) > 0 or (
            min(self.grid_distortion, self.grid_probability) > 0
        )

    @property
    def equalizes(self) -> bool:
        """Whether equalisations are possible."""
        return self.clahe_probability > 0 and self.clahe > 0

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
        return (
            self.horizontal_flip > 0
            or self.moves
            or self.displaces
            or self.equalizes
            or self.tones
            or self.roughens
        )


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
    # Each number has its place in a stream, so that no setting changes another setting's numbers.
    coins = uniform(seed, *key, "coins", shape=(7,))
    drawn = 2.0 * uniform(seed, *key, "amounts", shape=(8,)) - 1.0
    if coins[0] < settings.horizontal_flip:
        image[:], mask[:] = image[:, ::-1].copy(), mask[:, ::-1].copy()
    height, width = image.shape
    lattices = {}
    if settings.elastic and coins[4] < settings.elastic_probability:
        lattices["elastic"] = elastic_lattice((height, width), settings.elastic, settings.elastic_smoothness)
    if settings.grid_distortion and coins[5] < settings.grid_probability:
        lattices["grid"] = grid_lattice((height, width), settings.grid_distortion, settings.grid_cells)
    displacement = _displacement((height, width), lattices, seed, key)
    if settings.moves and coins[1] < settings.affine_probability:
        shift = (drawn[0] * settings.shift * height, drawn[1] * settings.shift * width)
        scale, degrees = 1.0 + drawn[2] * settings.scale, drawn[3] * settings.rotate
        move(image, mask, shift, scale, degrees, displacement)
    elif displacement is not None:
        move(image, mask, displacement=displacement)
    if settings.equalizes and coins[6] < settings.clahe_probability:
        limit = 1.0 + settings.clahe * (1.0 + drawn[7]) / 2.0
        image[:] = equalize(image, Clahe(limit, settings.clahe_tiles))
    if settings.tones and coins[2] < settings.intensity_probability:
        gamma = (1.0 + settings.gamma) ** drawn[6]
        tone(image, drawn[4] * settings.brightness, 1.0 + drawn[5] * settings.contrast, gamma)
    if settings.roughens and coins[3] < settings.noise_probability:
        deviation = settings.noise * uniform(seed, *key, "deviation", shape=())
        image += np.float32(deviation) * normal(seed, *key, "noise", shape=image.shape)
        np.clip(image, 0.0, 1.0, out=image)


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


def _displacement(
    shape: tuple[int, int], lattices: Mapping[str, Lattice], seed: int, key: tuple[str | int, ...]
) -> NDArray[np.float32] | None:
    """Return a random displacement, (2, H, W) in pixels, that folds nothing; None without nodes.

    Args:
        shape: Height and width of the image.
        lattices: The nodes of the displacements to add, by the names of their random numbers.
        seed: Seed of the random numbers.
        key: The beginning of their path.
    """
    if not lattices:
        return None
    total = np.zeros((2, *shape), np.float32)
    for name, lattice in lattices.items():
        drawn = 2.0 * uniform(seed, *key, name, shape=(2, *lattice.nodes(shape))) - 1.0
        total += lattice.displacement(drawn, shape)
    return unfolded(total)
