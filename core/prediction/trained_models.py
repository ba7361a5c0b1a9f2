"""Trained models and ensembles, ready to predict.

The network, the size of its images and the weights come from the checkpoint in the model's folder, whichever
backend wrote it. Several models form an ensemble, whose probability is the mean of the members'. With `flip`
each member also predicts the mirror image (left and right exchanged), and the mean of both is used. The same
holds for the existence probabilities; all members have the existence head, or none. A folder
with `fold0/`, `fold1/`, … is the ensemble of the folds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import ExistenceModel, Implementation, Model
from core.base.errors import UserError
from core.base.programs import command_line
from core.experiment.checkpoint import AVERAGED, BEST, LAST, Checkpoint, EpochRecord, load_checkpoint
from core.network.lowering import lower
from core.scoring.thresholds import THRESHOLDS_FILE, Thresholds, load_thresholds

CHECKPOINTS = (AVERAGED, BEST)
"""Checkpoints that can predict; the first one that a model's folder holds is used."""

_FOLD = re.compile(r"fold(0|[1-9][0-9]*)")  # names as those of `fold_folder`
_FILES_OF_A_MODEL = (THRESHOLDS_FILE, "history.json", "predictions.png")
_FOLDERS_OF_A_MODEL = ("export", "averaging")


def belongs_to_model(file: Path) -> bool:
    """Tell by its name whether a file belongs to a model.

    Args:
        file: Path relative to the model's folder, which may be a folder of folds.
    """
    if file.suffix == ".safetensors" or file.name in _FILES_OF_A_MODEL:
        return True
    folders = file.parts[:-1]
    if folders and _FOLD.fullmatch(folders[0]):
        folders = folders[1:]
    return folders[:1] in {(name,) for name in _FOLDERS_OF_A_MODEL}


@dataclass(frozen=True)
class Member:
    """A model of an ensemble, not compiled yet. A single model is an ensemble of one.

    Args:
        folder: The model's folder.
        path: The checkpoint's file.
        checkpoint: The checkpoint's content.
    """

    folder: Path
    path: Path
    checkpoint: Checkpoint


class Prediction(NamedTuple):
    """The probabilities of some images.

    Attributes:
        masks: (n, height, width, 1) float32 in [0, 1], of a pneumothorax for each pixel.
        existence: (n,) float32 in [0, 1], of any pneumothorax; None without the existence head.
    """

    masks: NDArray[np.float32]
    existence: NDArray[np.float32] | None

    def existence_of(self, number: int) -> float | None:
        """Return the existence probability of one of the images; None without the existence head."""
        return None if self.existence is None else float(self.existence[number])


class Predictor:
    """An ensemble compiled on one device.

    Args:
        members: The models, all of one image size.
        implementation: The backend.
        device: One of the backend's devices.
        flip: Whether predictions are averaged with those of mirror images.

    Attributes:
        height: Number of rows of its images.
        width: Number of columns of its images.
        has_existence: Whether its models have the existence head.
    """

    def __init__(
        self, members: Sequence[Member], implementation: Implementation, device: str, *, flip: bool = False
    ) -> None:
        self._flip = flip
        data = members[0].checkpoint.data
        self.height, self.width = data.height, data.width
        self.has_existence = has_existence(members)
        self._models = [_compiled(member.checkpoint, implementation, device) for member in members]

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of a pneumothorax for each pixel.

        Args:
            images: (n, height, width, 1) float32 in [0, 1].

        Returns:
            (n, height, width, 1) float32 in [0, 1].
        """
        return self.predict_with_existence(images).masks

    def predict_with_existence(self, images: NDArray[np.float32]) -> Prediction:
        """Return the probabilities of `predict`, and the existence probabilities if there is the head."""
        views = [images, np.ascontiguousarray(images[:, :, ::-1])] if self._flip else [images]
        total = np.zeros(images.shape, dtype=np.float64)
        existence = np.zeros(len(images), dtype=np.float64)
        for model in self._models:
            for mirrored, view in enumerate(views):
                if self.has_existence:
                    found, of_images = cast(ExistenceModel, model).predict_with_existence(view)
                    existence += of_images
                else:
                    found = model.predict(view)
                total += found[:, :, ::-1] if mirrored else found
        count = len(self._models) * len(views)
        masks = (total / count).astype(np.float32)
        return Prediction(masks, (existence / count).astype(np.float32) if self.has_existence else None)


def has_existence(members: Sequence[Member]) -> bool:
    """Return whether some models have the existence head."""
    return members[0].checkpoint.configuration.network.existence is not None


def history_of_run(member: Member) -> tuple[EpochRecord, ...]:
    """Return the epochs of the whole run, from the newest checkpoint in the model's folder."""
    last = member.folder / LAST
    return (load_checkpoint(last) if last.is_file() else member.checkpoint).progress.history


