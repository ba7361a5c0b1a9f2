"""From what a network says to an answer about the whole image, for every command that gives one.

Promises: a probability map is brought to the original size by `data.resize.resize_image` and nothing else,
and becomes a mask only there; so a mask that is scored is the mask that is submitted, pixel for pixel.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.inference import Member, find_thresholds, missing_folds
from core.thresholds import Thresholds
from data.resize import resize_image


@dataclass(frozen=True)
class Answer:
    """What is said of an image.

    Args:
        probability: (H, W) float32 in [0, 1], at the original size.
        mask: (H, W) uint8 in {0, 1}.
        existence: How sure one is that there is something: see `core.thresholds`.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.uint8]
    existence: float


def answer(probability: NDArray[np.float32], height: int, width: int, thresholds: Thresholds) -> Answer:
    """The answer for an image of (height, width), from the (h, w) probabilities of a network."""
    full = resize_image(probability, height, width)
    return Answer(full, *thresholds.decide(full))


def chosen_thresholds(
    arguments: argparse.Namespace, folders: Sequence[Path]
) -> tuple[Thresholds, Literal["tuned", "default", "given"]]:
    """The thresholds of some models, with what --pixel, --area and --score change; and where they came from.

    Raises:
        UserError: A file of thresholds is damaged, or the numbers do not go together.
    """
    names = [field.name for field in dataclasses.fields(Thresholds)]
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    tuned = find_thresholds(folders)
    thresholds = dataclasses.replace(tuned or Thresholds(), **given)
    return thresholds, "given" if given else "tuned" if tuned else "default"


def remark_on_folds(folders: Sequence[Path], members: Sequence[Member]) -> str:
    """What to say where a folder of folds is not complete; "" where it is."""
    missing = missing_folds(folders, members)
    return f"missing, so the ensemble is without: {', '.join(map(str, missing))}" if missing else ""
