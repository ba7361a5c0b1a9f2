"""The thresholds that turn a probability map into a mask, for every command.

They are the triplet of the competition's winners (first place of SIIM-ACR, "triplet scheme of inference").
They apply at the original size of an image, to a probability map that was resized to it.

    score    image threshold: an image is positive if k of its pixels have at least this probability
    area     minimum area in pixels of a 1024x1024 image; for an image of H x W,
             k = ceil(area * H * W / 1024**2), at least 1
    pixel    mask threshold, at most `score`: the mask of a positive image holds its pixels of at least
             this probability; the mask of a negative image is empty

The existence score of an image is its k-th largest probability, so the image is positive exactly when its
existence score reaches `score`.

A network with the existence head also gives each image an existence probability, and has a fourth threshold:

    existence    an image whose existence probability is below it is negative, whatever its pixels say

Thresholds are rounded to float32 once, like all scalars, because they are
compared with float32 probabilities.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.programs import command_line
from core.base.rounding import to_float32
from core.files.atomic import write_text
from core.files.system_errors import explain_os_errors
from core.scoring.views import Views, checked_scales

THRESHOLDS_FILE = "thresholds.json"
"""File name of the thresholds in a model's folder."""

AREA_SIZE = 1024
"""Height and width of the image to which `Thresholds.area` refers."""


@dataclass(frozen=True)
class Thresholds:
    """The mask threshold, the minimum area, the image threshold and the existence threshold: see the module.

    Args:
        pixel: Mask threshold: the least probability of a pixel of a positive image's mask, in (0, 1].
        area: Minimum area: the number of pixels of a 1024x1024 image that must reach `score`; at least 0.
        score: Image threshold: a probability from `pixel` to 1.
        existence: Existence threshold: a probability from 0, which no image is below, to 1. None for a
            network without the existence head.

    Raises:
        UserError: A number is outside its range.
    """

    pixel: float = 0.5
    area: float = 0.0
    score: float = 0.5
    existence: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.as_dict().items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"threshold {name}: expected a number. Received: {value!r}")
            object.__setattr__(self, name, to_float32(value))
        if not 0 < self.pixel <= self.score <= 1:
            raise UserError(
                f"thresholds: expected 0 < pixel <= score <= 1. Received: pixel {self.pixel:g}, "
                f"score {self.score:g}"
            )
        if not 0 <= self.area <= AREA_SIZE**2:
            raise UserError(f"threshold area: expected 0 to {AREA_SIZE**2} pixels. Received: {self.area:g}")
        if self.existence is not None and not 0 <= self.existence <= 1:
            raise UserError(f"threshold existence: expected 0 to 1. Received: {self.existence:g}")

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.6g}" for name, value in self.as_dict().items())

    def as_dict(self) -> dict[str, float]:
        """Return the thresholds by their names, without `existence` if there is none."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def least_pixels(self, height: int, width: int) -> int:
        """Return k, the number of pixels of a (height, width) image that must reach `score`; at least 1."""
        return max(1, math.ceil(self.area * height * width / AREA_SIZE**2))

    def existence_score(self, probability: NDArray[Any]) -> float:
        """Return the existence score of an (H, W) probability map: its k-th largest value."""
        k = min(self.least_pixels(*probability.shape), probability.size)
        return float(np.partition(probability, probability.size - k, axis=None)[probability.size - k])

    def decide(
        self, probability: NDArray[Any], existence: float | None = None
    ) -> tuple[NDArray[np.uint8], float]:
        """Return the mask of an image, (H, W) in {0, 1}, and its existence score.

        Args:
            probability: (H, W).
            existence: The existence probability; None without the existence head.
        """
        score = self.existence_score(probability)
        if score < self.score or not self.passes(existence):
            return np.zeros(probability.shape, dtype=np.uint8), score
        return (probability >= self.pixel).astype(np.uint8), score

    def passes(self, existence: float | None) -> bool:
        """Return whether an existence probability, if there is one, reaches the existence threshold."""
        return existence is None or self.existence is None or existence >= self.existence

    def mask(self, probability: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the mask, (H, W) in {0, 1}, of an (H, W) probability map."""
        return self.decide(probability)[0]


_RATES: tuple[Literal["sensitivity", "specificity"], ...] = ("sensitivity", "specificity")

WITH_HEAD = Thresholds(existence=0.5)
"""The thresholds of a network with the existence head if none were searched."""


def default_thresholds(*, head: bool) -> Thresholds:
    """Return the thresholds that hold if none were searched, of a network with or without the head."""
    return WITH_HEAD if head else Thresholds()


def save_thresholds(folder: Path, thresholds: Thresholds, facts: dict[str, Any] | None = None) -> None:
    """Write a model's thresholds and `facts` about their search, such as the images and the scores."""
    content = {**thresholds.as_dict(), **(facts or {})}
    write_text(folder / THRESHOLDS_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")


@dataclass(frozen=True)
class SavedThresholds:
    """The content of a model's thresholds file.

    Args:
        thresholds: The thresholds.
        views: The views on whose mean probabilities they were searched; None if the file does not tell.
        operating_point: The rate that they were asked to reach ("sensitivity" or "specificity") and its least
            value; None for the best Dice.
    """

    thresholds: Thresholds
    views: Views | None
    operating_point: tuple[Literal["sensitivity", "specificity"], float] | None = None


def load_thresholds(folder: Path) -> Thresholds | None:
    """Return a model's thresholds; None if none were saved. Raises as `load_saved_thresholds`."""
    saved = load_saved_thresholds(folder)
    return None if saved is None else saved.thresholds


def load_saved_thresholds(folder: Path) -> SavedThresholds | None:
    """Return a model's thresholds and how they were searched; None if none were saved.

    Raises:
        UserError: The file cannot be read or does not hold thresholds.
    """
    path = folder / THRESHOLDS_FILE
    if not path.is_file():
        return None
    with explain_os_errors(path, "read"):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
        found = {name: content[name] for name in ("pixel", "area", "score")}
        found["existence"] = content.get("existence")  # there only for a network with the head
        flip, scales = content.get("flip"), content.get("scales", [1.0])
        if not (flip is None or isinstance(flip, bool)):
            raise ValueError(f"flip is {flip!r}, which is neither true nor false")
        if not isinstance(scales, list):
            raise ValueError(f"scales is {scales!r}, which is no list")
        asked = content.get("operating_point") or {}
        point = next(((rate, float(asked[rate])) for rate in _RATES if rate in asked), None)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged: expected JSON with pixel, area and score; {error!r}",
            f"Search them again: {command_line('tune', '-f NAME')}; or remove the file.",
        ) from error
    try:
        views = None if flip is None else Views(flip, checked_scales(scales))
        return SavedThresholds(Thresholds(**found), views, point)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.hint) from error
