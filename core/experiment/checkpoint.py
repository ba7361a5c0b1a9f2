"""Checkpoints: the state of a run after any step, in one file that every backend can read.

A checkpoint holds all that is needed to resume: the configuration, the model's arrays, the optimiser's
moments and the progress of the run. The file is safetensors with JSON metadata, so reading it runs no code.
It is written whole or not at all, with a hash of its content. A file that is no checkpoint, or that has one
wrong bit, is refused with a `UserError`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from core.base.errors import UserError
from core.base.programs import command_line
from core.experiment.configuration import Configuration, parse_configuration
from core.experiment.configuration_keys import key_path
from core.files.atomic import write_bytes
from core.files.system_errors import explain_os_errors

FORMAT = "pneumoseg-checkpoint"
VERSION = 1

LAST, BEST, AVERAGED = "last.safetensors", "best.safetensors", "averaged.safetensors"
"""Files in a model's folder: the newest, the best, and the average of several epochs if that is better."""

# Keys that may change when a run is resumed. All others affect batches or arithmetic.
_FREE_KEYS = (
    "training.epochs",
    "training.early_stop",
    "training.optimizer.learning_rate",
    "training.average_best",
    "training.stages",  # what they say of this stage is in the other keys
)


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch; an entry of `history.json`.

    Args:
        epoch: From 1.
        loss: Mean training loss over the epoch's images. The loss of a batch is taken before its update.
        validation_loss: The same loss after the epoch, on the scored images, without dropout.
        dice: See `core.scoring.metrics.Scores`, also for the next two.
        dice_all_empty: The all-negative baseline.
        dice_positive: None if no scored image is positive.
        learning_rate: The learning rate of the epoch's last step.
        images_per_second: Training images per second of training time, without scoring.
        scored_on: "validation", or "training" if no image was held out.
        step: Updates since the run began.
        skipped_steps: Updates of the epoch that were skipped, as gradients overflowed; None without a scale.
        loss_scale: The loss scale after the epoch; None without one.
        auroc: AUROC of the scored images' highest probabilities: how well they tell which have a mask. None
            without positive or negative images, and in records of earlier versions.
    """

    epoch: int
    loss: float
    validation_loss: float
    dice: float
    dice_all_empty: float
    dice_positive: float | None
    learning_rate: float
    images_per_second: float
    scored_on: str
    step: int
    skipped_steps: int | None = None
    loss_scale: float | None = None
    auroc: float | None = None


@dataclass(frozen=True)
class DataFacts:
    """Facts about the training data: a run is resumed on no other data, and new images are made like these.

    Args:
        images: Number of images.
        positives: How many of them are positive.
        height: Rows of an image.
        width: Columns of an image.
        clahe: Limit and tiles of the images' equalisation (`data.radiographs.clahe`); None if there is none.
    """

    images: int
    positives: int
    height: int
    width: int
    clahe: tuple[float, int] | None = None

    @property
    def contrast(self) -> str:
        """The images' equalisation, for people."""
        if self.clahe is None:
            return "no CLAHE"
        limit, tiles = self.clahe
        return f"CLAHE with limit {limit:g} and {tiles}x{tiles} tiles"


@dataclass(frozen=True)
class Start:
    """The weights that a run began with, if not random ones.

    Args:
        file: Name of the file that they are from.
        sha256: Its hash.
        part: What they are in words: "the encoder".
        blocks: The blocks that they filled; all others began at random.
        zoo: Whose file it was.
    """

    file: str
    sha256: str
    part: str
    blocks: tuple[str, ...]
    zoo: str


