"""Dividing images into those to learn from and those to judge by.

Promises: the division depends on the labels, the patients, the fraction and the seed alone (so it is
the same on every backend and machine); images of one patient are never on both sides, or the score
would be of patients that the network knows; and both sides have the same share of positives as far as
numbers and patients allow. Where no patient has several images, patients make no difference.

Two ways: one part held out (`stratified_split`), or k folds, each held out by one of k runs
(`stratified_folds`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.randomness import permutation
from data.hdf5.store import Store


class Split(NamedTuple):
    """Indices of images, ascending: (t,) and (v,) int64; together every image exactly once."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]


def stratified_split(
    positive: NDArray[np.bool_], fraction: float, seed: int, patients: Sequence[str] | None = None
) -> Split:
    """Divide images by patients, those with a positive image and the others apart.

    Patients are drawn one by one, and held out where that brings the number of images held out nearer
    to the share wanted. The share of positives is then missed by half of the images of one patient at
    most, unless otherwise a side would have none.

    Args:
        positive: (n,) bool, whether an image has a mask.
        fraction: Share for validation, from 0 to below 1; 0 leaves validation empty. Otherwise each
            class of at least two patients (one has a positive image, the other has none) gives both
            sides at least one image, and all images of a class are never held out.
        seed: Key of the drawing.
        patients: Names of the n patients; "" stands for a patient without further images. None: all are.

    Raises:
        ValueError: A fraction outside [0, 1), or another number of patients than of images.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the validation fraction must be in [0, 1). Received: {fraction}")
    positive = np.asarray(positive, dtype=bool)
    groups = _groups(patients if patients is not None else [""] * len(positive))
    if len(groups) != len(positive):
        raise ValueError(f"{len(positive)} images need as many patients. Received: {len(groups)}")
    count = int(groups.max(initial=-1)) + 1
    chosen = np.zeros(count, dtype=bool)
    ill = np.zeros(count, dtype=bool)
    ill[groups[positive]] = True
    # Positives first: their patients may have negative images too, which then count among those.
    for label in (True, False):
        images = np.bincount(groups[positive == label], minlength=count)
        members = np.flatnonzero(ill == label)
        order = members[permutation(seed, "split", str(label), count=len(members))]
        taken = int(images[chosen].sum())
        chosen[list(_chosen(order, images, taken, _share(int(images.sum()), fraction)))] = True
    held_out = chosen[groups]
    return Split(np.flatnonzero(~held_out).astype(np.int64), np.flatnonzero(held_out).astype(np.int64))


def stratified_folds(
    positive: NDArray[np.bool_], folds: int, seed: int, patients: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """Divide images by patients into folds of the same size and the same share of positives.

    The patients with positive images come first, those with more before those with fewer, drawn among
    equals; each goes to the fold with the fewest positives (of those, with the fewest images). The other
    patients then go, likewise, to the fold with the fewest images. So no two folds differ by more positives
    than one patient has; nor by more images, where there are negatives enough to level them.

    Args:
        positive: (n,) bool, whether an image has a mask.
        folds: At least 2.
        seed: Key of the drawing.
        patients: Names of the n patients; "" stands for a patient without further images. None: all are.

    Returns:
        (n,) int64, the fold of each image, from 0. With fewer patients than folds some folds are empty.

    Raises:
        ValueError: Fewer than 2 folds, or another number of patients than of images.
    """
    if folds < 2:
        raise ValueError(f"there must be at least 2 folds. Received: {folds}")
    positive = np.asarray(positive, dtype=bool)
    groups = _groups(patients if patients is not None else [""] * len(positive))
    if len(groups) != len(positive):
        raise ValueError(f"{len(positive)} images need as many patients. Received: {len(groups)}")
    count = int(groups.max(initial=-1)) + 1
    sizes = np.bincount(groups, minlength=count)
    positives = np.bincount(groups[positive], minlength=count)
    fold_of = np.zeros(count, dtype=np.int64)
    filled = np.zeros((2, folds), dtype=np.int64)  # positives and images
    for label, amounts in ((True, positives), (False, sizes)):
        members = np.flatnonzero((positives > 0) == label)
        order = members[permutation(seed, "folds", str(label), count=len(members))]
        for group in order[np.argsort(-amounts[order], kind="stable")].tolist():
            fold = int(np.lexsort((filled[1], filled[0]))[0] if label else np.argmin(filled[1]))
            fold_of[group] = fold
            filled[:, fold] += positives[group], sizes[group]
    return fold_of[groups]


def fold_of_store(store: Store, folds: int, fold: int, seed: int) -> Split:
    """Hold out one fold, from 0, of a file's images; see `stratified_folds`.

    Raises:
        UserError: The file has no annotations, or too few patients for so many folds.
    """
    fold_of = stratified_folds(store.positive, folds, seed, store.patients)
    if len(set(fold_of.tolist())) < folds:
        raise UserError(
            f"{store.path}: {store.count} images cannot be divided into training.folds={folds}, as images of "
            f"one patient stay together and there are {len(set(_groups(store.patients).tolist()))} patients.",
            "Take fewer folds.",
        )
    held_out = fold_of == fold
    return Split(np.flatnonzero(~held_out).astype(np.int64), np.flatnonzero(held_out).astype(np.int64))


def split_store(store: Store, fraction: float, seed: int) -> Split:
    """Divide a file's images; see `stratified_split`.

    Raises:
        UserError: The file has no annotations, or its patients leave nothing to hold out.
    """
    split = stratified_split(store.positive, fraction, seed, store.patients)
    if not len(split.validation) and len(stratified_split(store.positive, fraction, seed).validation):
        raise UserError(
            f"{store.path}: no image can be held out for validation, as images of one patient stay together "
            f"and all {store.count} images name too few patients.",
            "If that is no patient's name but a placeholder, preprocess again with --ignore-patients; or "
            "train on all images: --set training.validation_fraction=0",
        )
    return split


def _groups(patients: Sequence[str]) -> NDArray[np.int64]:
    """The number of each image's patient, counted in the order in which they first appear."""
    numbers: dict[str | int, int] = {}
    keys = (patient or index for index, patient in enumerate(patients))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _chosen(order: NDArray[np.int64], images: NDArray[np.int64], taken: int, wanted: int) -> Iterator[int]:
    """The groups to hold out, of those in `order`, when `taken` images are held out already.

    Never all images: something must be left to learn from.
    """
    total, none = int(images.sum()), taken == 0
    for group in order.tolist():
        size = int(images[group])
        if abs(taken + size - wanted) < abs(taken - wanted) and taken + size < total:
            taken, none = taken + size, False
            yield group
    if none and wanted and len(order) and np.count_nonzero(images) > 1:  # all have too many: the fewest
        yield int(order[np.argmin(images[order])])


def _share(count: int, fraction: float) -> int:
    if fraction == 0 or count < 2:
        return 0
    return min(max(math.floor(count * fraction + 0.5), 1), count - 1)