def model_folder(framework: str) -> Path:
    """Return the name of the folder to which training on a backend writes its model."""
    return Path(f"{framework}_model")


def find_members(folders: Sequence[Path]) -> list[Member]:
    """Return the models in some folders; a folder of folds gives one model for each fold.

    Raises:
        UserError: A folder holds no checkpoint, the models take images of different sizes, or some have the
            existence head and others have not.
    """
    members = [_member(found) for folder in folders for found in (folds(folder) or [folder])]
    sizes = {(member.checkpoint.data.height, member.checkpoint.data.width): member for member in members}
    if len(sizes) > 1:
        listed = ", ".join(f"{height}x{width} ({one.folder})" for (height, width), one in sizes.items())
        raise UserError(f"models of different image sizes cannot predict together: {listed}")
    heads = {has_existence([member]): member.folder for member in members}
    if len(heads) > 1:
        raise UserError(
            "models with and without the existence head cannot predict together: "
            f"{heads[True]} has it, {heads[False]} has not"
        )
    return members


def fold_folder(folder: Path, number: int) -> Path:
    """Return the folder of a fold in a model's or a log's folder."""
    return folder / f"fold{number}"


def folds(folder: Path) -> list[Path]:
    """Return the folders of the folds in a model's folder, in order; none if it was not trained in folds."""
    numbered = [
        (int(match[1]), path) for path in folder.glob("fold*") if (match := _FOLD.fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered)]


def missing_folds(folders: Sequence[Path], members: Sequence[Member]) -> list[Path]:
    """Return the folds that are missing in some folders, according to the checkpoints of the others."""
    numbers = {member.folder: member.checkpoint.configuration.training.folds or 0 for member in members}
    missing = []
    for folder in folders:
        there = folds(folder)
        number = max((numbers[path] for path in there), default=0)
        wanted = [fold_folder(folder, fold) for fold in range(number)]
        missing += [path for path in wanted if path not in there]
    return missing


def find_thresholds(folders: Sequence[Path]) -> Thresholds | None:
    """Return the mean of the thresholds saved with some models: see `mean_thresholds`."""
    return mean_thresholds([load_thresholds(folder) for folder in folders])


def mean_thresholds(found: Sequence[Thresholds | None]) -> Thresholds | None:
    """Return the mean of some models' thresholds; None if any model has none."""
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    heads = [one.existence for one in known if one.existence is not None]
    return Thresholds(
        pixel=sum(one.pixel for one in known) / len(known),
        area=sum(one.area for one in known) / len(known),
        score=sum(one.score for one in known) / len(known),
        existence=sum(heads) / len(heads) if len(heads) == len(known) else None,
    )


def _member(folder: Path) -> Member:
    found = [folder / name for name in CHECKPOINTS if (folder / name).is_file()]
    if not found:
        what = "has no trained model in it" if folder.is_dir() else "does not exist"
        raise UserError(
            f"the model folder {folder} {what} (looked for {' and '.join(CHECKPOINTS)}).",
            f"Train first: {command_line('train', '-f tf')}; or name another folder with --model.",
        )
    return Member(folder, found[0], load_checkpoint(found[0]))


def _compiled(checkpoint: Checkpoint, implementation: Implementation, device: str) -> Model:
    settings = checkpoint.configuration.training
    plan = lower(checkpoint.configuration.network, checkpoint.data.height, checkpoint.data.width)
    model = implementation.compile(plan, settings.rules(), device, settings.precision)
    model.load_state(checkpoint.arrays)
    return model
