"""The views of an image whose probabilities are averaged (test-time augmentation).

Thresholds are for probabilities that were made in the same way, so `thresholds.json` says which views they
were searched on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from core.base.errors import UserError

LEAST_SCALE, GREATEST_SCALE = 0.1, 10.0


@dataclass(frozen=True)
class Views:
    """The views of each image: every scale, and with `flip` its mirror image too.

    Args:
        flip: Whether the mirror image (left and right exchanged) is predicted too.
        scales: Sizes of the image, as multiples of the size of the training images, ascending: several scales
            at inference, as in Chen et al. (2016, "Attention to Scale", and DeepLab).
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    @property
    def scaled(self) -> bool:
        """Whether there is another scale than 1."""
        return self.scales != (1.0,)

    @property
    def extras(self) -> str:
        """What is predicted besides the image itself, for people; "" for nothing."""
        parts = ["mirror images"] * self.flip + [f"scales {shown(self.scales)}"] * self.scaled
        return " and ".join(parts)


PLAIN = Views()
"""The image alone."""


def shown(scales: Iterable[float]) -> str:
    """Return scales as one writes them after --scales."""
    return ",".join(f"{scale:g}" for scale in scales)


def checked_scales(scales: Iterable[Any]) -> tuple[float, ...]:
    """Return scales in ascending order.

    Raises:
        UserError: There are none, one is not a number in the allowed range, or two are equal.
    """
    given = list(scales)
    numbers = [one for one in given if isinstance(one, (int, float)) and math.isfinite(one)]
    found = tuple(sorted({float(one) for one in numbers if LEAST_SCALE <= one <= GREATEST_SCALE}))
    if not found or len(found) != len(given):
        raise UserError(
            f"scales: expected different numbers from {LEAST_SCALE:g} to {GREATEST_SCALE:g}, such as "
            f"1,0.75,1.25. Received: {', '.join(map(str, given)) or 'none'}"
        )
    return found
