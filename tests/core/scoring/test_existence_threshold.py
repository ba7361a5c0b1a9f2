"""The existence threshold: what it decides, its file, and its search."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_threshold_search import Maps, cross_fitted, histograms, maps

from core.base.errors import UserError
from core.scoring.histograms import Histograms, threshold_at
from core.scoring.metrics import auroc, dice_per_image
from core.scoring.scorer import Scorer, summary, tally
from core.scoring.threshold_search import EXISTENCE_STEPS, search_thresholds, surfaces
from core.scoring.thresholds import (
    THRESHOLDS_FILE,
    SavedThresholds,
    Thresholds,
    default_thresholds,
    load_saved_thresholds,
    load_thresholds,
    save_thresholds,
)
from core.scoring.views import Views

BRIGHT = np.array([[0.9, 0.2], [0.8, 0.1]], np.float32)


def test_an_image_below_it_is_negative_whatever_its_pixels_say() -> None:
    thresholds = Thresholds(0.3, 0, 0.5, 0.7)
    expected = (BRIGHT >= 0.3).astype(np.uint8)
    at = float(np.float32(0.7))
    for existence, mask in (
        (at, expected),
        (np.nextafter(np.float32(0.7), 0), 0 * expected),
        (None, expected),
    ):
        found, score = thresholds.decide(BRIGHT, existence)
        np.testing.assert_array_equal(found, mask)
        assert score == np.float32(0.9)
    assert not thresholds.decide(0 * BRIGHT, 1.0)[0].any()
    assert Thresholds(0.3, 0, 0.5).decide(BRIGHT, 0.0)[0].any()
    assert Thresholds(0.3, 0, 0.5, 0.0).decide(BRIGHT, 0.0)[0].any()


def test_without_the_head_nothing_of_it_is_shown_or_written(tmp_path: Path) -> None:
    assert str(Thresholds(0.25, 3, 0.5)) == "pixel 0.25, area 3, score 0.5"
    assert str(Thresholds(0.25, 3, 0.5, 0.125)) == "pixel 0.25, area 3, score 0.5, existence 0.125"
    save_thresholds(tmp_path, Thresholds(0.25, 3, 0.5))
    assert json.loads((tmp_path / THRESHOLDS_FILE).read_text()) == {"pixel": 0.25, "area": 3.0, "score": 0.5}
    assert load_thresholds(tmp_path) == Thresholds(0.25, 3, 0.5)
    assert (default_thresholds(head=False), default_thresholds(head=True).existence) == (Thresholds(), 0.5)


def test_the_file_has_it(tmp_path: Path) -> None:
    save_thresholds(tmp_path, Thresholds(0.25, 3, 0.5, 0.75), {"flip": True})
    assert load_saved_thresholds(tmp_path) == SavedThresholds(
        Thresholds(0.25, 3, 0.5, 0.75), Views(flip=True)
    )


@pytest.mark.parametrize("value", ["high", True, -0.1, 1.5, float("nan")])
def test_what_cannot_be_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="threshold existence: expected"):
        Thresholds(existence=value)  # type: ignore[arg-type]
    content = {"pixel": 0.5, "area": 0, "score": 0.5, "existence": value}
    (tmp_path / THRESHOLDS_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match="threshold existence"):
        load_thresholds(tmp_path)


def with_head(count: int, seed: int = 0) -> tuple[Maps, Histograms, NDArray[np.float64]]:
    """Maps in which some negative images are bright, and a head that knows most of them."""
    some = maps(count, seed, blur=0.2)
    random = np.random.default_rng([seed, 9])
    for number, (probability, truth) in enumerate(some):
        if number % 3 == 1:
            probability[2:14, 3:12] = np.clip(0.6 + random.normal(0, 0.2, (12, 9)), 0, 1)
        del truth
    images = histograms(some)
    drawn = np.clip(0.35 + 0.4 * images.positive + random.normal(0, 0.1, count), 0, 1)
    head = drawn.astype(np.float32).astype(np.float64)
    return some, dataclasses.replace(images, head=head), head


def brute_force(of: Maps, head: NDArray[np.float64], thresholds: Thresholds) -> list[float]:
    return [
        dice_per_image(thresholds.decide(probability, existence)[0][None], truth[None])[0]
        for (probability, truth), existence in zip(of, head.tolist(), strict=True)
    ]


def test_dice_from_histograms_is_that_of_the_masks() -> None:
    some, images, head = with_head(40)
    for existence in (0.0, 0.25, 0.5, float(head[7]), 1.0):
        thresholds = Thresholds(threshold_at(52), 700, 0.5, existence)
        expected = brute_force(some, head, thresholds)
        np.testing.assert_allclose(images.dice(thresholds), expected, rtol=0, atol=1e-12)
        sums = images.at(thresholds.existence).dice_sums(700)
        assert sums[64, 52] == pytest.approx(sum(expected))
        over_pixel, _ = surfaces(images, thresholds)
        shown = over_pixel.dice[over_pixel.rows.index(0.5)][over_pixel.columns.index(threshold_at(52))]
        assert shown == pytest.approx(np.mean(expected))


def test_the_search_finds_what_the_head_knows() -> None:
    some, images, head = with_head(90)
    found, alone = search_thresholds(images), search_thresholds(dataclasses.replace(images, head=None))
    assert found is not None
    assert alone is not None
    assert alone.thresholds.existence is None
    assert found.thresholds.existence is not None
    assert 0.4 <= found.thresholds.existence <= 0.65
    assert found.thresholds.existence * EXISTENCE_STEPS % 1 == 0
    assert found.dice > alone.dice + 0.02
    assert found.dice == pytest.approx(np.mean(brute_force(some, head, found.thresholds)))
    default = brute_force(some, head, Thresholds(existence=0.5))
    assert found.dice_default == pytest.approx(np.mean(default))


def test_cross_fitting_searches_the_existence_threshold_too() -> None:
    _, images, _ = with_head(41, seed=5)
    found = search_thresholds(images)
    assert found is not None
    assert found.dice_cross_fitted == pytest.approx(cross_fitted(images))


def test_a_head_that_knows_nothing_is_not_used() -> None:
    some = maps(60, blur=0.2)
    images = dataclasses.replace(histograms(some), head=np.full(60, 0.25))
    found, alone = search_thresholds(images), search_thresholds(histograms(some))
    assert found is not None
    assert alone is not None
    assert found.thresholds.existence is not None
    assert found.thresholds.existence <= 0.25
    assert dataclasses.replace(found.thresholds, existence=None) == alone.thresholds
    assert found.dice == alone.dice


def test_the_scorer_ranks_images_by_the_head_too() -> None:
    some, _, head = with_head(30)
    thresholds = Thresholds(0.4, 0, 0.5, 0.5)
    scorer = Scorer(thresholds)
    for place, ((probability, truth), existence) in enumerate(zip(some, head.tolist(), strict=True)):
        mask, score = thresholds.decide(probability, existence)
        scorer.add(place, tally(f"{place}", probability, mask, score, truth, existence))
    np.testing.assert_array_equal(scorer.histograms().head, head)
    rows = tuple(one.row for one in scorer._in_order())
    positive = np.array([bool(truth.any()) for _, truth in some])
    assert summary(rows, thresholds).auroc_head == auroc(head, positive)
    assert summary(rows, thresholds).auroc != auroc(head, positive)
    without = tuple(dataclasses.replace(row, existence_probability=None) for row in rows)
    assert summary(without, thresholds).auroc_head is None
