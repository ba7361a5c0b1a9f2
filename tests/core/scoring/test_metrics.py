"""Metrics, against worked examples and the competition's formula."""

from __future__ import annotations

import numpy as np
import pytest

from core.scoring.metrics import Confusion, auroc, dice_of_counts, dice_per_image, iou_of_counts, summarise


def test_dice_of_worked_examples() -> None:
    truth = np.zeros((5, 3, 4, 1), np.uint8)
    found = np.zeros((5, 3, 4, 1), np.uint8)
    truth[0, 0, :3] = found[0, 0, 1:] = 1  # 3 and 3 pixels, 2 in common
    truth[1, 1, 1] = 1  # missed
    found[2, 2, 2] = 1  # invented
    truth[3] = found[3, :1] = 1  # 12 and 4 pixels, 4 in common
    assert dice_per_image(found, truth).tolist() == [2 / 3, 0.0, 0.0, 0.5, 1.0]
    assert dice_per_image(found.astype(bool), truth).tolist() == [2 / 3, 0.0, 0.0, 0.5, 1.0]


def test_dice_is_symmetric_and_knows_where_pixels_are() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((20, 7, 5)) < 0.3, rng.random((20, 7, 5)) < 0.6
    np.testing.assert_array_equal(dice_per_image(a, b), dice_per_image(b, a))
    sets = [({*np.flatnonzero(p)}, {*np.flatnonzero(t)}) for p, t in zip(a, b, strict=True)]
    np.testing.assert_allclose(dice_per_image(a, b), [2 * len(p & t) / (len(p) + len(t)) for p, t in sets])
    assert (
        dice_per_image(np.swapaxes(a, 1, 2), np.swapaxes(b, 1, 2)).tolist() == dice_per_image(a, b).tolist()
    )


def test_the_floor_is_what_an_empty_prediction_scores() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((30, 6, 5)) < np.where(rng.random(30) < 0.3, 0.2, 0.0)[:, None, None]
    positive = truth.any(axis=(1, 2))
    empty = summarise(dice_per_image(np.zeros_like(truth), truth), positive)
    assert empty.dice == pytest.approx(empty.dice_all_empty)
    assert empty.dice_positive == 0.0
    assert (empty.images, empty.positives) == (30, positive.sum())
    perfect = summarise(dice_per_image(truth, truth), positive)
    assert (perfect.dice, perfect.dice_positive) == (1.0, 1.0)
    assert perfect.dice_all_empty == empty.dice_all_empty


def test_without_positives_there_is_no_score_of_positives() -> None:
    scores = summarise(np.array([1.0, 0.0]), np.array([False, False]))
    assert (scores.dice, scores.dice_all_empty, scores.dice_positive) == (0.5, 1.0, None)


def test_intersection_over_union_of_worked_examples() -> None:
    overlap, predicted, truth = (
        np.array([2, 0, 0, 4, 0]),
        np.array([3, 0, 1, 4, 0]),
        np.array([3, 1, 0, 12, 0]),
    )
    assert iou_of_counts(overlap, predicted, truth).tolist() == [0.5, 0.0, 0.0, 4 / 12, 1.0]
    assert dice_of_counts(overlap, predicted, truth).tolist() == [2 / 3, 0.0, 0.0, 0.5, 1.0]


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(4)
    for _ in range(50):
        scores = random.integers(0, 6, 23) / 8  # many are equal
        positive = random.random(23) < 0.3
        pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
        assert auroc(scores, positive) == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_auroc_of_one_kind_is_none() -> None:
    assert auroc(np.array([0.1, 0.7]), np.array([True, True])) is None
    assert auroc(np.array([0.1, 0.7]), np.array([False, False])) is None


def test_confusion() -> None:
    predicted = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    truth = np.array([1, 1, 0, 1, 0, 0, 0], bool)
    confusion = Confusion.count(predicted, truth)
    assert confusion == Confusion(tp=2, fp=1, fn=1, tn=3)
    assert (confusion.sensitivity.share, confusion.specificity.share) == (2 / 3, 0.75)
    assert (confusion.ppv.share, confusion.npv.share) == (2 / 3, 0.75)
    lopsided = Confusion(tp=2, fp=3, fn=5, tn=7)
    assert (lopsided.sensitivity.share, lopsided.specificity.share) == (2 / 7, 7 / 10)
    assert (lopsided.ppv.share, lopsided.npv.share) == (2 / 5, 7 / 12)
    assert (Confusion(3, 0, 0, 4).sensitivity.share, Confusion(3, 0, 0, 4).specificity.share) == (1.0, 1.0)
    assert (Confusion(0, 4, 3, 0).sensitivity.share, Confusion(0, 4, 3, 0).specificity.share) == (0.0, 0.0)
    assert Confusion.count(predicted, np.ones(7, bool)).specificity.share is None
    assert Confusion.count(predicted, np.zeros(7, bool)).sensitivity.share is None
    assert Confusion.count(np.zeros(7, bool), truth).ppv.share is None
    assert Confusion.count(np.ones(7, bool), truth).npv.share is None
