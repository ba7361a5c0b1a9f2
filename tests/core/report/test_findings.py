"""Comparisons, intervals and the ROC curve against direct computations and published values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from core.report import findings
from core.scoring.evaluation_record import Evaluation


def test_the_area_under_the_roc_curve_is_the_auroc(first: Evaluation) -> None:
    tied = tuple(dataclasses.replace(row, existence=round(row.existence, 1)) for row in first.rows)
    pairs = [
        (p.existence > n.existence) + 0.5 * (p.existence == n.existence)
        for p in tied
        for n in tied
        if p.truth_pixels and not n.truth_pixels
    ]
    false, true = findings.roc_curve(tied)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    area = sum(np.diff(false) * (true[1:] + true[:-1]) / 2)
    assert area == pytest.approx(np.mean(pairs))
    assert 0.5 < area < 1


def test_better_than_nothing_is_said_when_it_can_be(first: Evaluation) -> None:
    gain = [row.dice - (row.truth_pixels == 0) for row in first.rows]
    found = findings.above_baseline(first.rows)
    assert found.mean == pytest.approx(first.summary.dice - first.summary.dice_all_empty)
    deviation = np.sqrt(sum((g - found.mean) ** 2 for g in gain) / (len(gain) - 1))
    assert found.margin == pytest.approx(1.959964 * deviation / np.sqrt(len(gain)))
    assert [findings.Difference(mean, 0.1).direction for mean in (0.2, 0.05, -0.05, -0.2)] == [1, 0, 0, -1]


def test_a_comparison_counts_images(first: Evaluation, second: Evaluation) -> None:
    found = findings.compare(first, second)
    assert found is not None
    assert found.dice.mean == pytest.approx(second.summary.dice - first.summary.dice)
    pairs = list(zip(first.rows, second.rows, strict=True))
    assert found.changed == sum(abs(a.dice - b.dice) > 1e-3 for a, b in pairs) > 0
    assert found.decided_otherwise == sum(
        bool(a.predicted_pixels) != bool(b.predicted_pixels) for a, b in pairs
    )
    assert found.decided_otherwise > 0
