"""A synthetic frontal chest radiograph, with or without a pneumothorax.

`draw` returns an image and the exact regions of its pneumothorax; both depend only on the seed, the number,
the size and the label. The image has body, lungs, heart and mediastinum, spine, ribs, clavicles, lung vessels
and noise; pose, proportions, exposure and contrast vary. A pneumothorax lies between the chest wall and the
collapsed lung: darker than lung, without vessels, bounded by the thin bright line of the visceral pleura, one
or two crescents at apex, side or base. The phantoms are for testing programs; they do not model the disease.

Coordinates are fractions of the image, x to the right and y down; the patient's right lung is on the
left, as on any frontal radiograph. Values are densities: 0 air, 1 bone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from core.base.randomness import uniform, words

Layer = NDArray[np.float32]
Points = NDArray[np.float64]

# Outlines of the patient's right lung and of the left one (with the heart's notch), clockwise from
# the apex on the image's left, anticlockwise on its right; closed by a smooth curve.
_RIGHT_LUNG = (
    (0.345, 0.105), (0.25, 0.15), (0.175, 0.27), (0.13, 0.42), (0.11, 0.57), (0.095, 0.70),
    (0.085, 0.785), (0.13, 0.755), (0.21, 0.705), (0.30, 0.69), (0.385, 0.725), (0.415, 0.70),
    (0.425, 0.58), (0.43, 0.45), (0.435, 0.32), (0.425, 0.20), (0.395, 0.125),
)  # fmt: skip
_LEFT_LUNG = (
    (0.655, 0.105), (0.75, 0.15), (0.825, 0.27), (0.87, 0.42), (0.89, 0.57), (0.905, 0.70),
    (0.915, 0.795), (0.87, 0.77), (0.80, 0.735), (0.73, 0.735), (0.695, 0.715), (0.66, 0.62),
    (0.61, 0.53), (0.578, 0.44), (0.572, 0.32), (0.578, 0.20), (0.605, 0.125),
)  # fmt: skip
_BODY = (
    (0.43, -0.1), (0.40, 0.02), (0.28, 0.065), (0.10, 0.10), (-0.02, 0.19), (-0.03, 0.45),
    (0.03, 0.62), (0.03, 0.85), (0.02, 1.1), (0.98, 1.1), (0.97, 0.85), (0.97, 0.62),
    (1.03, 0.45), (1.02, 0.19), (0.90, 0.10), (0.72, 0.065), (0.60, 0.02), (0.57, -0.1),
)  # fmt: skip
_HILUM = {-1: (0.405, 0.43), 1: (0.60, 0.42)}
_RIBS = 9
_SMALLEST_REGION = 0.006  # share of the image; smaller regions would vanish at training size


@dataclass(frozen=True)
class Phantom:
    """One synthetic radiograph.

    Attributes:
        pixels: (size, size) uint8; bright is dense.
        regions: Masks (size, size) uint8 in {0, 1}, one for each annotation; they may overlap.
    """

    pixels: NDArray[np.uint8]
    regions: tuple[NDArray[np.uint8], ...]


def limit_threads() -> None:
    """Limit OpenCV to one thread in this process, for workers: there is one worker per core."""
    cv2.setNumThreads(1)


def draw(seed: int, number: int, size: int, positive: bool) -> Phantom:
    """Draw a phantom.

    Args:
        seed: Seed of the whole set.
        number: Number of the phantom in the set.
        size: Height and width, in pixels.
        positive: Whether it has a pneumothorax.
    """
    return _PhantomDrawing(_NamedRandom(seed, number), size).phantom(positive)


@dataclass(frozen=True)
class _NamedRandom:
    """Random numbers that depend on a name, so that adding one does not change the others."""

    seed: int
    number: int

    def between(self, name: str, low: float, high: float) -> float:
        return low + (high - low) * float(self.uniform(name, 1)[0])

    def uniform(self, name: str, count: int) -> Points:
        """Return uniform numbers in [0, 1), (count,)."""
        return uniform(self.seed, "phantom", self.number, name, shape=(count,))

    def normal(self, name: str, height: int, width: int) -> Layer:
        """Return (height, width) nearly normal: mean 0, standard deviation 1 (sums of four uniforms)."""
        drawn = words(self.seed, "phantom", self.number, name, count=height * width)
        sums = drawn.astype("<u8", copy=False).view("<u2").reshape(height, width, 4).sum(axis=2)
        return np.asarray((sums / 65535.0 - 2.0) * math.sqrt(3.0), dtype=np.float32)


@dataclass(frozen=True)
class _Lung:
    """One lung: outline (n, 2) in pixels, hilum (2,) in pixels, side -1 (image's left) or 1."""

    outline: Points
    hilum: Points
    side: int


class _PhantomDrawing:
    """Drawing of one phantom; each method draws one layer."""

    def __init__(self, random: _NamedRandom, size: int) -> None:
        self.random = random
        self.size = size
        self.lungs = tuple(
            _Lung(
                self._pose(_smooth(self._varied(f"lung{side}", points, 0.008))),
                self._pose(np.array([_HILUM[side]]))[0],
                side,
            )
            for side, points in ((-1, _RIGHT_LUNG), (1, _LEFT_LUNG))
        )

    def phantom(self, positive: bool) -> Phantom:
        regions, collapsed = self._pneumothorax() if positive else ((), self._lung_field())
        body = self._soft(self._filled([self._pose(_smooth(self._varied("body", _BODY, 0.01)))]), 0.004)
        lung = self._soft(self._lung_field(), 0.003)
        aerated = self._soft(collapsed, 0.0025)
        density = body * (0.60 + self._abdomen())
        density -= lung * body * self.random.between("air", 0.30, 0.36)
        heart = self._heart()
        density += self._mediastinum() * body + heart * (0.05 + 0.23 * lung)
        if positive:
            density -= (lung - aerated).clip(0, 1) * self.random.between("gas", 0.10, 0.14)
            density += aerated * 0.02 + self._pleura(collapsed) * lung * 0.16
        density += aerated * (1 - 0.7 * heart) * (self._vessels() + self._texture())
        density += body * self._bones(lung)
        return Phantom(self._exposed(density, body), regions)

    @cached_property
    def _matrix(self) -> Points:
        """The pose: rotation, size, shift; (2, 3), from fractions to pixels."""
        turn = math.radians(self.random.between("turn", -4.5, 4.5))
        wide, tall = self.random.between("wide", 0.90, 1.04), self.random.between("tall", 0.88, 1.06)
        cos, sin = math.cos(turn), math.sin(turn)
        linear = np.array([[cos * wide, -sin * tall], [sin * wide, cos * tall]])
        shift = np.array([self.random.between("x", -0.025, 0.025), self.random.between("y", -0.02, 0.05)])
        centre = np.array([0.5, 0.45])
        moved = centre + shift - linear @ centre
        return np.asarray(np.concatenate([linear, moved[:, None]], axis=1) * self.size)

    def _pose(self, points: Points) -> Points:
        return np.asarray(points @ self._matrix[:, :2].T + self._matrix[:, 2])

    def _varied(self, name: str, points: tuple[tuple[float, float], ...], spread: float) -> Points:
        moves = self.random.uniform(name, 2 * len(points)).reshape(-1, 2) - 0.5
        return np.asarray(np.array(points) + 2 * spread * moves)

    def _pixels(self, fraction: float) -> int:
        """Convert a length to whole pixels, at least one."""
        return max(1, round(fraction * self.size))

    def _filled(self, outlines: list[Points]) -> NDArray[np.uint8]:
        """Fill closed outlines; (size, size) uint8 in {0, 1}."""
        mask = np.zeros((self.size, self.size), np.uint8)
        for outline in outlines:
            cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], (1,), cv2.LINE_8, 4)
        return mask

    def _lines(self, lines: list[tuple[Points, float]]) -> Layer:
        """Draw curves, given in pixels with a width in fractions; (size, size) in [0, 1]."""
        layer = np.zeros((self.size, self.size), np.uint8)
        for points, width in lines:
            whole = [np.rint(points * 16).astype(np.int32)]
            cv2.polylines(layer, whole, False, (255,), self._pixels(width), cv2.LINE_AA, 4)
        return layer.astype(np.float32) / np.float32(255)

    def _soft(self, layer: NDArray[np.generic], sigma: float) -> Layer:
        """Blur a layer; sigma is a fraction of the image."""
        pixels = max(sigma * self.size, 0.3)
        blurred: Layer = cv2.GaussianBlur(layer.astype(np.float32), (0, 0), pixels)
        return blurred

    def _lung_field(self) -> NDArray[np.uint8]:
        return self._filled([lung.outline for lung in self.lungs])

    def _pneumothorax(self) -> tuple[tuple[NDArray[np.uint8], ...], NDArray[np.uint8]]:
        """Draw the regions; return them and the remaining field of the lungs."""
        first = 0 if self.random.between("side", 0, 1) < 0.5 else 1
        places = [("first", first)]
        if self.random.between("regions", 0, 1) < 0.3:
            other = self.random.between("bilateral", 0, 1) < 0.3
            places.append(("second", 1 - first if other else first))
        field, left = self._lung_field(), self._lung_field()
        regions = []
        for name, which in places:
            lung = self.lungs[which]
            region = self._crescent(name, lung, low=name == "second" and which == first)
            if region.mean() >= _SMALLEST_REGION:
                regions.append(region & field)
                left[region == 1] = 0
        return tuple(regions), left

    def _crescent(self, name: str, lung: _Lung, low: bool) -> NDArray[np.uint8]:
        """Draw a lung minus the collapsed lung, whose outline is moved towards the hilum on one side."""
        offset = lung.outline - lung.outline.mean(axis=0)
        # 0 points to the side, 1 to the apex; lungs are twice as tall as wide.
        angle = np.arctan2(-offset[:, 1] / 2, lung.side * offset[:, 0])
        towards = self.random.between(f"{name} towards", -0.7, -0.3) if low else None
        if towards is None:
            towards = self.random.between(f"{name} towards", 0.1, 1.45)
        focus = self.random.between(f"{name} focus", 1.2, 3.0)
        strength = self.random.between(f"{name} strength", 0.30, 0.62)
        pull = strength * np.exp(focus * (np.cos(angle - towards) - 1))
        collapsed = lung.outline + pull[:, None] * (lung.hilum - lung.outline)
        region = self._filled([lung.outline]) & (1 - self._filled([collapsed]))
        kernel = np.ones((self._pixels(0.012),) * 2, np.uint8)
        opened: NDArray[np.uint8] = cv2.morphologyEx(region, cv2.MORPH_OPEN, kernel)  # no slivers
        return opened

    def _pleura(self, collapsed: NDArray[np.uint8]) -> Layer:
        """Draw the visceral pleura: a thin line around the rest of the lung."""
        width = self._pixels(0.004)
        ring = cv2.morphologyEx(collapsed, cv2.MORPH_GRADIENT, np.ones((width + 1, width + 1), np.uint8))
        inside = cv2.erode(self._lung_field(), np.ones((2 * width + 1,) * 2, np.uint8))
        return self._soft(ring & inside, 0.0012)

    def _grid(self) -> tuple[Layer, Layer]:
        """Return the coordinates x and y of every pixel before the pose, each (size, size)."""
        inverse = np.linalg.inv(np.vstack([self._matrix, [0, 0, 1]]))
        span = np.arange(self.size, dtype=np.float32)
        columns, rows = span[None, :], span[:, None]
        a, b = inverse[0].astype(np.float32), inverse[1].astype(np.float32)
        return a[0] * columns + a[1] * rows + a[2], b[0] * columns + b[1] * rows + b[2]

    def _abdomen(self) -> Layer:
        """Denser below the diaphragm, lighter towards the sides."""
        x, y = self._grid()
        below = 1 / (1 + np.exp((0.70 - y) * 30))
        return np.asarray(0.14 * below - 0.35 * (x - 0.5) ** 2, dtype=np.float32)

    def _mediastinum(self) -> Layer:
        """The strip between the lungs, with spine and the dark air of the trachea."""
        x, y = self._grid()
        strip = np.exp(-(((x - 0.5) / 0.055) ** 2)) * 0.10
        spine = np.exp(-(((x - 0.5) / 0.032) ** 6)) * (0.035 + 0.02 * np.sin(y * 2 * math.pi * 15))
        trachea = np.exp(-(((x - 0.495) / 0.016) ** 4)) / (1 + np.exp((y - 0.33) * 40)) * 0.10
        return np.asarray(strip + spine - trachea, dtype=np.float32)

    def _heart(self) -> Layer:
        x, y = self._grid()
        wide = self.random.between("heart", 0.13, 0.165)
        tilted = (x - 0.555) * 0.88 + (y - 0.60) * 0.47, (y - 0.60) * 0.88 - (x - 0.555) * 0.47
        radius = (tilted[0] / wide) ** 2 + (tilted[1] / 0.125) ** 2
        return np.asarray(1 / (1 + np.exp(np.minimum(radius - 1, 9) * 9)), dtype=np.float32)

    def _vessels(self) -> Layer:
        """Branches from each hilum, thinner as they go."""
        lines: list[tuple[Points, float]] = []
        for lung in self.lungs:
            draws = self.random.uniform(f"vessels{lung.side}", 26 * 4).reshape(-1, 4)
            for number, (angle, length, bend, twig) in enumerate(draws):
                heading = (number + angle) / len(draws) * 2 * math.pi
                reach = (0.10 + 0.22 * length) * self.size
                step = np.array([math.cos(heading) * 0.75, math.sin(heading) * 1.25]) * reach
                lines += _branch(lung.hilum, step, (bend - 0.5) * 1.3, twig)
        return self._soft(self._lines(lines), 0.0016) * np.float32(0.11)

    def _texture(self) -> Layer:
        """Uneven aeration: smooth noise of two scales."""
        layer = np.zeros((self.size, self.size), np.float32)
        for cells, amount in ((12, 0.012), (48, 0.014)):
            noise = self.random.normal(f"texture{cells}", cells, cells)
            shape = (self.size, self.size)
            layer += np.float32(amount) * cv2.resize(noise, shape, interpolation=cv2.INTER_CUBIC)
        return layer

    def _bones(self, lung: Layer) -> Layer:
        """Ribs (bright edges, fainter within) and clavicles."""
        ribs: list[tuple[Points, float]] = []
        span = np.linspace(0, 1, 24)
        for side in (-1, 1):
            for number in range(_RIBS):
                top = 0.10 + 0.074 * number
                reach = 0.27 + 0.165 * math.sin(min(1.0, (number + 1.5) / 6) * math.pi / 2)
                x = 0.5 + side * (0.035 + reach * np.sin(span * 1.45))
                y = top - 0.05 * np.sin(span * 2.6) + 0.16 * span**2.2
                ribs.append((self._pose(np.stack([x, y], axis=1)), 0.021))
        outer = self._lines(ribs)
        inner = self._lines([(points, 0.012) for points, _ in ribs])
        rib = self._soft(outer, 0.002) * 0.05 + self._soft(outer - inner, 0.0015) * 0.045
        clavicle = self._soft(self._lines(self._clavicles()), 0.003) * 0.11
        return np.asarray(rib * (0.35 + 0.65 * lung) + clavicle, dtype=np.float32)

    def _clavicles(self) -> list[tuple[Points, float]]:
        span = np.linspace(0, 1, 16)
        rise = self.random.between("clavicles", 0.03, 0.08)
        return [
            (
                self._pose(
                    np.stack(
                        [
                            0.5 + side * (0.045 + 0.36 * span),
                            0.175 - rise * span + 0.018 * np.sin(span * 6),
                        ],
                        axis=1,
                    )
                ),
                0.026,
            )
            for side in (-1, 1)
        ]

    def _exposed(self, density: Layer, body: Layer) -> NDArray[np.uint8]:
        """Blur of the detector, contrast, exposure, noise; then 8 bits."""
        contrast = self.random.between("contrast", 0.90, 1.12)
        level = self.random.between("level", -0.03, 0.04)
        image = 0.5 + (self._soft(density, 0.0008) - 0.5) * contrast + level * body
        image = np.clip(image, 0.02, 1) ** self.random.between("gamma", 0.92, 1.1)
        noise = self._soft(self.random.normal("noise", self.size, self.size), 0.0)
        image = image + noise * np.float32(0.022) * np.sqrt(image)
        pixels: NDArray[np.uint8] = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        return pixels


