"""Trained models and ensembles, ready to predict.

The network, the size of its images and the weights come from the checkpoint in the model's folder, whichever
backend wrote it. Several models form an ensemble, whose probability is the mean of the members'. Each member
may predict several views of an image (`core.scoring.views`), and the mean of all is used. An image of another
scale is predicted by the same weights, compiled for the nearest size that the network takes, and its
probabilities are resized back. The same holds for the existence probabilities; all members have the existence
head, or none. A folder with `fold0/`, `fold1/`, … is the ensemble of the folds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import ExistenceModel, Implementation, Model
from core.backend.state import prediction_state
from core.backend.training_rules import prediction_rules
from core.base.errors import UserError
from core.base.programs import command_line
from core.experiment.checkpoint import AVERAGED, BEST, LAST, Checkpoint, EpochRecord, load_checkpoint
from core.network.lowering import lower
from core.network.sizes import scaled_size
from core.scoring.thresholds import THRESHOLDS_FILE, Thresholds, load_thresholds
from core.scoring.views import PLAIN, Views

Resize = Callable[[NDArray[np.float32], int, int], NDArray[np.float32]]
"""Returns an (h, w) image, in [0, 1], with another height and width."""

CHECKPOINTS = (AVERAGED, BEST)
"""Checkpoints that can predict; the first one that a model's folder holds is used."""

_FOLD = re.compile(r"fold(0|[1-9][0-9]*)")  # names as those of `fold_folder`
_STAGE = re.compile(r"stage([1-9][0-9]*)")  # as those of `stage_folder`
_FILES_OF_A_MODEL = (THRESHOLDS_FILE, "history.json", "predictions.png")
_FOLDERS_OF_A_MODEL = ("export", "averaging")


def belongs_to_model(file: Path) -> bool:
    """Tell by its name whether a file belongs to a model.

    Args:
        file: Path relative to the model's folder, which may be a folder of folds, or have stages in it.
    """
    if file.suffix == ".safetensors" or file.name in _FILES_OF_A_MODEL:
        return True
    folders = file.parts[:-1]
    for name in (_FOLD, _STAGE):
        if folders and name.fullmatch(folders[0]):
            folders = folders[1:]
    return folders[:1] in {(name,) for name in _FOLDERS_OF_A_MODEL}


@dataclass(frozen=True)
class Member:
    """A model of an ensemble, not compiled yet. A single model is an ensemble of one.

    Args:
        folder: The model's folder.
        path: The checkpoint's file.
        checkpoint: The checkpoint's content; its arrays are those that predict (`prediction_state`).
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
        views: The views of each image to predict.
        resize: Resizes an image and its probabilities; only views of another scale need it.

    Raises:
        UserError: Two scales give the same size, or the backend refuses a model.

    Attributes:
        height: Number of rows of its images.
        width: Number of columns of its images.
        has_existence: Whether its models have the existence head.
    """

    def __init__(
        self,
        members: Sequence[Member],
        implementation: Implementation,
        device: str,
        *,
        views: Views = PLAIN,
        resize: Resize | None = None,
    ) -> None:
        self._flip, self._resize = views.flip, resize
        data = members[0].checkpoint.data
        self.height, self.width = data.height, data.width
        self.has_existence = has_existence(members)
        self._models = [
            (_compiled(member.checkpoint, implementation, device, size), size)
            for member in members
            for size in _sizes(member.checkpoint, views.scales)
        ]

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
        total = np.zeros(images.shape, dtype=np.float64)
        existence = np.zeros(len(images), dtype=np.float64)
        count = 0
        for model, size in self._models:
            scaled = self._resized(images, *size)
            views = [scaled, np.ascontiguousarray(scaled[:, :, ::-1])] if self._flip else [scaled]
            for mirrored, view in enumerate(views):
                if self.has_existence:
                    found, of_images = cast(ExistenceModel, model).predict_with_existence(view)
                    existence += of_images
                else:
                    found = model.predict(view)
                found = self._resized(found, self.height, self.width)
                total += found[:, :, ::-1] if mirrored else found
                count += 1
        masks = (total / count).astype(np.float32)
        return Prediction(masks, (existence / count).astype(np.float32) if self.has_existence else None)

    def _resized(self, images: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """Return (n, h, w, 1) images or probabilities at another size."""
        if images.shape[1:3] == (height, width):
            return images
        if self._resize is None:
            raise ValueError("views of another scale need a function that resizes. Received: None")
        return np.stack([self._resize(one[..., 0], height, width) for one in images])[..., np.newaxis]


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
        UserError: A folder holds no checkpoint, the models take images of different sizes or contrast, or
            some have the existence head and others have not.
    """
    members = [_member(found) for folder in folders for found in (folds(folder) or [folder])]
    sizes = {(member.checkpoint.data.height, member.checkpoint.data.width): member for member in members}
    if len(sizes) > 1:
        listed = ", ".join(f"{height}x{width} ({one.folder})" for (height, width), one in sizes.items())
        raise UserError(f"models of different image sizes cannot predict together: {listed}")
    contrasts = {member.checkpoint.data.contrast: member.folder for member in members}
    if len(contrasts) > 1:
        listed = ", ".join(f"{contrast} ({folder})" for contrast, folder in contrasts.items())
        raise UserError(f"models for images of different contrast cannot predict together: {listed}")
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


def stage_folder(folder: Path, number: int) -> Path:
    """Return the folder of a stage before the last one, in a model's or a log's folder."""
    return folder / f"stage{number}"


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
        if begun := [
            path for path in folder.glob("stage*") if _STAGE.fullmatch(path.name) and (path / LAST).is_file()
        ]:
            newest = max(begun, key=lambda stage: int(stage.name.removeprefix("stage")))
            raise UserError(
                f"the training in {folder} has come to {newest.name} and is not finished",
                f"Go on with it: {command_line('train', '-f NAME --resume')}; or name {newest}.",
            )
        what = "has no trained model in it" if folder.is_dir() else "does not exist"
        raise UserError(
            f"the model folder {folder} {what} (looked for {' and '.join(CHECKPOINTS)}).",
            f"Train first: {command_line('train', '-f tf')}; or name another folder with --model.",
        )
    checkpoint = load_checkpoint(found[0])
    return Member(folder, found[0], replace(checkpoint, arrays=prediction_state(checkpoint.arrays)))


def _sizes(checkpoint: Checkpoint, scales: Sequence[float]) -> list[tuple[int, int]]:
    """Return the size of the images for each scale."""
    network, data = checkpoint.configuration.network, checkpoint.data
    found = dict[tuple[int, int], float]()
    for scale in scales:
        size = data.height, data.width
        size = size if scale == 1 else scaled_size(network, *size, scale)
        if size in found:
            raise UserError(
                f"scales {found[size]:g} and {scale:g} both give images of {size[0]}x{size[1]}",
                f"The network is for {data.height}x{data.width} and takes no size between; leave one out.",
            )
        found[size] = scale
    return list(found)


def _compiled(
    checkpoint: Checkpoint, implementation: Implementation, device: str, size: tuple[int, int]
) -> Model:
    settings = checkpoint.configuration.training
    plan = lower(checkpoint.configuration.network, *size)
    model = implementation.compile(plan, prediction_rules(settings.rules()), device, settings.precision)
    model.load_state(checkpoint.arrays)
    return model
