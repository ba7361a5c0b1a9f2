"""Pictures for the eye: radiograph, truth and prediction side by side.

Promises: the truth's outline is green, the prediction's red, and yellow where they coincide; a
probability is shown from black (0) to white (1). Outlines are one pixel wide and lie inside their mask.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Picture = NDArray[np.uint8]
"""(height, width, 3), red, green and blue in 0-255."""

_GAP, _CAPTION = 4, 18
_SEEN_WELL = 256  # pixels; a sheet enlarges smaller images to about that


@dataclass(frozen=True)
class Sample:
    """One image with what was found in it.

    Args:
        image: (H, W) in [0, 1].
        truth: (H, W) in {0, 1}.
        probability: (H, W) in [0, 1].
        dice: Score of the thresholded probability.
    """

    image: NDArray[Any]
    truth: NDArray[Any]
    probability: NDArray[Any]
    dice: float


def outline(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """The pixels of an (H, W) mask with a neighbour above, below, left or right outside of it."""
    inside = np.pad(mask.astype(bool), 1)
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    result: NDArray[np.bool_] = inside[1:-1, 1:-1] & ~core
    return result


def draw_sample(sample: Sample, threshold: float) -> Picture:
    """Radiograph; radiograph with both outlines; probability: (H, 3*W + 2*gap, 3)."""
    plain, probability = _grey(sample.image), _grey(sample.probability)
    overlay = plain.copy()
    truth, predicted = outline(sample.truth), outline(sample.probability >= threshold)
    overlay[truth | predicted] = 0
    overlay[..., 0][predicted] = 255
    overlay[..., 1][truth] = 255
    gap = np.full((plain.shape[0], _GAP, 3), 128, np.uint8)
    return np.concatenate([plain, gap, overlay, gap, probability], axis=1)


def draw_sheet(samples: Sequence[Sample], threshold: float) -> bytes:
    """A PNG with one captioned row a sample; small images are enlarged by a whole factor."""
    factor = max(_SEEN_WELL // samples[0].image.shape[0], 1)
    rows = [
        draw_sample(sample, threshold).repeat(factor, axis=0).repeat(factor, axis=1) for sample in samples
    ]
    height, width = rows[0].shape[:2]
    sheet = Image.new("RGB", (width, len(rows) * (height + _CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        top = index * (height + _CAPTION)
        kind = "positive" if sample.truth.any() else "negative"
        caption = f"{kind}, Dice {sample.dice:.3f}   (truth green, prediction red, both yellow)"
        pen.text((2, top + 3), caption, fill="black")
        sheet.paste(Image.fromarray(row), (0, top + _CAPTION))
    png = io.BytesIO()
    sheet.save(png, format="PNG")
    return png.getvalue()


def _grey(values: NDArray[Any]) -> Picture:
    grey = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., np.newaxis], 3, axis=2)
