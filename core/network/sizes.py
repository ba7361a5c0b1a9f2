"""Sizes of images that a network takes. Its weights are the same for all of them."""

from __future__ import annotations

from core.base.errors import UserError
from core.network.lowering import lower
from core.network.specification import Network


def takes(network: Network, height: int, width: int) -> bool:
    """Return whether a network gives masks of the images' size for images of this size."""
    try:
        lower(network, height, width)
    except UserError:
        return False
    return True


def scaled_size(network: Network, height: int, width: int, scale: float) -> tuple[int, int]:
    """Return the size nearest to a multiple of a size that the network takes; of two, the larger one.

    Args:
        network: The network.
        height: Rows of an image that it takes.
        width: Columns of that image.
        scale: The multiple.
    """
    rows = next(size for size in _around(scale * height) if takes(network, size, width))
    return rows, next(size for size in _around(scale * width) if takes(network, height, size))


def _around(wanted: float) -> list[int]:
    """Return all sizes from 1 to twice the wanted one and more, the nearest first."""
    return sorted(range(1, 2 * int(wanted) + 1024), key=lambda size: (abs(size - wanted), -size))
