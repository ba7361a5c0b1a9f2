"""The evaluation record, against loops over images and pixels."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from core.pictures.radiographs import Sample
from core.scoring.evaluation_record import Evaluation, MemberRecord, Origin
from core.scoring.scorer import BINS, CASES, ReliabilitySums, Scorer, tally
from core.scoring.thresholds import Thresholds

ORIGIN = Origin(
    backend="reference",
    framework="NumPy",
    version=None,
    device="cpu",
    members=(MemberRecord("a_model", "best.safetensors", 3, 12, ()),),
    data="data.h5",
    split="validation",
    flip=False,
    thresholds="default",
    height=5,
    width=6,
    images_per_second=1.0,
)


def evaluate(
    count: int, order: NDArray[np.int64], thresholds: Thresholds, also: frozenset[str] = frozenset()
) -> Evaluation:
    """Score random images of 21x17 that are added in a given order; image i depends on i alone."""
    scorer = Scorer(thresholds, also)
    for place in order.tolist():
        random = np.random.default_rng(place)
        truth = (random.random((21, 17)) < 0.3).astype(np.uint8) * (place % 4 == 0)
        probability = (random.random(truth.shape) ** 4 * 0.8 + 0.2 * truth).astype(np.float32)
        probability *= 1 if place % 3 else np.float32(0.3)
        mask, existence = thresholds.mask(probability), thresholds.existence_score(probability)
        for kind in scorer.add(place, tally(f"id-{place}", probability, mask, existence, truth)):
            scorer.keep_pictures(place, kind, Sample(probability, truth, probability, 0.0), mask)
    assert count == len(order)
    return scorer.evaluation(ORIGIN)


def naive_calibration(p: NDArray[np.float64], t: NDArray[np.bool_]) -> tuple[float, float]:
    error = 0.0
    for number in range(BINS):
        inside = (p >= number / BINS) & ((p < (number + 1) / BINS) | (number == BINS - 1))
        if inside.any():
            error += inside.mean() * abs(t[inside].mean() - p[inside].mean())
    return error, float(np.mean((p - t) ** 2))


def test_calibration_is_that_of_a_loop_over_bins() -> None:
    random = np.random.default_rng(1)
    p = np.append(random.random(5000), [0.0, 1.0])
    t = random.random(p.shape) < p**1.5
    both = (
        ReliabilitySums.from_predictions(p[:1234], t[:1234])
        + ReliabilitySums.from_predictions(p[1234:], t[1234:])
    ).calibration()
    assert (both.ece, both.brier) == pytest.approx(naive_calibration(p, t))
    assert both.ece > 0.05
    assert sum(one.count for one in both.bins) == len(p)
    third = both.bins[2]
    inside = (p >= third.lower) & (p < third.upper)
    assert third.predicted == pytest.approx(p[inside].mean())
    assert third.observed == pytest.approx(t[inside].mean())


def test_empty_bins_say_nothing() -> None:
    one = ReliabilitySums.from_predictions(np.array([1.0], np.float32), np.array([1])).calibration()
    assert (one.ece, one.brier, one.bins[-1].predicted, one.bins[0].predicted) == (0, 0, 1, None)


def test_an_evaluation_does_not_depend_on_the_order() -> None:
    thresholds = Thresholds(0.4, 20000, 0.5)
    straight = evaluate(50, np.arange(50), thresholds)
    mixed = evaluate(50, np.random.default_rng(0).permutation(50), thresholds)
    assert mixed.summary == straight.summary
    assert mixed.surfaces == straight.surfaces
    assert mixed.rows == straight.rows
    assert [case.row for case in mixed.cases] == [case.row for case in straight.cases]


def test_the_summary_is_that_of_the_rows() -> None:
    result = evaluate(50, np.arange(50), Thresholds(0.4, 20000, 0.6))
    rows, scores = result.rows, result.summary
    assert [row.id for row in rows] == [f"id-{place}" for place in range(50)]
    assert scores.dice == pytest.approx(np.mean([row.dice for row in rows]))
    positive = [row for row in rows if row.truth_pixels]
    assert scores.dice_positive == pytest.approx(np.mean([row.dice for row in positive]))
    assert scores.iou_positive == pytest.approx(np.mean([row.dice / (2 - row.dice) for row in positive]))
    assert scores.nsd == pytest.approx(np.mean([row.nsd or 0.0 for row in positive]))
    assert {row.nsd is None for row in rows if not row.truth_pixels} == {True}
    assert scores.dice_all_empty == pytest.approx(1 - len(positive) / 50)
    said = [bool(row.predicted_pixels) for row in rows]
    assert said == [row.existence >= np.float32(0.6) for row in rows]
    assert (scores.tp + scores.fp, scores.fn + scores.tn) == (sum(said), 50 - sum(said))
    assert scores.tp == sum(s for s, row in zip(said, rows, strict=True) if row.truth_pixels)
    assert min(scores.tp, scores.fp, scores.fn, scores.tn) > 0
    existence = np.array([row.existence for row in rows])
    truth = np.array([row.truth_pixels > 0 for row in rows])
    expected = naive_calibration(existence, truth)
    assert (result.image_calibration.ece, result.image_calibration.brier) == pytest.approx(expected)


def test_cases_are_the_worst_and_the_best() -> None:
    result = evaluate(80, np.arange(80), Thresholds(0.4, 20000, 0.6))
    found = {kind: [case.row for case in result.cases if case.kind == kind] for kind in CASES}
    positive = sorted((row for row in result.rows if row.truth_pixels), key=lambda row: row.dice)
    assert [row.dice for row in found["worst positive"]] == [row.dice for row in positive[:6]]
    assert [row.dice for row in found["best positive"]] == [row.dice for row in positive[::-1][:4]]
    false = [row for row in result.rows if row.predicted_pixels and not row.truth_pixels]
    surest = sorted(false, key=lambda row: -row.existence)
    assert [row.existence for row in found["false positive"]] == [row.existence for row in surest[:4]]
    kinds = [case.kind for case in result.cases]
    assert kinds == sorted(kinds, key=list(CASES).index)
    for case in result.cases:
        assert int(case.predicted.sum()) == case.row.predicted_pixels


def case_images(*parts: tuple[int, int, float]) -> Evaluation:
    """Score images of 6x20 with numbers of true and predicted pixels (true ones first) and a probability."""
    thresholds = Thresholds(0.25, 0, 0.25)
    scorer = Scorer(thresholds)
    for place, (true, predicted, probability) in enumerate(parts):
        pixels = np.arange(120).reshape(6, 20)
        truth, mask = (pixels < true).astype(np.uint8), (pixels < predicted).astype(np.uint8)
        maps = (mask * probability).astype(np.float32)
        for kind in scorer.add(place, tally(f"id-{place}", maps, mask, float(maps.max()), truth)):
            scorer.keep_pictures(place, kind, Sample(maps, truth, maps, 0.0), mask)
    return scorer.evaluation(ORIGIN)


def test_of_cases_alike_the_one_with_most_to_see_comes_first() -> None:
    """Six missed images, the largest first; then six found whole; false alarms by certainty, then size."""
    missed = [(5, 0, 0.0), (9, 0, 0.0), (2, 0, 0.0), (7, 0, 0.0), (9, 0, 0.0), (3, 0, 0.0), (1, 0, 0.0)]
    found = [(4, 4, 0.5), (8, 8, 0.5), (3, 3, 0.5), (8, 8, 0.5), (6, 6, 0.5)]
    alarms = [(0, 4, 0.5), (0, 9, 0.5), (0, 2, 0.75), (0, 1, 0.5), (0, 9, 0.5)]
    cases = case_images(*missed, *found, *alarms, (0, 0, 0.0)).cases
    shown = {kind: [int(case.row.id[3:]) for case in cases if case.kind == kind] for kind in CASES}
    assert shown["worst positive"] == [1, 4, 3, 0, 5, 2]
    assert shown["best positive"] == [8, 10, 11, 7]
    assert shown["false positive"] == [14, 13, 16, 12]


def test_a_mask_of_one_pixel_is_an_answer() -> None:
    scores = case_images((1, 1, 0.5), (0, 1, 0.5), (1, 0, 0.0), (0, 0, 0.0), (0, 0, 0.0), (0, 0, 0.0)).summary
    assert (scores.tp, scores.fp, scores.fn, scores.tn) == (1, 1, 1, 3)
    assert (scores.sensitivity, scores.specificity) == (0.5, 0.75)
    assert (scores.images, scores.positives, scores.dice_positive) == (6, 2, 0.5)


def test_cases_of_another_model_are_kept_for_comparison() -> None:
    thresholds = Thresholds(0.4, 20000, 0.6)
    own = [case.row.id for case in evaluate(80, np.arange(80), thresholds).cases]
    ordinary = [f"id-{place}" for place in (70, 3, 21) if f"id-{place}" not in own]
    mixed = np.random.default_rng(2).permutation(80)
    cases = evaluate(80, mixed, thresholds, frozenset([*ordinary, own[1], "not here"])).cases
    assert [case.row.id for case in cases[: len(own)]] == own
    assert sorted(case.row.id for case in cases[len(own) :]) == sorted(ordinary)
    assert ordinary
    assert {case.kind for case in cases[len(own) :]} == {"for comparison"}


def test_few_positives_are_shown_once() -> None:
    result = evaluate(9, np.arange(9), Thresholds(0.4, 0, 0.5))
    shown = [case.row.id for case in result.cases if case.row.truth_pixels]
    assert sorted(shown) == ["id-0", "id-4", "id-8"]


def test_the_record_is_plain_and_can_be_sent() -> None:
    result = evaluate(8, np.arange(1, 9), Thresholds())
    content = json.loads(json.dumps(result.as_json(), allow_nan=False))
    wanted = {"dice", "dice_all_empty", "dice_positive", "iou", "auroc", "tp", "fp", "fn", "tn", "thresholds"}
    assert wanted <= content.keys()
    assert content["thresholds"] == {"pixel": 0.5, "area": 0.0, "score": 0.5}
    assert len(content["rows"]) == 8
    assert result.name == "reference: a_model"
    assert pickle.loads(pickle.dumps(result)).summary == result.summary
