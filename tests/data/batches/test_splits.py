"""The division into training and validation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.randomness import permutation
from data.batches.splits import fold_of_store, split_store, stratified_folds, stratified_split
from data.hdf5.file_writing import ImageMetadata, write
from data.hdf5.store import Store


@given(st.lists(st.booleans(), max_size=40), st.floats(0, 0.99, exclude_max=True), st.integers(0, 5))
def test_every_image_once_and_both_classes_where_possible(
    labels: list[bool], fraction: float, seed: int
) -> None:
    positive = np.array(labels, dtype=bool)
    split = stratified_split(positive, fraction, seed)
    assert sorted([*split.training, *split.validation]) == list(range(len(labels)))
    for part in split:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    if labels:
        assert len(split.training)
    for label in (True, False):
        members = int((positive == label).sum())
        held_out = int((positive[split.validation] == label).sum())
        if fraction == 0 or members < 2:
            assert held_out == 0
        else:
            assert abs(held_out - fraction * members) <= 1
            assert 1 <= held_out < members


def test_the_seed_decides() -> None:
    positive = np.arange(100) % 5 == 0
    first, again, other = (stratified_split(positive, 0.2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.validation, again.validation)
    assert first.validation.tolist() != other.validation.tolist()
    assert len(first.validation) == 20
    assert positive[first.validation].sum() == 4


@pytest.mark.parametrize("fraction", [-0.1, 1, 2, float("nan")])
def test_a_bad_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        stratified_split(np.zeros(3, bool), fraction, 0)


def without_patients(positive: NDArray[np.bool_], fraction: float, seed: int) -> list[int]:
    """Compute the held-out images by the rule for independent images."""
    chosen: list[int] = []
    for label in (False, True):
        members = np.flatnonzero(positive == label)
        wanted = 0
        if fraction and len(members) > 1:
            wanted = min(max(int(len(members) * fraction + 0.5), 1), len(members) - 1)
        order = permutation(seed, "split", str(label), count=len(members))
        chosen += members[order[:wanted]].tolist()
    return sorted(chosen)


FRACTIONS = st.floats(0, 0.99, exclude_max=True)


@given(st.lists(st.booleans(), max_size=40), FRACTIONS, st.integers(0, 5), st.data())
def test_patients_that_come_once_make_no_difference(
    labels: list[bool], fraction: float, seed: int, data: st.DataObject
) -> None:
    positive = np.array(labels, dtype=bool)
    expected = without_patients(positive, fraction, seed)
    known = data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    names = [f"p{(7 * number) % 41}" if some else "" for number, some in enumerate(known)]
    for patients in (None, names, [""] * len(labels)):
        split = stratified_split(positive, fraction, seed, patients)
        assert split.validation.tolist() == expected


IMAGES = st.lists(st.tuples(st.sampled_from(["", *"abcdefg"]), st.booleans()), max_size=60)


@given(IMAGES, FRACTIONS, st.integers(0, 5))
def test_no_patient_is_on_both_sides(images: list[tuple[str, bool]], fraction: float, seed: int) -> None:
    patients = [patient for patient, _ in images]
    positive = np.array([label for _, label in images], dtype=bool)
    split = stratified_split(positive, fraction, seed, patients)
    assert sorted([*split.training, *split.validation]) == list(range(len(images)))
    sides = [{patients[index] for index in part} - {""} for part in split]
    assert not sides[0] & sides[1]
    again = stratified_split(
        positive, fraction, seed, [f"{patient}!" * bool(patient) for patient in patients]
    )
    np.testing.assert_array_equal(split.validation, again.validation)  # what they are called is nothing
    groups = {patient or str(index): set[bool]() for index, patient in enumerate(patients)}
    for index, (patient, label) in enumerate(images):
        groups[patient or str(index)].add(label)
    for label, kind in ((True, [{True}, {True, False}]), (False, [{False}])):
        held_out, learnt = (int((positive[part] == label).sum()) for part in split[::-1])
        if held_out + learnt and fraction == 0:
            assert held_out == 0
        if fraction and sum(group in kind for group in groups.values()) > 1:
            assert held_out
            assert learnt


@given(IMAGES, FRACTIONS, st.integers(0, 5))
def test_the_share_of_positives_is_missed_by_half_a_patient(
    images: list[tuple[str, bool]], fraction: float, seed: int
) -> None:
    patients = [patient for patient, _ in images]
    positive = np.array([label for _, label in images], dtype=bool)
    largest = max(Counter(patient for patient, label in images if label and patient).values(), default=1)
    split = stratified_split(positive, fraction, seed, patients)
    held_out, wanted = (
        int(positive[split.validation].sum()),
        len(without_patients(np.ones(positive.sum(), bool), fraction, 0)),
    )
    left = int(positive.sum()) - held_out
    if held_out > largest and left > largest:  # else one side was in danger of having none
        assert abs(held_out - wanted) <= largest / 2


def test_patients_and_images_must_be_as_many() -> None:
    for patients in (["a", "b"], [*"abcd"], []):
        with pytest.raises(ValueError, match="3 images need as many patients"):
            stratified_split(np.zeros(3, bool), 0.5, 0, patients)
        with pytest.raises(ValueError, match="3 images need as many patients"):
            stratified_folds(np.zeros(3, bool), 2, 0, patients)


def test_a_patient_with_every_image_leaves_nothing_to_hold_out(tmp_path: Path) -> None:
    def stored(name: str, patients: list[str]) -> Store:
        pixels = np.random.default_rng(3).random((6, 5, 4), np.float32)
        positive = np.array([True, True, True, False, False, False])
        masks = np.broadcast_to(positive[:, None, None], pixels.shape).astype(np.uint8)
        rows = ImageMetadata(list("uvwxyz"), np.full((6, 2), 9, np.int32), positive, patients)
        options: dict[str, Any] = {"per_dataset": 4, "storage": "float32", "attributes": {}}
        write(tmp_path / name, rows, (5, 4), iter([(pixels, masks)]), **options)
        return Store.open(tmp_path / name)

    with stored("one.h5", ["anonymous"] * 6) as store, pytest.raises(UserError) as caught:
        split_store(store, 0.4, 1)
    for says in ("one.h5", "--ignore-patients", "training.validation_fraction=0"):
        assert says in str(caught.value)
    with stored("two.h5", ["a", "b", "a", "c", "", "c"]) as store:
        assert store.patients == ("a", "b", "a", "c", "", "c")
        split = split_store(store, 0.4, 1)
        assert split.validation.tolist() == [1, 4]
        assert split_store(store, 0, 1).validation.tolist() == []


@given(IMAGES, st.integers(2, 7), st.integers(0, 5))
def test_folds_hold_each_image_out_once_and_no_patient_in_part(
    images: list[tuple[str, bool]], folds: int, seed: int
) -> None:
    patients = [patient for patient, _ in images]
    positive = np.array([label for _, label in images], dtype=bool)
    fold_of = stratified_folds(positive, folds, seed, patients)
    assert fold_of.dtype == np.int64
    assert len(fold_of) == len(images)
    assert set(fold_of.tolist()) <= set(range(folds))
    for name in set(patients) - {""}:
        assert len({fold for fold, patient in zip(fold_of, patients, strict=True) if patient == name}) == 1
    renamed = [f"{patient}!" * bool(patient) for patient in patients]
    np.testing.assert_array_equal(stratified_folds(positive, folds, seed, renamed), fold_of)

    # As alike as one patient allows.
    def most(which: NDArray[np.bool_]) -> int:
        counted = Counter(name for name, one in zip(patients, which, strict=True) if one and name)
        return max([1, *counted.values()])

    of_positives = np.bincount(fold_of[positive], minlength=folds)
    assert of_positives.max() - of_positives.min() <= most(positive)
    ill = {name or str(index) for index, (name, label) in enumerate(images) if label}
    of_ill = np.array([(name or str(index)) in ill for index, (name, _) in enumerate(images)], dtype=bool)
    before = np.bincount(fold_of[of_ill], minlength=folds)
    if (~of_ill).sum() >= folds * before.max() - before.sum():  # there are enough others to level all
        everything = np.bincount(fold_of, minlength=folds)
        assert everything.max() - everything.min() <= most(~of_ill)


@pytest.mark.parametrize(("count", "folds", "seed"), [(23, 5, 7), (4, 3, 0), (40, 2, 1)])
@pytest.mark.parametrize("label", [False, True])
def test_images_of_one_kind_go_round_the_folds_in_the_seeds_order(
    count: int, folds: int, seed: int, label: bool
) -> None:
    """A fold trained by another version of this toolkit holds the same images out."""
    order = permutation(seed, "folds", str(label), count=count)
    fold_of = stratified_folds(np.full(count, label), folds, seed)
    assert fold_of[order].tolist() == [place % folds for place in range(count)]


@given(st.integers(2, 6), st.integers(6, 90), st.floats(0, 1), st.integers(0, 9))
def test_folds_of_single_images_differ_by_one(folds: int, count: int, share: float, seed: int) -> None:
    positive = np.random.default_rng(seed).random(count) < share
    fold_of = stratified_folds(positive, folds, seed)
    for which in (positive, np.ones(count, bool)):
        sizes = np.bincount(fold_of[which], minlength=folds)
        assert sizes.max() - sizes.min() <= 1


def test_folds_are_drawn_by_the_seed() -> None:
    positive = np.arange(60) % 5 == 0
    first, again, other = (stratified_folds(positive, 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (np.diff(first) < 0).any(), "neighbours in the file are no fold"
    # Who is held out together is drawn anew too, not only the folds' numbers.
    assert len(set(zip(first.tolist(), other.tolist(), strict=True))) > 5


def test_large_families_are_dealt_first() -> None:
    """Positives 4, 3, 3, 2, 2, 2 go to three folds of 16: 4 + 2, 3 + 2, 3 + 2."""
    sizes = [2, 4, 3, 2, 3, 2]
    patients = [name for name, size in zip("abcdef", sizes, strict=True) for _ in range(size)]
    for seed in range(5):
        fold_of = stratified_folds(np.ones(16, bool), 3, seed, patients)
        assert sorted(np.bincount(fold_of).tolist()) == [5, 5, 6]


@pytest.mark.parametrize("folds", [1, 0])
def test_a_single_fold_is_none(folds: int) -> None:
    with pytest.raises(ValueError, match="at least 2 folds"):
        stratified_folds(np.zeros(3, bool), folds, 0)


def test_the_folds_of_a_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).random((9, 5, 4), np.float32)
    positive = np.arange(9) % 3 == 0
    masks = np.broadcast_to(positive[:, None, None], pixels.shape).astype(np.uint8)
    patients = ["a", "b", "a", "c", "", "c", "d", "", "e"]
    rows = ImageMetadata(list("rstuvwxyz"), np.full((9, 2), 9, np.int32), positive, patients)
    options: dict[str, Any] = {"per_dataset": 4, "storage": "float32", "attributes": {}}
    write(tmp_path / "a.h5", rows, (5, 4), iter([(pixels, masks)]), **options)
    with Store.open(tmp_path / "a.h5") as store:
        splits = [fold_of_store(store, 3, fold, 1) for fold in range(3)]
        assert sorted(index for split in splits for index in split.validation.tolist()) == list(range(9))
        for split in splits:
            assert sorted([*split.training, *split.validation]) == list(range(9))
            assert positive[split.validation].sum() == 1
            sides = [{patients[index] for index in part} - {""} for part in split]
            assert not sides[0] & sides[1]
        with pytest.raises(UserError, match=r"a\.h5: 9 images .* training.folds=8.* 7 patients"):
            fold_of_store(store, 8, 0, 1)
