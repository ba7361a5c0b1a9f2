"""From a network's probabilities to the mask at the original size, for every command.

`data.radiographs.resize.resize_image` alone resizes a probability map to the original size, and the
thresholds apply only there. So a mask that is scored equals the mask that is submitted, pixel for pixel.
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

from core.base.errors import UserError
from core.base.programs import command_line
from core.prediction.trained_models import Member, mean_thresholds, missing_folds
from core.scoring.thresholds import (
    SavedThresholds,
    Thresholds,
    default_thresholds,
    load_saved_thresholds,
)
from core.scoring.views import PLAIN, Views, checked_scales, shown
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
    """The segmentation of an image.

    Args:
        probability: (H, W) float32 in [0, 1], at the original size.
        mask: (H, W) uint8 in {0, 1}.
        existence: The existence score: see `core.scoring.thresholds`.
        existence_probability: The existence probability; None without the existence head.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.uint8]
    existence: float
    existence_probability: float | None = None


def segment_image(
    probability: NDArray[np.float32],
    height: int,
    width: int,
    thresholds: Thresholds,
    existence: float | None = None,
) -> Segmentation:
    """Return the segmentation of an image of (height, width) from what a network predicted.

    Args:
        probability: (h, w) at the network's size.
        height: Rows of the image.
        width: Columns of the image.
        thresholds: The thresholds.
        existence: The existence probability; None without the existence head.
    """
    full = resize_image(probability, height, width)
    return Segmentation(full, *thresholds.decide(full, existence), existence)


def box_around(mask: NDArray[np.uint8]) -> Box | None:
    """Return the box around a mask, (H, W) in {0, 1}; None if it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    return Box(top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1)


def area_in_mm2(geometry: Geometry, pixels: int) -> float | None:
    """Return the area of a number of pixels in mm²; None if the image's header has no pixel spacing."""
    spacing = geometry.spacing
    return None if spacing is None else pixels * spacing[0] * spacing[1]


ThresholdsOrigin = Literal["tuned", "default", "given"]
"""Origin of thresholds: the models' files, the defaults, or the user, who changed at least one."""


@dataclass(frozen=True)
class PredictionSettings:
    """How some models predict: the thresholds, and the views of an image.

    Args:
        thresholds: The thresholds.
        origin: Origin of the thresholds.
        views: The views whose predictions are averaged.
        followed: Whether any views are used because the thresholds were searched so, not because the user
            asked.
        remarks: Remarks for the user, one line each.
    """

    thresholds: Thresholds
    origin: ThresholdsOrigin
    views: Views
    followed: bool
    remarks: tuple[str, ...]


def choose_settings(
    folders: Sequence[Path],
    changes: Mapping[str, float | None],
    flip: bool | None = None,
    scales: Sequence[float] | None = None,
    *,
    head: bool = False,
) -> PredictionSettings:
    """Choose the settings from the models' saved thresholds and the user's changes.

    Args:
        folders: The models' folders.
        changes: The user's number, or None, for each of "pixel", "area", "score" and "existence".
        flip: Whether to use mirror images; None uses them if all saved thresholds were searched with them.
        scales: The scales; None uses those with which all saved thresholds were searched, if they agree.
        head: Whether the models have the existence head.

    Raises:
        UserError: A thresholds file is damaged, the scales or the numbers together are not allowed, or there
            is a number for an existence head that the models do not have.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if "existence" in given and not head:
        raise UserError(
            f"threshold existence: {', '.join(map(str, folders))} has no existence head",
            "Leave this threshold out, or train a network with network.existence={}.",
        )
    found = [load_saved_thresholds(folder) for folder in folders]
    tuned = mean_thresholds([None if one is None else one.thresholds for one in found])
    thresholds = dataclasses.replace(tuned or default_thresholds(head=head), **given)
    origin: ThresholdsOrigin = "given" if given else "tuned" if tuned else "default"
    all_given = len(given) == len(default_thresholds(head=head).as_dict())
    saved = {} if all_given else dict(zip(folders, found, strict=True))
    searched = {folder: one for folder, one in saved.items() if one is not None} if tuned else {}
    known = [one.views or PLAIN for one in searched.values()] or [PLAIN]
    agreed = Views(
        all(views.flip for views in known),
        known[0].scales if len({views.scales for views in known}) == 1 else PLAIN.scales,
    )
    views = Views(
        agreed.flip if flip is None else flip,
        agreed.scales if scales is None else checked_scales(scales),
    )
    followed = (flip is None and agreed.flip) or (scales is None and agreed.scaled)
    remarks = [*_on_missing(saved), *_on_views(searched, views)]
    return PredictionSettings(thresholds, origin, views, followed, tuple(remarks))


def _on_missing(saved: Mapping[Path, SavedThresholds | None]) -> list[str]:
    """Return a remark if some models have saved thresholds and others have none."""
    without = [str(folder) for folder, one in saved.items() if one is None]
    if not without or len(without) == len(saved):
        return []
    return [
        f"thresholds of {', '.join(without)} were never searched, so the defaults hold for all models; "
        f"search them: {_command(without[0], PLAIN, None)}"
    ]


def _on_views(searched: Mapping[Path, SavedThresholds], views: Views) -> list[str]:
    """Return remarks on thresholds that are used with other views than they were searched with."""
    words = {True: "with", False: "without"}
    remarks = []
    for folder, one in searched.items():
        found = one.views
        if found is None or found == views:
            continue
        differences = []
        if found.flip != views.flip:
            differences.append(f"{words[found.flip]} mirror images, and are used {words[views.flip]} them")
        if found.scales != views.scales:
            differences.append(f"with scales {shown(found.scales)}, and are used with {shown(views.scales)}")
        remarks.append(
            f"thresholds of {folder} were searched {'; '.join(differences)}; "
            f"search them again: {_command(str(folder), views, one.operating_point)}"
        )
    return remarks


def _command(folder: str, views: Views, point: tuple[str, float] | None) -> str:
    options = ["--tta"] * views.flip + ["--scales", shown(views.scales)] * views.scaled
    options += [] if point is None else [f"--{point[0]}", f"{point[1]:g}"]
    return command_line("tune", "-f", "NAME", "--model", shlex.quote(folder), *options)


def remark_on_folds(folders: Sequence[Path], members: Sequence[Member]) -> str:
    """Return a remark if a folder of folds lacks folds, else ""."""
    missing = missing_folds(folders, members)
    return f"missing, so the ensemble is without: {', '.join(map(str, missing))}" if missing else ""
