"""Division of the images into training and held-out images, and which models score which images.

Training, the search of thresholds and `evaluate` all use this division. So a model is never scored on its
training images unless the user asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.experiment.checkpoint import DataFacts
from core.experiment.configuration import Training
from core.prediction.trained_models import Member
from data.batches.splits import Split, fold_of_store, split_store
from data.hdf5.store import Store
from data.radiographs.clahe import Clahe


@dataclass(frozen=True)
class ScoringGroup:
    """Images that the same members of an ensemble score together.

    Args:
        members: The members.
        indices: (n,) int64, the images' indices in the store, ascending.
    """

    members: tuple[Member, ...]
    indices: NDArray[np.int64]


def split_of(store: Store, settings: Training) -> Split:
    """Return a run's training and held-out images; with folds, those of the fold in the settings."""
    if settings.folds is not None:
        return fold_of_store(store, settings.folds, settings.fold or 0, settings.seed)
    return split_store(store, settings.validation_fraction, settings.seed)


def store_for(store: Store, settings: Training) -> Store:
    """Return a store with its images at the size that a training takes.

    Raises:
        UserError: They are smaller.
    """
    return store if settings.size is None else store.at_size(settings.size, settings.size)


def store_for_models(store: Store, members: Sequence[Member]) -> Store:
    """Return a store with its images at the size that some models take, if it is not larger than theirs."""
    trained = members[0].checkpoint.data
    if store.height >= trained.height and store.width >= trained.width:
        return store.at_size(trained.height, trained.width)
    return store


def facts_of(store: Store) -> DataFacts:
    """Return the properties of the data that a run depends on."""
    clahe = None if store.clahe is None else (store.clahe.limit, store.clahe.tiles)
    return DataFacts(store.count, int(store.positive.sum()), store.height, store.width, clahe)


def clahe_of(members: Sequence[Member]) -> Clahe | None:
    """Return how the images of some models are equalised; all of them in the same way (`find_members`)."""
    found = members[0].checkpoint.data.clahe
    return None if found is None else Clahe(*found)


def scoring_groups(
    store: Store, members: Sequence[Member], split: Literal["validation", "all"]
) -> list[ScoringGroup]:
    """Return the groups of images, with the members that score each.

    Args:
        store: The images.
        members: The models, one or an ensemble.
        split: With "all" every member scores every image. With "validation" a member scores the images that
            it held out; with folds each image is scored by the one model that was not trained on it.

    Raises:
        UserError: The images are smaller than the model's or have another contrast, are not those of the
            training ("validation"), are not annotated, or none was held out.
    """
    facts = facts_of(store)
    for member in members:
        trained = member.checkpoint.data
        if (trained.height, trained.width) != (facts.height, facts.width):
            raise UserError(
                f"{member.folder} takes images of {trained.height}x{trained.width}; {store.path} holds "
                f"{facts.height}x{facts.width}.",
                f"Preprocess with --size {trained.height}."
                if trained.height == trained.width
                else "Preprocess to that size.",
            )
        if trained.clahe != facts.clahe:
            option = "" if trained.clahe is None else " --clahe {:g} --clahe-tiles {}".format(*trained.clahe)
            raise UserError(
                f"{member.folder} takes images with {trained.contrast}; those of {store.path} have "
                f"{facts.contrast}.",
                f"Preprocess with{option}." if option else "Preprocess without --clahe.",
            )
        if split == "validation" and trained != facts:
            raise UserError(
                f"{member.folder} was trained on {trained.images} images ({trained.positives} positive); "
                f"{store.path} holds {facts.images} ({facts.positives} positive): which of them were held "
                "out is not known.",
                "Name the file it was trained on with --data; or, for other images, use --split all.",
            )
    if split == "all":
        return [ScoringGroup(tuple(members), np.arange(store.count, dtype=np.int64))]
    held_out = np.zeros((store.count, len(members)), dtype=bool)
    for number, member in enumerate(members):
        held_out[split_of(store, member.checkpoint.configuration.training).validation, number] = True
    patterns, which = np.unique(held_out, axis=0, return_inverse=True)
    found = [
        ScoringGroup(
            tuple(members[number] for number in np.flatnonzero(pattern).tolist()),
            np.flatnonzero(which.ravel() == place).astype(np.int64),
        )
        for place, pattern in enumerate(patterns)
        if pattern.any()
    ]
    if not found:
        raise UserError(
            f"{members[0].folder} was trained on all images (training.validation_fraction: "
            f"{members[0].checkpoint.configuration.training.validation_fraction:g} of {facts.images}): "
            "there are none to judge it by.",
            "For images that it has not seen, use --data FILE --split all.",
        )
    return found
