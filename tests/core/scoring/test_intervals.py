"""Confidence intervals against published examples, brute force, and their own promise of 95 %."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from core.base.randomness import words
from core.scoring.intervals import (
    RESAMPLES,
    Interval,
    Proportion,
    auroc_interval,
    mean_interval,
    resampled_sums,
)
from core.scoring.metrics import auroc


@pytest.mark.parametrize(
    ("successes", "count", "expected"),  # Newcombe, Statistics in Medicine 17, 1998, table I, method 3
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (20, 20, (0.8389, 1.0)),  # the mirror image of 0 of 20
    ],
)
def test_intervals_of_shares_are_those_of_the_literature(
    successes: int, count: int, expected: tuple[float, float]
) -> None:
    found = Proportion(successes, count)
    assert found.interval == pytest.approx(expected, abs=5e-5)
    assert found.as_json() == {
        "value": successes / count,
        "interval": list(found.interval or ()),
        "images": count,
    }


def test_without_images_there_is_no_share() -> None:
    assert (Proportion(0, 0).share, Proportion(0, 0).interval) == (None, None)


def test_a_resample_draws_n_images_with_replacement() -> None:
    count = 7
    drawn = resampled_sums(np.eye(count))
    assert drawn.shape == (RESAMPLES, count)
    assert (drawn.sum(axis=1) == count).all()
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(drawn.var(axis=0), 1 - 1 / count, atol=0.1)  # binomial(7, 1/7)
    first = words(0, "bootstrap", count, count=4)  # 4 words have the first 7 draws
    halves = [half for word in first.tolist() for half in (word >> 32, word & 0xFFFFFFFF)]
    chosen = [half * count >> 32 for half in halves[:count]]
    assert drawn[0].tolist() == [chosen.count(place) for place in range(count)]


def test_resamples_do_not_depend_on_how_they_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((13, 2))
    whole = resampled_sums(values)
    monkeypatch.setattr("core.scoring.intervals._BLOCK", 13 * 6)
    np.testing.assert_array_equal(resampled_sums(values), whole)
    assert (resampled_sums(values, seed=1) != whole).any()


def test_the_interval_of_a_mean_is_that_of_its_resamples() -> None:
    """As many standard errors wide as the normal approximation says, and shifted towards the longer tail."""
    random = np.random.default_rng(1)
    values = random.exponential(size=400)
    found = mean_interval(values)
    assert found is not None
    error = values.std() / math.sqrt(400)
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert found.upper - values.mean() > values.mean() - found.lower
    chosen = np.arange(400) % 5 == 0
    some, alone = mean_interval(values, chosen), mean_interval(values[chosen])
    assert some is not None
    assert alone is not None
    assert some == pytest.approx(alone, abs=0.03)
    assert some != alone
    assert mean_interval(values, np.arange(400) == 3) is None
    assert mean_interval(np.array([0.25, 0.25, 0.25])) is None, "its resamples do not vary"


def delong_by_pairs(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return AUROC and its variance after DeLong, pair by pair."""
    ill, healthy = scores[positive], scores[~positive]
    wins = np.array([[(a > b) + 0.5 * (a == b) for b in healthy] for a in ill])
    of_ill, of_healthy = wins.mean(axis=1), wins.mean(axis=0)
    variance = of_ill.var(ddof=1) / len(ill) + of_healthy.var(ddof=1) / len(healthy)
    return float(wins.mean()), float(variance)


def test_the_interval_of_auroc_is_delongs() -> None:
    random = np.random.default_rng(2)
    positive = random.random(90) < 0.3
    scores = np.round(random.normal(1.2 * positive), 1)  # with ties
    area, variance = delong_by_pairs(scores, positive)
    assert area == pytest.approx(auroc(scores, positive))
    found = auroc_interval(scores, positive)
    assert found is not None
    logits = [math.log(end / (1 - end)) for end in found]
    middle = math.log(area / (1 - area))
    assert np.mean(logits) == pytest.approx(middle)
    reach = 1.959964 * math.sqrt(variance) / (area * (1 - area))
    assert logits[1] - middle == pytest.approx(reach, rel=1e-5)
    mirrored = auroc_interval(-scores, positive)
    assert mirrored is not None
    assert mirrored == pytest.approx((1 - found.upper, 1 - found.lower))


def test_without_variance_there_is_no_interval_of_auroc() -> None:
    positive = np.array([True, True, False, False, False])
    assert auroc_interval(np.array([5.0, 4, 3, 2, 1]), positive) is None
    assert auroc_interval(np.array([1.0, 2, 3, 4, 5]), positive) is None
    assert auroc_interval(np.array([5.0, 2, 3, 1, 1]), positive[[0, 2, 3, 4, 2]]) is None
    assert auroc_interval(np.array([5.0, 2, 3, 1, 1]), positive) is not None


def coverage(intervals: list[Interval | None], truth: float) -> float:
    return float(np.mean([found is not None and found.lower <= truth <= found.upper for found in intervals]))


def test_intervals_hold_as_often_as_they_say() -> None:
    """200 samples of 120 images, a quarter of them positive, whose true values are known."""
    random = np.random.default_rng(3)
    samples = []
    for _ in range(200):
        positive = random.random(120) < 0.25
        dice = np.where(positive, random.beta(1.2, 1.0, 120), random.random(120) < 0.9)
        samples.append((dice, positive, random.normal(1.5 * positive)))
    means = [mean_interval(dice) for dice, _, _ in samples]
    on_positives = [mean_interval(dice, positive) for dice, positive, _ in samples]
    areas = [auroc_interval(scores, positive) for _, positive, scores in samples]
    true_auroc = 0.5 * (1 + math.erf(1.5 / 2))
    for found, truth in (
        (means, 0.25 * 1.2 / 2.2 + 0.75 * 0.9),
        (on_positives, 1.2 / 2.2),
        (areas, true_auroc),
    ):
        assert 0.92 <= coverage(found, truth) <= 0.98


def test_wilson_holds_for_every_share() -> None:
    """The mean of the exact coverage over shares from 0.05 to 0.95, 40 images (Newcombe: 0.952)."""
    count, shares = 40, np.linspace(0.05, 0.95, 91)
    held = np.zeros(len(shares))
    for (place, share), successes in itertools.product(enumerate(shares), range(count + 1)):
        interval = Proportion(successes, count).interval
        assert interval is not None
        if interval.lower <= share <= interval.upper:
            held[place] += math.comb(count, successes) * share**successes * (1 - share) ** (count - successes)
    assert held.mean() == pytest.approx(0.952, abs=0.005)
