"""Construction of the training loader from the configuration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.experiment.configuration import Training
from data.batches.augmentation import AugmentationSettings
from data.batches.loader import Loader
from data.batches.sampling import SamplingSchedule
from data.hdf5.store import Store


def training_batches(store: Store, indices: NDArray[np.int64], settings: Training) -> Loader:
    """Return batches that are shuffled or sampled, and augmented, by the run's seed."""
    sampling = None
    if (wanted := settings.sampling) is not None:
        final = wanted.positives if wanted.final is None else wanted.final
        sampling = SamplingSchedule(wanted.positives, final, wanted.over_epochs or settings.epochs)
    augmentation = AugmentationSettings(**settings.augmentation.model_dump())
    return Loader(store, indices, settings.batch_size, settings.seed, sampling, augmentation)
