"""Division of images into training and validation images.

The division depends only on the labels, the patients, the fraction (or the number of folds) and the seed, so
it is the same on every backend and machine. Images of one patient are never on both sides, because a score
on known patients would be too high. Both sides have the same share of positives as far as the numbers and
patients allow. If no patient has several images, the patients do not matter.

There are two ways: one part is held out (`stratified_split`), or there are k folds, and each of k runs holds
out one (`stratified_folds`).
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
    """Ascending indices of images, (t,) and (v,) int64. Every image is in exactly one of the two."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]


def stratified_split(
    positive: NDArray[np.bool_], fraction: float, seed: int, patients: Sequence[str] | None = None
) -> Split:
    """Hold out a fraction of the images by patients; patients with a positive image are divided separately.

    Patients are drawn one by one. A patient is held out if that brings the number of held-out images closer
    to the fraction. The share of positives is then wrong by at most half of the images of one patient, except
    where a side would have none otherwise.

    Args:
        positive: (n,) bool, whether an image has a mask.
        fraction: Share for validation, from 0 to below 1; 0 leaves validation empty. There are two classes of
            patients: those with a positive image, and the others. With a fraction above 0, each class of at
            least two patients gives both sides at least one image; no class is held out completely.
        seed: Seed of the drawing.
        patients: The patient's name of each image; "" is a patient with no other image. None: all are "".

    Raises:
        ValueError: A fraction outside [0, 1), or a number of patients that differs from that of images.
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
    # Positives first: their patients may have negative images too, which then count as held-out negatives.
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

    The patients with positive images come first, in descending order of their positives, and in random order
    among equals. Each goes to the fold with the fewest positives (among equal folds: the fewest images). The
    other patients follow, in descending order of their images; each goes to the fold with the fewest images.
    So the positives of two folds differ by at most those of one patient. The same holds for the images, if
    there are enough negatives to balance them.

    Args:
        positive: (n,) bool, whether an image has a mask.
        folds: At least 2.
        seed: Seed of the drawing.
        patients: The patient's name of each image; "" is a patient with no other image. None: all are "".

    Returns:
        (n,) int64, the fold of each image, from 0. With fewer patients than folds some folds are empty.

    Raises:
        ValueError: Fewer than 2 folds, or a number of patients that differs from that of images.
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
    """Hold out one fold (counted from 0) of a file's images; see `stratified_folds`.

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
    """Hold out a fraction of a file's images; see `stratified_split`.

    Raises:
        UserError: The file has no annotations, or no image can be held out because of the patients.
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
    """Return the number of each image's patient; patients are numbered in order of first appearance."""
    numbers: dict[str | int, int] = {}
    keys = (patient or index for index, patient in enumerate(patients))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _chosen(order: NDArray[np.int64], images: NDArray[np.int64], taken: int, wanted: int) -> Iterator[int]:
    """Yield the groups in `order` to hold out if `taken` images are held out already.

    It never takes all images, because some must be left for training.
    """
    total, none = int(images.sum()), taken == 0
    for group in order.tolist():
        size = int(images[group])
        if abs(taken + size - wanted) < abs(taken - wanted) and taken + size < total:
            taken, none = taken + size, False
            yield group
    if (
        none and wanted and len(order) and np.count_nonzero(images) > 1
    ):  # all groups are too large: take the smallest
        yield int(order[np.argmin(images[order])])


def _share(count: int, fraction: float) -> int:
    """Return the number of images to hold out: rounded; at least 1 and less than all, if possible."""
    if fraction == 0 or count < 2:
        return 0
    return min(max(math.floor(count * fraction + 0.5), 1), count - 1)
