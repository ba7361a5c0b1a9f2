"""Pictures of radiographs with the true mask and, if there is one, the prediction, side by side.

The outline of the true mask is green, that of the prediction red, and both are yellow where they coincide. A
probability is drawn from black (0) to white (1). Over a radiograph it is drawn from transparent to white
through violet and orange, with a scale. Outlines are inside their mask and one pixel wide, or more on large
pictures.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
"""(height, width, 3): red, green and blue in 0-255."""

_GAP, _CAPTION = 4, 18
_SMALL = 256  # pixels; smaller images are enlarged to about this height
_LARGEST = 1024  # pixels; larger predictions are shrunk to this size
_PIXELS_PER_OUTLINE = 400  # an outline gets one pixel of width for each of these pixels of the picture
_LINES, _LETTERS_PER_HEIGHT = 3, 56  # of a caption; a letter is this fraction of the height, within limits
_SMALLEST_LETTER, _LARGEST_LETTER = 11, 20
_QUICK = 3  # zlib's level for predictions: much faster than 6, and files are little larger
_HEAT = (
    (0.0, (0, 0, 0)),
    (0.25, (90, 20, 140)),
    (0.5, (210, 60, 80)),
    (0.75, (250, 150, 30)),
    (1.0, (255, 255, 255)),
)
_HEAT_OPACITY = 0.75  # for probabilities of 0.5 and more; in proportion for smaller ones


@dataclass(frozen=True)
class Sample:
    """One image with its true mask and the network's output.

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
    """Return the pixels of an (H, W) mask with a neighbour above, below, left or right outside the mask."""
    inside = np.pad(mask.astype(bool), 1)
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    result: NDArray[np.bool_] = inside[1:-1, 1:-1] & ~core
    return result


def draw_sample(sample: Sample, threshold: float) -> Picture:
    """Draw the radiograph, the radiograph with both outlines, and the probability: (H, 3*W + 2*gap, 3)."""
    plain, probability = _grey(sample.image), _grey(sample.probability)
    overlay = _outlined(plain, outline(sample.truth), outline(sample.probability >= threshold))
    return _side_by_side(plain, overlay, probability)


def draw_overlay(image: NDArray[Any], truth: NDArray[Any]) -> bytes:
    """Draw a radiograph, and beside it the same radiograph with the outline of the true mask.

    Args:
        image: (H, W) in [0, 1].
        truth: (H, W) in {0, 1}.

    Returns:
        A PNG of (H, 2*W + gap) pixels. Small images are enlarged by an integer factor.
    """
    plain, edge = _grey(image), outline(truth)
    return _png(Image.fromarray(_enlarged(_side_by_side(plain, _outlined(plain, edge, np.zeros_like(edge))))))


@dataclass(frozen=True)
class PredictionPicture:
    """One image with its prediction, at the original size.

    Args:
        image: (H, W) in [0, 1].
        probability: (H, W) in [0, 1].
        mask: (H, W) in {0, 1}.
        truth: (H, W) in {0, 1}; None if it is unknown.
        title: The image's name.
        verdict: The text of the result.
    """

    image: NDArray[Any]
    probability: NDArray[Any]
    mask: NDArray[Any]
    truth: NDArray[Any] | None
    title: str
    verdict: str


