"""Comparison of epochs on histories written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from core.experiment.checkpoint import EpochRecord
from core.experiment.configuration import EarlyStop
from core.training.best_epoch import best_epoch, improvements, monitored_score, should_stop


def history(
    losses: Sequence[float], dice: Sequence[float] | None = None, positive: Sequence[float | None] = ()
) -> list[EpochRecord]:
    return [
        EpochRecord(
            epoch=number,
            loss=0.125,
            validation_loss=loss,
            dice=dice[number - 1] if dice else 0.25,
            dice_all_empty=0.75,
            dice_positive=positive[number - 1] if positive else None,
            learning_rate=0.1,
            images_per_second=1.0,
            scored_on="validation",
            step=number,
        )
        for number, loss in enumerate(losses, start=1)
    ]


def test_lower_is_better_of_every_score() -> None:
    (record,) = history([0.375], [0.5], [0.625])
    assert monitored_score(record, EarlyStop()) == 0.375
    assert monitored_score(record, EarlyStop(monitor="dice")) == -0.5
    assert monitored_score(record, EarlyStop(monitor="dice_positive")) == -0.625
    assert monitored_score(replace(record, auroc=0.875), EarlyStop(monitor="auroc")) == -0.875
    (without,) = history([0.375])
    assert monitored_score(without, EarlyStop(monitor="auroc")) == 0
    assert monitored_score(without, EarlyStop(monitor="dice_positive")) == 0


@pytest.mark.parametrize(
    ("losses", "min_delta", "expected"),
    [
        ((), 0.0, []),
        ((9.0,), 0.0, [1]),
        ((9.0,), 100.0, [1]),
        ((4.0, 3.0, 3.0, 2.0), 0.0, [1, 2, 4]),
        ((4.0, 4.0, 4.0), 0.0, [1]),
        ((4.0, 5.0, 4.5, 3.5), 0.0, [1, 4]),
        # By exactly the difference is not by more; and small steps add up to one that counts.
        ((4.0, 3.5, 3.25, 3.0), 0.5, [1, 3]),
        ((4.0, 3.75, 3.5, 3.25, 3.0), 0.5, [1, 4]),
        ((4.0, 3.0, 2.75, 2.5, 2.25), 0.5, [1, 2, 5]),
    ],
)
def test_an_improvement_beats_the_last_one_by_more_than_the_difference(
    losses: Sequence[float], min_delta: float, expected: list[int]
) -> None:
    stop, records = EarlyStop(min_delta=min_delta), history(losses)
    found = improvements(records, stop)
    assert [number for number, better in enumerate(found, start=1) if better] == expected
    assert best_epoch(records, stop) == max(expected, default=0)


def test_a_dice_that_rises_is_an_improvement() -> None:
    records = history([5, 4, 3, 2], [0.5, 0.25, 0.75, 0.75], [0.125, 0.5, 0.5, 0.25])
    assert improvements(records, EarlyStop(monitor="dice")) == [True, False, True, False]
    assert improvements(records, EarlyStop(monitor="dice_positive")) == [True, True, False, False]
    assert improvements(records, EarlyStop()) == [True] * 4


@pytest.mark.parametrize(
    ("losses", "stale_at"),
    [((5, 4, 3), None), ((5, 6, 7), 3), ((5, 6, 4, 4, 4, 1), 5), ((5, 5, 5), 3), ((5, 6, 4, 6, 3, 6), None)],
)
def test_a_run_is_stale_after_two_epochs_without_improvement(
    losses: Sequence[float], stale_at: int | None
) -> None:
    stop = EarlyStop(patience=2)
    stale = [should_stop(history(losses[:count]), stop) for count in range(len(losses) + 1)]
    assert (stale.index(True) if any(stale) else None) == stale_at
    assert not any(
        should_stop(history(losses[:count]), EarlyStop(patience=2, enabled=False))
        for count in range(len(losses) + 1)
    )
