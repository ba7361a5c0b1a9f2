"""The three thresholds, against the procedure of the competition's winners and at their limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.base.errors import UserError
from core.scoring.thresholds import THRESHOLDS_FILE, Thresholds, load_thresholds, save_thresholds


def winners(probability: Any, pixel: float, area: int, score: float) -> Any:
    """The first place's procedure: the mask at the high threshold decides, the one at the low is returned."""
    certain = probability >= np.float32(score)
    if certain.sum() < area:
        return np.zeros_like(certain)
    return probability >= np.float32(pixel)


def test_masks_are_the_winners() -> None:
    random = np.random.default_rng(1)
    kinds = set()
    for _ in range(300):
        height, width = random.integers(3, 40, 2)
        probability = (random.random((height, width)) ** random.uniform(1, 9)).astype(np.float32)
        pixel, score = np.sort(random.uniform(0.05, 0.95, 2))
        k = int(random.integers(1, 30))
        thresholds = Thresholds(pixel, (k - 0.5) * 1024**2 / (height * width), score)
        assert thresholds.least_pixels(height, width) == k
        expected = winners(probability, pixel, k, score)
        mask = thresholds.mask(probability)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, expected)
        existence = thresholds.existence_score(probability)
        assert (existence >= thresholds.score) == bool(expected.any())
        assert existence == np.sort(probability, axis=None)[::-1][k - 1]
        kinds.add(bool(expected.any()))
    assert kinds == {True, False}


@pytest.mark.parametrize("value", [0.7, 0.1, 0.3, 1.0])
def test_a_probability_at_the_threshold_counts(value: float) -> None:
    """0.7 as a float32 is less than 0.7: both sides of the comparison are float32."""
    probability = np.zeros((4, 3), np.float32)
    probability[2, 1] = value
    thresholds = Thresholds(value, 0, value)
    assert thresholds.mask(probability).sum() == 1
    assert thresholds.existence_score(probability) >= thresholds.score


def test_areas_are_scaled() -> None:
    thresholds = Thresholds(area=2048)
    assert thresholds.least_pixels(1024, 1024) == 2048
    assert thresholds.least_pixels(512, 512) == 512
    assert thresholds.least_pixels(2048, 1024) == 4096
    assert thresholds.least_pixels(10, 10) == 1
    assert Thresholds(area=1024**2).existence_score(np.full((3, 5), 0.25, np.float32)) == 0.25


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((0.6, 0, 0.5), "pixel 0.6, score 0.5"),
        ((0.0, 0, 0.5), "0 < pixel"),
        ((0.5, 0, 1.5), "score <= 1"),
        ((0.5, -1, 0.5), "area: expected 0 to 1048576 pixels. Received: -1"),
        ((0.5, 1024**2 + 1, 0.5), "area"),
        ((0.5, float("nan"), 0.5), "area"),
        ((float("nan"), 0, 0.5), "pixel"),
        (("0.5", 0, 0.5), "pixel: expected a number. Received: '0.5'"),
        ((0.5, True, 0.5), "area: expected a number"),
    ],
)
def test_impossible_thresholds_are_refused(values: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Thresholds(*values)


def test_thresholds_are_kept_with_the_model(tmp_path: Path) -> None:
    assert load_thresholds(tmp_path) is None
    save_thresholds(tmp_path, Thresholds(0.3, 1500, 0.75), {"dice": 0.8})
    assert load_thresholds(tmp_path) == Thresholds(0.3, 1500, 0.75)
    assert json.loads((tmp_path / THRESHOLDS_FILE).read_text())["dice"] == 0.8


@pytest.mark.parametrize("text", ["", "[1]", '{"pixel": 0.5}', '{"pixel": "a", "area": 0, "score": 1}'])
def test_damaged_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / THRESHOLDS_FILE).write_text(text)
    with pytest.raises(UserError, match=THRESHOLDS_FILE):
        load_thresholds(tmp_path)