def draw_prediction(predicted: PredictionPicture) -> bytes:
    """Draw a PNG of a radiograph, the same with outlines, and the same with its probability, with a caption.

    Large images are shrunk by averaging over areas, and every pixel of a mask stays visible. Small images are
    enlarged by an integer factor.
    """
    plain = _grey(_shrunk(predicted.image))
    truth = np.zeros_like(predicted.mask) if predicted.truth is None else predicted.truth
    width = max(1, round(max(plain.shape) / _PIXELS_PER_OUTLINE))
    edges = (_thick_outline(_shrunk(mask) > 0, width) for mask in (truth, predicted.mask))
    row = _enlarged(
        _side_by_side(plain, _outlined(plain, *edges), _heated(plain, _shrunk(predicted.probability)))
    )
    size = min(max(row.shape[0] // _LETTERS_PER_HEIGHT, _SMALLEST_LETTER), _LARGEST_LETTER)
    line = size + size // 2
    sheet = Image.new("RGB", (row.shape[1], row.shape[0] + _LINES * line + size // 2), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    for number, text in enumerate((predicted.title, predicted.verdict, _legend(predicted))):
        text = " ".join(text.split())  # an id may hold line breaks
        pen.text((size // 2, size // 4 + number * line), text, fill="black", font=font)
    _draw_scale(sheet, pen, font, size, _LINES * line)
    sheet.paste(Image.fromarray(row), (0, sheet.height - row.shape[0]))
    return _png(sheet, _QUICK)


def draw_sheet(samples: Sequence[Sample], threshold: float) -> bytes:
    """Draw a PNG with one row and caption for each sample. Small images are enlarged by an integer factor."""
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
    """Draw a PNG of (H, W) values in [0, 1], from black to white."""
    return _png(Image.fromarray(_grey(values)[..., 0]))


def draw_outlines(truth: NDArray[Any], predicted: NDArray[Any]) -> bytes:
    """Draw a PNG with the outlines of two (H, W) masks of 0 and 1 on a transparent ground."""
    kind = outline(truth) + 2 * outline(predicted).astype(np.uint8)
    image = Image.fromarray(kind.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 0, 255, 0, 255, 0, 0, 255, 255, 0])
    image.info["transparency"] = 0
    return _png(image)


def _legend(predicted: PredictionPicture) -> str:
    return "prediction red" if predicted.truth is None else "truth green, prediction red, both yellow"


def _draw_scale(sheet: Image.Image, pen: ImageDraw.ImageDraw, font: Any, size: int, below: int) -> None:
    """Draw the colours of the probability at the right end of a caption's last line."""
    bar = _side_by_side(_colours(np.tile(np.linspace(0, 1, 10 * size), (size, 1))))
    left, top = sheet.width - bar.shape[1] - 2 * size, below - size
    sheet.paste(Image.fromarray(bar), (left, top))
    label = "probability 0"
    pen.text((left - pen.textlength(label, font=font) - size // 2, top - size // 4), label, "black", font)
    pen.text((left + bar.shape[1] + size // 2, top - size // 4), "1", "black", font)


def _thick_outline(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return an outline of several pixels: the union of the outlines of the mask as it is peeled."""
    found = np.zeros_like(mask)
    for _ in range(width):
        found |= outline(mask & ~found)
    return found


def _heated(plain: Picture, probability: NDArray[Any]) -> Picture:
    """Blend a picture with the colours of a probability, in 256 levels."""
    levels = np.linspace(0, 1, 256)
    opacity = (_HEAT_OPACITY * np.minimum(2 * levels, 1)).astype(np.float32)[:, np.newaxis]
    overlay = _colours(levels).astype(np.float32) * opacity
    level = np.clip(np.rint(probability * 255), 0, 255).astype(np.uint8)
    mixed: Picture = np.rint(plain * (1 - opacity)[level] + overlay[level]).astype(np.uint8)
    return mixed


def _colours(probability: NDArray[Any]) -> Picture:
    levels = [level for level, _ in _HEAT]
    channels = [np.interp(probability, levels, [colour[n] for _, colour in _HEAT]) for n in range(3)]
    colours: Picture = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colours


def _shrunk(values: NDArray[Any]) -> NDArray[Any]:
    """Shrink an (H, W) array by area, so that no side is longer than `_LARGEST`."""
    height, width = values.shape
    factor = max(height, width) / _LARGEST
    if factor <= 1:
        return values
    size = max(1, round(width / factor)), max(1, round(height / factor))
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BOX))


def _outlined(plain: Picture, truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Picture:
    """Return the picture with two outlines in their colours."""
    overlay = plain.copy()
    overlay[truth | predicted] = 0
    overlay[..., 0][predicted] = 255
    overlay[..., 1][truth] = 255
    return overlay


def _side_by_side(first: Picture, *others: Picture) -> Picture:
    gap = np.full((first.shape[0], _GAP, 3), 128, np.uint8)
    return np.concatenate([first, *(part for other in others for part in (gap, other))], axis=1)


def _enlarged(picture: Picture) -> Picture:
    """Enlarge a small picture by an integer factor."""
    factor = max(_SMALL // picture.shape[0], 1)
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _png(image: Image.Image, compress_level: int = 6) -> bytes:
    png = io.BytesIO()
    image.save(png, format="PNG", compress_level=compress_level)
    return png.getvalue()


def _grey(values: NDArray[Any]) -> Picture:
    grey = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., np.newaxis], 3, axis=2)