def _branch(start: Points, step: Points, bend: float, twig: float) -> list[tuple[Points, float]]:
    """Return one vessel: a bent curve in four pieces, each thinner than the last, with a twig half-way."""
    span = np.linspace(0, 1, 17)[:, None]
    across = np.array([-step[1], step[0]])
    curve = start + span * step + bend * span**2 * across
    pieces = [(curve[4 * n : 4 * n + 5], 0.0105 - 0.0026 * n) for n in range(4)]
    side = 1 if twig < 0.5 else -1
    away = curve[8] + span * 0.55 * step + side * (0.3 + 0.3 * twig) * span**0.8 * across
    return [*pieces, (away, 0.003)]


def _smooth(points: Points) -> Points:
    """Return a closed Catmull-Rom curve through points, (n, 2) -> (12 n, 2)."""
    span = np.linspace(0, 1, 12, endpoint=False)[:, None, None]
    before, after, beyond = (np.roll(points, shift, axis=0) for shift in (1, -1, -2))
    curve = points + 0.5 * span * (
        after - before
        + span * (2 * before - 5 * points + 4 * after - beyond
        + span * (3 * (points - after) + beyond - before))
    )  # fmt: skip
    return np.asarray(curve.transpose(1, 0, 2).reshape(-1, 2))
