"""Contrast-limited adaptive histogram equalisation (CLAHE) of radiographs.

Zuiderveld, "Contrast Limited Adaptive Histogram Equalization" (Graphics Gems IV, 1994). The image is divided
into tiles. Each tile has a histogram of 256 grey levels, clipped at `limit` times the mean of its bins; what
is cut off is shared evenly among all bins, once. The cumulative histogram is the tile's table from old to new
grey values. A pixel gets the mean of what the four nearest tiles' tables say, bilinear in its distance from
the tiles' centres.

The rules are those of `cv2.createCLAHE`, with these differences. Grey values between two levels are
interpolated and results are not rounded to levels, so an image with more than 8 bits keeps them. The centre
of a tile is the centre of its pixels, half a pixel away from OpenCV's, so that a mirror image gives the
mirror image. An image that the tiles do not divide is continued by mirroring, at the end of the axis, up to
the next size that they divide. Counts are whole numbers and the rest is NumPy's arithmetic element by
element, so the results are the same on every machine and with any version of OpenCV.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError

DEFAULT_TILES = 8
"""Number of tiles along each side, as in OpenCV."""

LIMITS = 1.0, 256.0
"""The least limit, and the one from which nothing is clipped."""

MOST_TILES, LEAST_TILE = 256, 8
"""The greatest number of tiles, and the least height and width of one: fewer pixels make no histogram."""

_LEVELS = 256
_TABLE = (
    _LEVELS + 1
)  # entries of a tile's table; the last one is repeated, as the neighbour of the last level
_ROWS = 64  # rows at a time, so that intermediate results stay in the processor's cache


class Clahe(NamedTuple):
    """The settings.

    Attributes:
        limit: The greatest slope of a tile's table, at least 1; from 256 on nothing is clipped.
        tiles: Number of tiles down and of tiles to the right, at least 1.
    """

    limit: float
    tiles: int = DEFAULT_TILES


def check_tiles(tiles: int, height: int, width: int, key: str) -> None:
    """Refuse tiles that are too small.

    Args:
        tiles: Number of tiles down and to the right.
        height: Rows of the images.
        width: Columns of the images.
        key: What sets the number.

    Raises:
        UserError: One would have fewer than `LEAST_TILE` rows or columns.
    """
    most = min(height, width) // LEAST_TILE
    if tiles > most:
        raise UserError(
            f"{key}: {tiles} tiles of an image of {height}x{width} have less than {LEAST_TILE} pixels a side",
            f"Take at most {most}." if most else "The images are too small.",
        )


def equalize(image: NDArray[np.float32], clahe: Clahe) -> NDArray[np.float32]:
    """Return an image, (H, W) in [0, 1], equalised.

    Args:
        image: (H, W) in [0, 1].
        clahe: The settings.

    Returns:
        (H, W) float32 in [0, 1].
    """
    height, width = image.shape
    levels = np.clip(image * np.float32(_LEVELS - 1), 0, _LEVELS - 1)
    tables = _tables(levels, clahe)
    above, below, down = _neighbours(height, clahe.tiles)
    left, right, across = _neighbours(width, clahe.tiles)
    result = np.empty_like(image)
    for first in range(0, height, _ROWS):
        rows = slice(first, first + _ROWS)
        # The tables of each row of pixels, between those of the tiles above and below.
        upper, share = tables[above[rows]], down[rows, np.newaxis, np.newaxis]
        flat = (upper + (tables[below[rows]] - upper) * share).ravel()
        whole = levels[rows].astype(np.intp)
        between = levels[rows] - whole.astype(np.float32)
        whole += np.arange(len(whole))[:, np.newaxis] * (clahe.tiles * _TABLE)
        found = _looked_up(flat, whole + left * _TABLE, between)
        found += (_looked_up(flat, whole + right * _TABLE, between) - found) * across
        np.clip(found, 0.0, 1.0, out=result[rows])
    return result


def _tables(levels: NDArray[np.float32], clahe: Clahe) -> NDArray[np.float32]:
    """Return the table of each tile, (tiles, tiles, 257) in [0, 1].

    Args:
        levels: (H, W) in [0, 255].
        clahe: The settings.
    """
    tiles = clahe.tiles
    bins = np.pad(np.rint(levels).astype(np.intp), [(0, -size % tiles) for size in levels.shape], "reflect")
    height, width = (size // tiles for size in bins.shape)
    tile = np.arange(tiles)
    of_rows, of_columns = np.repeat(tile * (tiles * _LEVELS), height), np.repeat(tile * _LEVELS, width)
    bins += np.add.outer(of_rows, of_columns)
    counts = np.bincount(bins.ravel(), minlength=tiles * tiles * _LEVELS).reshape(tiles, tiles, _LEVELS)
    kept = np.minimum(counts, max(int(clahe.limit * (height * width) / _LEVELS), 1))
    lost = height * width - kept.sum(axis=2, keepdims=True)
    # Exact: whole numbers, and a whole number divided by a power of 2.
    cumulative = kept.cumsum(axis=2) + lost * np.arange(1, _LEVELS + 1) / _LEVELS
    tables = (cumulative / (height * width)).astype(np.float32)
    return np.concatenate([tables, tables[:, :, -1:]], axis=2)


def _neighbours(size: int, tiles: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return, for each pixel of an axis, the tiles before and after it, and the share of the latter."""
    length = -(-size // tiles)
    places = (np.arange(size) + 0.5) / length - 0.5
    before = np.floor(places)
    first = before.astype(np.intp)
    limits = 0, tiles - 1
    return np.clip(first, *limits), np.clip(first + 1, *limits), (places - before).astype(np.float32)


def _looked_up(
    table: NDArray[np.float32], place: NDArray[np.intp], between: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a table's value at a place and a fraction `between` it and the next one."""
    found: NDArray[np.float32] = table.take(place)
    found += (table.take(place + 1) - found) * between
    return found
