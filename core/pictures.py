"""Pictures for the eye: radiograph, truth and, where there is one, prediction side by side.

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
    overlay = _outlined(plain, outline(sample.truth), outline(sample.probability >= threshold))
    return _side_by_side(plain, overlay, probability)


def draw_overlay(image: NDArray[Any], truth: NDArray[Any]) -> bytes:
    """A PNG of a radiograph, and beside it the same with the truth's outline.

    Args:
        image: (H, W) in [0, 1].
        truth: (H, W) in {0, 1}.

    Returns:
        A file of (H, 2*W + gap) pixels, small images enlarged by a whole factor.
    """
    plain, edge = _grey(image), outline(truth)
    return _png(Image.fromarray(_enlarged(_side_by_side(plain, _outlined(plain, edge, np.zeros_like(edge))))))


def draw_sheet(samples: Sequence[Sample], threshold: float) -> bytes:
    """A PNG with one captioned row a sample; small images are enlarged by a whole factor."""
    rows = [_enlarged(draw_sample(sample, threshold)) for sample in samples]
    height, width = rows[0].shape[:2]
    sheet = Image.new("RGB", (width, len(rows) * (height + _CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        top = index * (height + _CAPTION)
        kind = "positive" if sample.truth.any() else "negative"
        caption = f"{kind}, Dice {sample.dice:.3f}   (truth green, prediction red, both yellow)"
        pen.text((2, top + 3), caption, fill="black")
        sheet.paste(Image.fromarray(row), (0, top + _CAPTION))
    return _png(sheet)


def draw_grey(values: NDArray[Any]) -> bytes:
    """A PNG of (H, W) values in [0, 1], from black to white: a radiograph, a probability."""
    return _png(Image.fromarray(_grey(values)[..., 0]))


def draw_outlines(truth: NDArray[Any], predicted: NDArray[Any]) -> bytes:
    """A PNG with the outlines of two (H, W) masks of 0 and 1, transparent elsewhere: to lay over an image."""
    kind = outline(truth) + 2 * outline(predicted).astype(np.uint8)
    image = Image.fromarray(kind.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 0, 255, 0, 255, 0, 0, 255, 255, 0])
    image.info["transparency"] = 0
    return _png(image)


def _outlined(plain: Picture, truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Picture:
    """The picture with two outlines in their colours."""
    overlay = plain.copy()
    overlay[truth | predicted] = 0
    overlay[..., 0][predicted] = 255
    overlay[..., 1][truth] = 255
    return overlay


def _side_by_side(first: Picture, *others: Picture) -> Picture:
    gap = np.full((first.shape[0], _GAP, 3), 128, np.uint8)
    return np.concatenate([first, *(part for other in others for part in (gap, other))], axis=1)


def _enlarged(picture: Picture) -> Picture:
    """A small picture by a whole factor."""
    factor = max(_SEEN_WELL // picture.shape[0], 1)
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _png(image: Image.Image) -> bytes:
    png = io.BytesIO()
    image.save(png, format="PNG")
    return png.getvalue()


def _grey(values: NDArray[Any]) -> Picture:
    grey = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., np.newaxis], 3, axis=2)