@dataclass(frozen=True)
class Progress:
    """Where a run began and how far it has come.

    Args:
        step: Updates since the run began.
        batch: Finished batches of the current epoch, whose number is `len(history) + 1`.
        loss_sum: Sum of loss times images over those batches.
        images: Images in those batches.
        seconds: Training time of those batches.
        history: The finished epochs.
        start: The weights that it began with (`training.start_from`); None for random ones.
    """

    step: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    images: int = 0
    seconds: float = 0.0
    history: tuple[EpochRecord, ...] = field(default=())
    start: Start | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a step."""

    configuration: Configuration
    data: DataFacts
    progress: Progress
    arrays: dict[str, NDArray[Any]]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and replace the one at `path`, if there is one."""
    content = {
        "configuration": checkpoint.configuration.model_dump(mode="json"),
        "data": dataclasses.asdict(checkpoint.data),
        "progress": dataclasses.asdict(checkpoint.progress),
    }
    text = json.dumps(content, allow_nan=False)
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "content": text,
        "sha256": _digest(text, arrays),
    }
    write_bytes(path, save(arrays, metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UserError: There is no such file, or it is not a checkpoint of this version.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}", f"Train first: {command_line('train', '-f tf')}")
    try:
        with explain_os_errors(path, "read"), safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a checkpoint or is damaged: {error}") from error
    if metadata.get("format") != FORMAT or metadata.get("version") != str(VERSION):
        found = {key: metadata.get(key) for key in ("format", "version")}
        raise UserError(f"{path}: expected a {FORMAT} of version {VERSION}; received {found}")
    if metadata.get("sha256") != _digest(metadata.get("content", ""), arrays):
        raise UserError(f"{path} is damaged: its content is not what was written (SHA-256)")
    try:
        content = json.loads(metadata["content"])
        return Checkpoint(
            configuration=parse_configuration(content["configuration"], source=str(path)),
            data=TypeAdapter(DataFacts).validate_python(content["data"]),
            progress=TypeAdapter(Progress).validate_python(content["progress"]),
            arrays=arrays,
        )
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: the metadata are damaged: {error}") from error


def check_unchanged(checkpoint: Checkpoint, configuration: Configuration, stage: str) -> None:
    """Refuse other settings of a stage that is finished.

    Args:
        checkpoint: The newest one of the stage.
        configuration: The settings of the stage now.
        stage: Its name: "stage 1 of 3".

    Raises:
        UserError: Something differs. The text names the first key, and both values.
    """
    before, after = checkpoint.configuration.model_dump(), configuration.model_dump()
    if difference := _first_difference(before, after, (), free=("training.stages",)):
        path, old, new = difference
        key = path.removeprefix("training.")
        raise UserError(
            f"cannot resume: {stage} is finished, and {path} was {old!r} in it and is now {new!r}",
            f"Change a stage that is not finished: --set training.stages[N].{key}=…",
        )


def check_continuation(checkpoint: Checkpoint, configuration: Configuration, data: DataFacts) -> None:
    """Refuse to resume a run with another network, other data or another arithmetic.

    Raises:
        UserError: Something differs. The text names the first key or fact, and both values.
    """
    before, after = checkpoint.configuration.model_dump(), configuration.model_dump()
    if difference := _first_difference(before, after, (), free=_FREE_KEYS):
        path, old, new = difference
        raise UserError(
            f"cannot resume: {path} was {old!r} in the checkpoint and is now {new!r}",
            f"Only {', '.join(_FREE_KEYS)} may change; start anew without --resume for the rest.",
        )
    if checkpoint.data != data:
        raise UserError(
            f"cannot resume on other data: the checkpoint was trained on {_describe(checkpoint.data)}, "
            f"--data holds {_describe(data)}"
        )


def _digest(text: str, arrays: dict[str, NDArray[Any]]) -> str:
    """Return a hash of the metadata's text and of every array's name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode("utf-8"))
    for name, array in sorted(arrays.items()):
        digest.update(f"\x1f{name} {array.dtype.str} {array.shape}\x1f".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _first_difference(
    old: Any, new: Any, path: tuple[str | int, ...], free: Sequence[str]
) -> tuple[str, Any, Any] | None:
    """Return path, old and new value of the first key that differs and must not; None if there is none."""
    if key_path(path) in free or old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        pairs = [(key, old[key], new[key]) for key in old]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(index, *both) for index, both in enumerate(zip(old, new, strict=True))]
    else:
        return key_path(path), old, new
    found = (_first_difference(a, b, (*path, key), free) for key, a, b in pairs)
    return next((difference for difference in found if difference), None)


def _describe(data: DataFacts) -> str:
    contrast = "" if data.clahe is None else f", {data.contrast}"
    return f"{data.images} images ({data.positives} positive) of {data.height}x{data.width}{contrast}"
