"""From what a network says to an answer about the whole image, for everybody who gives one.

Promises: a probability map is brought to the original size by `data.radiographs.resize.resize_image` and
    nothing else,
and becomes a mask only there; so a mask that is scored is the mask that is submitted, pixel for pixel.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.programs import command_line
from core.prediction.trained_models import Member, mean_thresholds, missing_folds
from core.scoring.thresholds import SavedThresholds, Thresholds, load_saved_thresholds
from data.radiographs.resize import resize_image


class Box(NamedTuple):
    """The smallest rectangle around a mask, in pixels of the original image; rows and columns from 0."""

    top: int
    left: int
    height: int
    width: int


if TYPE_CHECKING:  # pydicom, which training does without
    from data.radiographs.headers import Geometry


@dataclass(frozen=True)
class Segmentation:
    """What is said of an image.

    Args:
        probability: (H, W) float32 in [0, 1], at the original size.
        mask: (H, W) uint8 in {0, 1}.
        existence: How sure one is that there is something: see `core.scoring.thresholds`.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.uint8]
    existence: float


def segment_image(
    probability: NDArray[np.float32], height: int, width: int, thresholds: Thresholds
) -> Segmentation:
    """The answer for an image of (height, width), from the (h, w) probabilities of a network."""
    full = resize_image(probability, height, width)
    return Segmentation(full, *thresholds.decide(full))


def box_around(mask: NDArray[np.uint8]) -> Box | None:
    """The box around a mask, (H, W) in {0, 1}; None if it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    return Box(top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1)


def area_in_mm2(geometry: Geometry, pixels: int) -> float | None:
    """How large so many pixels of an image are; None where its header does not say."""
    spacing = geometry.spacing
    return None if spacing is None else pixels * spacing[0] * spacing[1]


ThresholdsOrigin = Literal["tuned", "default", "given"]
"""Where thresholds came from: a file beside the model, nowhere, or the user, who changed one at least."""


@dataclass(frozen=True)
class PredictionSettings:
    """What decides for some models.

    Args:
        thresholds: The thresholds.
        origin: Where they came from: the models' files, nowhere, or (one at least) the user.
        flip: Whether mirror images are predicted too.
        followed: Whether that is so because the thresholds were searched that way, not because it was asked.
        remarks: What a user should know of it, a line each.
    """

    thresholds: Thresholds
    origin: ThresholdsOrigin
    flip: bool
    followed: bool
    remarks: tuple[str, ...]


def choose_settings(
    folders: Sequence[Path], changes: Mapping[str, float | None], flip: bool | None = None
) -> PredictionSettings:
    """What decides: the models' thresholds, and what a user changes.

    Args:
        folders: The models'.
        changes: "pixel", "area", "score": the user's number, or None.
        flip: Whether mirror images are to be predicted too; None for as all the thresholds were searched.

    Raises:
        UserError: A file of thresholds is damaged, or the numbers do not go together.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    found = [load_saved_thresholds(folder) for folder in folders]
    tuned = mean_thresholds([None if one is None else one.thresholds for one in found])
    thresholds = dataclasses.replace(tuned or Thresholds(), **given)
    origin: ThresholdsOrigin = "given" if given else "tuned" if tuned else "default"
    all_given = len(given) == len(dataclasses.fields(Thresholds))
    saved = {} if all_given else dict(zip(folders, found, strict=True))
    searched = {folder: one.flip for folder, one in saved.items() if one is not None} if tuned else {}
    followed = flip is None and bool(searched) and all(searched.values())
    mirrored = followed or bool(flip)
    remarks = [*_on_missing(saved), *_on_mirror_images(searched, mirrored)]
    return PredictionSettings(thresholds, origin, mirrored, followed, tuple(remarks))


def _on_missing(saved: Mapping[Path, SavedThresholds | None]) -> list[str]:
    """That some models have thresholds and some have none."""
    without = [str(folder) for folder, one in saved.items() if one is None]
    if not without or len(without) == len(saved):
        return []
    return [
        f"thresholds of {', '.join(without)} were never searched, so the defaults hold for all models; "
        f"search them: {_command(without[0], flip=False)}"
    ]


def _on_mirror_images(searched: Mapping[Path, bool | None], flip: bool) -> list[str]:
    """That thresholds are used otherwise than they were searched."""
    words = {True: "with", False: "without"}
    return [
        f"thresholds of {folder} were searched {words[not flip]} mirror images, and are used {words[flip]} "
        f"them; search them again: {_command(str(folder), flip=flip)}"
        for folder, found in searched.items()
        if found is not None and found != flip
    ]


def _command(folder: str, *, flip: bool) -> str:
    return command_line("tune", "-f", "NAME", "--model", shlex.quote(folder), *["--tta"] * flip)


def remark_on_folds(folders: Sequence[Path], members: Sequence[Member]) -> str:
    """What to say where a folder of folds is not complete; "" where it is."""
    missing = missing_folds(folders, members)
    return f"missing, so the ensemble is without: {', '.join(map(str, missing))}" if missing else ""
