"""Scores against worked examples and the competition's own formula."""

from __future__ import annotations

import numpy as np
import pytest

from core.metrics import dice_per_image, summarise


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
