"""The movement of a radiograph and its mask by one map: affine, with a displacement of each pixel.

Radiograph and mask (as 0.0 and 1.0) are interpolated bilinearly, once, at the same points; the mask is set
where the result is at least 1/2, as in `data.radiographs.resize`. Nearest-neighbour interpolation of the mask
would move the outline against the radiograph by up to half a pixel. The points are rounded to 1/32 of a
pixel, like those of `cv2.warpAffine` in OpenCV 4; OpenCV 5 does not round and gives other images. This module
computes the points itself, so that the images are the same with any version of OpenCV, or without it.

Outside the image the radiograph continues with the value at its edge, the mask with 0. Black would add a
straight edge between light and dark through the chest, and a thin edge along a dark field looks like a
pneumothorax. A mirror image would show parts of lungs without a label.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def move(
    image: NDArray[np.float32],
    mask: NDArray[np.uint8],
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    degrees: float = 0.0,
    displacement: NDArray[np.float32] | None = None,
) -> None:
    """Map image and mask, in place, by out = centre + shift + scale * rotation(in - centre).

    With a displacement, the new value of a pixel is what that map alone gives at the displaced place.

    Args:
        image: (H, W) in [0, 1].
        mask: (H, W) in {0, 1}.
        shift: Pixels down and to the right.
        scale: Above 0.
        degrees: Counter-clockwise rotation of the picture on a screen.
        displacement: (2, H, W) of each pixel, in pixels down and to the right.
    """
    source = _source_of(image.shape, shift, scale, degrees)
    bordered = np.pad(image, _BORDERS, mode="edge")
    mask_bordered = np.pad(mask.astype(np.float32), _BORDERS) if mask.any() else None
    for first in range(0, len(image), _ROWS):
        rows = np.arange(first, min(first + _ROWS, len(image)))
        some = None if displacement is None else displacement[:, rows[0] : rows[-1] + 1]
        points = _points(source, rows, image.shape, some)
        np.clip(_read_at(points, bordered), 0.0, 1.0, out=image[rows[0] : rows[-1] + 1])
        if mask_bordered is not None:
            mask[rows[0] : rows[-1] + 1] = _read_at(points, mask_bordered) >= 0.5


def _source_of(
    shape: tuple[int, ...], shift: tuple[float, float], scale: float, degrees: float
) -> NDArray[np.float64]:
    """Return the (2, 3) matrix from a point (x, y, 1) of the result to its point in the source image."""
    centre = (np.array([shape[1], shape[0]]) - 1) / 2.0
    cos, sin = np.cos(np.radians(degrees)) / scale, np.sin(np.radians(degrees)) / scale
    back = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([back, centre - back @ (centre + np.array(shift[::-1]))])


def _points(
    source: NDArray[np.float64],
    rows: NDArray[np.int64],
    shape: tuple[int, ...],
    displacement: NDArray[np.float32] | None,
) -> _Points:
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
        along_columns = np.rint(by_column * columns * _FINE)
        if displacement is None:
            fine = _sums_of(along_rows, along_columns)
        else:
            down, right = displacement
            away = np.float32(by_row * _FINE) * down
            away += np.float32(by_column * _FINE) * right
            fine = _sums_of(along_rows, along_columns, np.rint(away, out=away))
        fine >>= _FINE_BITS - _STEP_BITS
        np.clip(fine, -_STEPS, _STEPS * size, out=fine)
        fine += _STEPS * _BORDERS[0]
        whole.append(fine)
    right, down = ((each & (_STEPS - 1)).astype(np.float32) / np.float32(_STEPS) for each in whole)
    place = whole[1] >> _STEP_BITS
    place *= stride
    place += whole[0] >> _STEP_BITS
    return _Points(place, stride, right, down)


def _sums_of(
    rows: NDArray[np.float64], columns: NDArray[np.float64], pixels: NDArray[np.float32] | None = None
) -> NDArray[np.signedinteger[Any]]:
    """Return the outer sum of two arrays of whole numbers, and of one for each pixel.

    The sums are int32 (faster) if they fit.
    """
    terms: list[NDArray[np.floating[Any]]] = [rows, columns, *([] if pixels is None else [pixels])]
    kind = np.int32 if sum(float(np.abs(term).max()) for term in terms) < 2**31 else np.int64
    limit = float(2**61)  # larger values occur only if the whole image shrinks to far less than a pixel
    down, right, *more = (np.clip(term, -limit, limit).astype(kind) for term in terms)
    sums: NDArray[np.signedinteger[Any]] = np.add.outer(down, right)
    for each in more:
        sums += each
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
