"""Construction of the loaders of a run from its configuration."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from core.distribution.exchange import Exchange
from core.distribution.shards import Shards
from core.experiment.checkpoint import DataFacts
from core.experiment.configuration import Training
from core.tasks.validation_split import split_of
from data.batches.augmentation import AugmentationSettings
from data.batches.crops import CropSettings
from data.batches.loader import Loader
from data.batches.sampling import SamplingSchedule
from data.hdf5.store import Store
from data.radiographs.clahe import check_tiles


@dataclass(frozen=True)
class RunBatches:
    """The batches of a run, for one worker.

    Args:
        training: Of each batch to train on, the rows of this worker.
        validation: The batches to score.
        held_out: False if no image is held out, so that the training images are scored.
        crop: Height and width of the crops to train on; None for whole images.
    """

    training: Loader
    validation: Loader
    held_out: bool
    crop: int | None

    @classmethod
    def of(cls, store: Store, settings: Training, exchange: Exchange) -> RunBatches:
        """Return the batches of a run.

        Raises:
            UserError: The workers cannot share the shards.
        """
        split = split_of(store, settings)
        held_out = len(split.validation) > 0
        shards = Shards(settings.shards, settings.batch_size, len(exchange.hosts))
        rows = functools.partial(shards.rows_of_worker, exchange.worker)
        return cls(
            training_batches(store, split.training, settings, rows),
            Loader(store, split.validation if held_out else split.training, settings.batch_size),
            held_out,
            None if settings.crop is None else settings.crop.size,
        )

    def sent_to(self, device: str) -> RunBatches:
        """Return the same batches as a device should get them: a GPU as bytes, if the images are bytes."""
        if device == "cpu":
            return self
        return replace(self, training=self.training.in_bytes(), validation=self.validation.in_bytes())

    def describe(self, path: str, facts: DataFacts) -> str:
        """Return a line about a data file and its division, for people."""
        crops = f" in crops of {self.crop}x{self.crop}" if self.crop else ""
        share = f"{self.training.images} to train{crops}, {self.validation.images} held out"
        if not self.held_out:
            share = f"all to train{crops}; none is held out, so the scores below are of the training images"
        contrast = "" if facts.clahe is None else f", {facts.contrast}"
        return (
            f"data: {path}, {facts.images} images of {facts.height}x{facts.width}, "
            f"{facts.positives} positive{contrast}; {share}"
        )


def training_batches(
    store: Store,
    indices: NDArray[np.int64],
    settings: Training,
    rows: Callable[[int], range] | None = None,
) -> Loader:
    """Return batches that are shuffled or sampled, augmented and cropped, by the seed of the run's stage.

    Args:
        store: An open store.
        indices: (n,) indices of the images to train on.
        settings: The settings of the run.
        rows: The rows of each batch to read, as for `Loader`.
    """
    sampling = None
    if (wanted := settings.sampling) is not None:
        final = wanted.positives if wanted.final is None else wanted.final
        sampling = SamplingSchedule(wanted.positives, final, wanted.over_epochs or settings.epochs)
    augmentation = AugmentationSettings(**settings.augmentation.model_dump())
    if augmentation.clahe > 0:
        key = "training.augmentation.clahe_tiles"
        check_tiles(augmentation.clahe_tiles, store.height, store.width, key)
    crops = None if settings.crop is None else CropSettings(**settings.crop.model_dump())
    return Loader(
        store, indices, settings.batch_size, settings.draws_seed, sampling, augmentation, rows, crops
    )
