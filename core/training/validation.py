"""Scoring of a model on labelled batches at the size of the network, as after every epoch of training.

Provides `evaluate`, which scores a batch, `Summary` of all batches, and the types of the batches that
training and scoring read. Scores at the original size of the images come from `core.tasks.scoring`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Model
from core.base.byte_images import Images, as_numbers
from core.pictures.radiographs import Sample
from core.scoring.metrics import Scores, auroc, dice_per_image, summarise

_POSITIVE_SAMPLES, _NEGATIVE_SAMPLES = 4, 2


class LabelledBatch(Protocol):
    """Images (n, H, W, 1), numbers in [0, 1] or bytes, and masks (n, H, W, 1) in {0, 1}."""

    @property
    def images(self) -> Images:
        """The images."""
        ...

    @property
    def masks(self) -> NDArray[np.uint8]:
        """The masks."""
        ...


class BatchSource(Protocol):
    """A set of images in batches, in an order that depends on the epoch alone."""

    @property
    def images(self) -> int:
        """Number of images in an epoch."""
        ...

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0, every: int = 1) -> Generator[LabelledBatch, None, None]:
        """Yield every `every`-th batch of an epoch, from batch `start` on."""
        ...


@dataclass(frozen=True)
class ValidationResult:
    """Loss, scores and some samples of a set of images.

    Args:
        loss: Mean over the images.
        scores: Those of the masks.
        samples: Some images.
        auroc: AUROC of the images' highest probabilities; None without positive or without negative images.
    """

    loss: float
    scores: Scores
    samples: tuple[Sample, ...]
    auroc: float | None

    @property
    def validation_loss(self) -> float:
        """The loss, under the name that it has in an `EpochRecord`."""
        return self.loss

    @property
    def dice(self) -> float:
        """Mean Dice over all images."""
        return self.scores.dice

    @property
    def dice_positive(self) -> float | None:
        """Mean Dice over the positive images; None where there are none."""
        return self.scores.dice_positive


@dataclass(frozen=True)
class EvaluatedBatch:
    """Scores of the images of a batch.

    Args:
        loss_sum: The loss, times the number of images.
        dice: (n,), the Dice of each image.
        highest: (n,), the highest probability of a pixel, which is the existence score for any area.
        positive: (n,), whether the image is positive.
        samples: The first images of each class.
    """

    loss_sum: float
    dice: NDArray[np.float64]
    highest: NDArray[np.float64]
    positive: NDArray[np.bool_]
    samples: tuple[Sample, ...]


def evaluate(model: Model, batch: LabelledBatch, threshold: float) -> EvaluatedBatch:
    """Score the images of a batch."""
    loss, probabilities = model.evaluate(batch.images, batch.masks)
    dice = dice_per_image(probabilities >= threshold, batch.masks)
    positive = np.asarray(batch.masks.any(axis=(1, 2, 3)))
    chosen = [*np.flatnonzero(positive)[:_POSITIVE_SAMPLES], *np.flatnonzero(~positive)[:_NEGATIVE_SAMPLES]]
    samples = tuple(
        Sample(
            image=as_numbers(batch.images[index, ..., 0]),
            truth=batch.masks[index, ..., 0],
            probability=probabilities[index, ..., 0],
            dice=float(dice[index]),
        )
        for index in sorted(chosen)
    )
    highest = probabilities.max(axis=(1, 2, 3)).astype(np.float64)
    return EvaluatedBatch(float(loss) * len(batch.images), dice, highest, positive, samples)


class Summary:
    """The loss (mean over images), the scores and a few samples of batches that are added in their order."""

    def __init__(self) -> None:
        self._loss_sum = 0.0
        self._dice: list[NDArray[np.float64]] = []
        self._highest: list[NDArray[np.float64]] = []
        self._positive: list[NDArray[np.bool_]] = []
        self._samples: dict[bool, list[Sample]] = {True: [], False: []}

    def add(self, batch: EvaluatedBatch) -> None:
        """Add the next batch."""
        self._loss_sum += batch.loss_sum
        self._dice.append(batch.dice)
        self._highest.append(batch.highest)
        self._positive.append(batch.positive)
        for sample in batch.samples:
            is_positive = bool(sample.truth.any())
            wanted = _POSITIVE_SAMPLES if is_positive else _NEGATIVE_SAMPLES
            if len(self._samples[is_positive]) < wanted:
                self._samples[is_positive].append(sample)

    def result(self) -> ValidationResult:
        """Return the result over all batches added."""
        dice, positive = np.concatenate(self._dice), np.concatenate(self._positive)
        samples = (*self._samples[True], *self._samples[False])
        of_images = auroc(np.concatenate(self._highest), positive)
        return ValidationResult(self._loss_sum / len(dice), summarise(dice, positive), samples, of_images)
