"""Scores of groups: who belongs to which, in which order, and which groups are small."""

from __future__ import annotations

import functools

import pytest

from core.scoring.evaluation_record import ImageRow
from core.scoring.groups import SIZE, age_group, scores_by_group, size_group
from core.scoring.scorer import summary
from core.scoring.thresholds import Thresholds


def row(number: int, truth: int, predicted: int = 0, dice: float = 0.5) -> ImageRow:
    return ImageRow(f"{number}", dice, dice, truth, predicted, 0.5, 100, 200, nsd=dice if truth else None)


@pytest.mark.parametrize(
    ("years", "group"),
    [
        *((-1, ""), (0, "0 to 17"), (17.9, "0 to 17"), (18, "18 to 39"), (39, "18 to 39")),
        *((40, "40 to 59"), (79, "60 to 79"), (80, "80 and more"), (90, "80 and more")),
    ],
)
def test_ages(years: float, group: str) -> None:
    assert age_group(years) == group


@pytest.mark.parametrize(
    ("pixels", "group"),  # of 20,000
    [
        *((0, ""), (1, "below 0.3 %"), (59, "below 0.3 %"), (60, "0.3 to 1 %"), (199, "0.3 to 1 %")),
        *((200, "1 to 3 %"), (599, "1 to 3 %"), (600, "3 % and more"), (20000, "3 % and more")),
    ],
)
def test_sizes(pixels: int, group: str) -> None:
    assert size_group(row(0, pixels)) == group


def test_each_group_has_the_scores_of_its_images() -> None:
    rows = [row(n, 40 * (n % 3 == 0) * (1 + n), 10 * (n % 2), n / 60) for n in range(60)]
    labels = {
        "view": [["PA", "AP", ""][n % 4 % 3] for n in range(60)],
        "age": ["40 to 59" if n % 2 else "0 to 17" for n in range(60)],
        "nothing": [""] * 60,
    }
    found = scores_by_group(rows, labels, functools.partial(summary, thresholds=Thresholds()))
    assert [(group.division, group.name) for group in found] == [
        *(("view", name) for name in ("AP", "PA", "unknown")),
        *(("age", name) for name in ("0 to 17", "40 to 59")),
        *((SIZE, name) for name in ("below 0.3 %", "0.3 to 1 %", "1 to 3 %", "3 % and more")),
    ]
    ap = [one for one, view in zip(rows, labels["view"], strict=True) if view == "AP"]
    assert found[0].scores == summary(ap, Thresholds())
    assert (found[0].scores.images, found[1].scores.images, found[2].scores.images) == (15, 30, 15)
    assert [group.small for group in found[:5]] == [True, False, True, False, False]
    assert sum(group.scores.images for group in found[5:]) == 20
    content = found[0].as_json()
    assert (content["division"], content["name"], content["small"]) == ("view", "AP", True)
    assert content["dice"] == found[0].scores.dice
    assert "thresholds" not in content
