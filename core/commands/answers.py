"""From what a network says to an answer about the whole image, for every command that gives one.

Promises: a probability map is brought to the original size by `data.resize.resize_image` and nothing else,
and becomes a mask only there; so a mask that is scored is the mask that is submitted, pixel for pixel.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.inference import Member, find_thresholds, missing_folds
from core.thresholds import Saved, Thresholds, load_saved
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


@dataclass(frozen=True)
class Decision:
    """What decides for some models.

    Args:
        thresholds: The thresholds.
        origin: Where they came from: the models' files, nowhere, or (one at least) the command line.
        flip: Whether mirror images are predicted too.
        followed: Whether that is so because the thresholds were searched that way, not because it was asked.
        remarks: What a user should know of it, a line each.
    """

    thresholds: Thresholds
    origin: Literal["tuned", "default", "given"]
    flip: bool
    followed: bool
    remarks: tuple[str, ...]


def decide(arguments: argparse.Namespace, folders: Sequence[Path]) -> Decision:
    """What decides: the models' thresholds, with what --pixel, --area, --score and --tta change.

    Without --tta and --no-tta mirror images are predicted if all models' thresholds were searched with them.

    Raises:
        UserError: A file of thresholds is damaged, or the numbers do not go together.
    """
    names = [field.name for field in dataclasses.fields(Thresholds)]
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    tuned = find_thresholds(folders)
    thresholds = dataclasses.replace(tuned or Thresholds(), **given)
    origin: Literal["tuned", "default", "given"] = "given" if given else "tuned" if tuned else "default"
    saved = {} if len(given) == len(names) else {folder: load_saved(folder) for folder in folders}
    searched = {folder: one.flip for folder, one in saved.items() if one is not None} if tuned else {}
    followed = arguments.tta is None and bool(searched) and all(searched.values())
    flip = followed or bool(arguments.tta)
    remarks = [*_on_missing(saved), *_on_mirror_images(searched, flip)]
    return Decision(thresholds, origin, flip, followed, tuple(remarks))


def _on_missing(saved: Mapping[Path, Saved | None]) -> list[str]:
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
    return shlex.join(["python", "run.py", "tune", "-f", "NAME", "--model", folder, *["--tta"] * flip])


def remark_on_folds(folders: Sequence[Path], members: Sequence[Member]) -> str:
    """What to say where a folder of folds is not complete; "" where it is."""
    missing = missing_folds(folders, members)
    return f"missing, so the ensemble is without: {', '.join(map(str, missing))}" if missing else ""
