"""Scoring of a model on labelled batches at the size of the network, as after every epoch of training.

Provides `validate` and the types of the batches that training and scoring read. Scores at the original size
of the images come from `core.tasks.scoring`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Model
from core.pictures.radiographs import Sample
from core.scoring.metrics import Scores, dice_per_image, summarise

_POSITIVE_SAMPLES, _NEGATIVE_SAMPLES = 4, 2


class LabelledBatch(Protocol):
    """Images (n, H, W, 1) in [0, 1] and masks (n, H, W, 1) in {0, 1}."""

    @property
    def images(self) -> NDArray[np.float32]:
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

    def epoch(self, epoch: int, start: int = 0) -> Generator[LabelledBatch, None, None]:
        """Yield the batches of an epoch without the first `start`."""
        ...


@dataclass(frozen=True)
class ValidationResult:
    """Loss, scores and some samples of a set of images."""

    loss: float
    scores: Scores
    samples: tuple[Sample, ...]

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


def validate(
    model: Model, batches: BatchSource, threshold: float, after_batch: Callable[[], None] = lambda: None
) -> ValidationResult:
    """Compute the loss (mean over images), the scores and a few samples of a set of images."""
    dice: list[NDArray[np.float64]] = []
    positive: list[NDArray[np.bool_]] = []
    samples: dict[bool, list[Sample]] = {True: [], False: []}
    loss_sum = 0.0
    for batch in batches.epoch(0):
        loss, probabilities = model.evaluate(batch.images, batch.masks)
        loss_sum += float(loss) * len(batch.images)
        dice.append(dice_per_image(probabilities >= threshold, batch.masks))
        positive.append(np.asarray(batch.masks.any(axis=(1, 2, 3))))
        for index, is_positive in enumerate(positive[-1]):
            wanted = _POSITIVE_SAMPLES if is_positive else _NEGATIVE_SAMPLES
            if len(samples[bool(is_positive)]) < wanted:
                samples[bool(is_positive)].append(
                    Sample(
                        image=batch.images[index, ..., 0],
                        truth=batch.masks[index, ..., 0],
                        probability=probabilities[index, ..., 0],
                        dice=float(dice[-1][index]),
                    )
                )
        after_batch()
    return ValidationResult(
        loss_sum / batches.images,
        summarise(np.concatenate(dice), np.concatenate(positive)),
        (*samples[True], *samples[False]),
    )
