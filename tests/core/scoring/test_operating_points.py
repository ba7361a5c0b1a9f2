"""Operating points against a search over every threshold, image by image."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from test_existence_threshold import with_head
from test_threshold_search import Maps, histograms, maps

from core.base.errors import UserError
from core.scoring.histograms import LEVELS, nearest_level, threshold_at
from core.scoring.metrics import Confusion
from core.scoring.operating_points import OperatingPoint, admissible, greatest_rate
from core.scoring.threshold_search import search_thresholds
from core.scoring.thresholds import Thresholds

FEW_AREAS = (0.0, 2000.0, 12000.0)


def decided(some: Maps, thresholds: Thresholds, head: NDArray[np.float64] | None = None) -> Confusion:
    """Count images by their masks, one at a time."""
    known = [None] * len(some) if head is None else head.tolist()
    masks = [thresholds.decide(p, e)[0] for (p, _), e in zip(some, known, strict=True)]
    predicted = np.array([mask.any() for mask in masks])
    return Confusion.count(predicted, np.array([truth.any() for _, truth in some]))


def dim(count: int, seed: int = 0) -> Maps:
    """Maps of which some positive ones are dim and some negative ones bright, so that rates contradict."""
    some = maps(count, seed, blur=0.1)
    random = np.random.default_rng([seed, 4])
    for number, (probability, truth) in enumerate(some):
        probability[0, :3] = 0.1
        probability *= np.float32(random.uniform(0.3, 1))
        if number % 3 == 2:
            probability[3:9, 4:13] = random.uniform(0.2, 0.7)
        del truth
    return some


@pytest.mark.parametrize("least", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("rate", ["sensitivity", "specificity"])
def test_the_rate_is_reached_and_no_thresholds_give_more_of_the_other(
    rate: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("operating_points", "threshold_search"):
        monkeypatch.setattr(f"core.scoring.{module}.AREAS", FEW_AREAS)
    some = dim(30)
    images = histograms(some)
    point = OperatingPoint(rate, least)  # type: ignore[arg-type]
    found = search_thresholds(images, point)
    assert found is not None
    assert found.confusion == decided(some, found.thresholds)
    other = {"sensitivity": "specificity", "specificity": "sensitivity"}[rate]
    tried = []
    for area, level in itertools.product(FEW_AREAS, range(1, LEVELS)):
        thresholds = Thresholds(threshold_at(level), area, threshold_at(level))
        scores = [thresholds.existence_score(probability) for probability, _ in some]
        predicted = np.array(scores) >= thresholds.score
        counted = Confusion.count(predicted, images.positive)
        tried.append((getattr(counted, rate).share, getattr(counted, other).share))
    best = max(of_other for of_rate, of_other in tried if of_rate >= least - 1e-12)
    assert getattr(found.confusion, rate).share >= least - 1e-12
    assert getattr(found.confusion, other).share == best
    assert found.thresholds.pixel <= found.thresholds.score


def test_the_mask_has_the_best_dice_under_the_point() -> None:
    some = dim(60)
    images = histograms(some)
    found = search_thresholds(images, OperatingPoint("sensitivity", 0.9))
    assert found is not None
    chosen = found.thresholds
    of_pixels = [
        images.dice(dataclasses.replace(chosen, pixel=threshold_at(level))).mean()
        for level in range(1, nearest_level(chosen.score) + 1)
    ]
    assert found.dice >= max(of_pixels) - 0.01
    assert found.dice > min(of_pixels) + 0.02
    assert found.point == OperatingPoint("sensitivity", 0.9)
    free = search_thresholds(images)
    assert free is not None
    assert free.point is None
    assert free.dice >= found.dice


@pytest.mark.parametrize("least", [0.6, 0.9])
@pytest.mark.parametrize("rate", ["sensitivity", "specificity"])
def test_with_the_head_its_probability_decides(rate: str, least: float) -> None:
    some, images, head = with_head(75)
    point = OperatingPoint(rate, least)  # type: ignore[arg-type]
    found = search_thresholds(images, point)
    assert found is not None
    assert found.thresholds.existence is not None
    assert found.confusion == decided(some, found.thresholds, head)
    assert getattr(found.confusion, rate).share >= least - 1e-12
    alone = [Confusion.count(head >= edge, images.positive) for edge in (*head.tolist(), 1.1)]
    other = {"sensitivity": "specificity", "specificity": "sensitivity"}[rate]
    best = max(getattr(one, other).share for one in alone if getattr(one, rate).share >= least - 1e-12)
    assert getattr(found.confusion, other).share >= best
    assert found.thresholds.existence not in head


def test_equal_probabilities_of_the_head_are_decided_alike() -> None:
    """The fifth of 10 positives shares its probability with a negative, and nothing lies between floats."""
    pair = maps(2)
    images = histograms([pair[0]] * 10 + [pair[1]] * 10)
    low, high = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    head = np.array([high] * 5 + [low] * 5 + [high] + [low] * 9, dtype=np.float64)
    images = dataclasses.replace(images, head=head)
    for rate, least in (("sensitivity", 0.5), ("specificity", 0.9)):
        found = admissible(images, OperatingPoint(rate, least))  # type: ignore[arg-type]
        assert found is not None
        assert found.existence == high
    strict = admissible(images, OperatingPoint("specificity", 1))
    assert strict is not None
    assert strict.existence is not None
    assert strict.existence > high


def test_what_cannot_be_reached_is_told() -> None:
    some = [
        (probability * np.float32(0.001 if number % 4 == 3 else 1), truth)
        for number, (probability, truth) in enumerate(dim(48))
    ]
    images = histograms(some)
    assert greatest_rate(images, "sensitivity").share == 0.75
    assert search_thresholds(images, OperatingPoint("sensitivity", 0.75)) is not None
    assert search_thresholds(images, OperatingPoint("sensitivity", 0.76)) is None
    bright = [(np.ones_like(probability), truth) for probability, truth in some]
    assert greatest_rate(histograms(bright), "specificity").share == 0
    assert search_thresholds(histograms(bright), OperatingPoint("specificity", 0.1)) is None
    positives = histograms([pair for pair in some if pair[1].any()])
    assert greatest_rate(positives, "specificity").share is None
    assert search_thresholds(positives, OperatingPoint("specificity", 0.5)) is None
    assert search_thresholds(positives, OperatingPoint("sensitivity", 0.5)) is not None


def test_with_the_head_what_cannot_be_reached_is_told() -> None:
    pair = maps(2)
    images = histograms([pair[0]] * 6 + [pair[1]] * 4)
    head = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 1.0, 0.4, 0.3, 0.2])
    images = dataclasses.replace(images, head=head)
    assert greatest_rate(images, "specificity").share == 0.75
    assert search_thresholds(images, OperatingPoint("specificity", 0.75)) is not None
    assert search_thresholds(images, OperatingPoint("specificity", 0.8)) is None


@pytest.mark.parametrize("least", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_is_between_0_and_1(least: float) -> None:
    with pytest.raises(UserError, match="--specificity must be a share above 0 and at most 1"):
        OperatingPoint("specificity", least)
