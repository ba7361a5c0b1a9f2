"""Which epoch was better: one rule for the best checkpoint, early stop, plateaus and averaging.

Promises: everything here is a function of the history and the settings `training.early_stop`, so that a
run that was resumed decides as one that was not. Scores are told so that lower is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from core.experiment.checkpoint import EpochRecord
from core.experiment.configuration import EarlyStop


class MonitoredScores(Protocol):
    """What has the scores that can be monitored; an `EpochRecord` does."""

    @property
    def validation_loss(self) -> float:
        """The loss on the scored images."""
        ...

    @property
    def dice(self) -> float:
        """Mean Dice over the scored images."""
        ...

    @property
    def dice_positive(self) -> float | None:
        """Mean Dice over the positive ones; None where there is none."""
        ...


def monitored_score(scores: MonitoredScores, monitor: EarlyStop) -> float:
    """The score that `monitor` names; lower is better, so that of a Dice is negative."""
    if monitor.monitor == "validation_loss":
        return scores.validation_loss
    return -(getattr(scores, monitor.monitor) or 0.0)


def improvements(history: Sequence[EpochRecord], monitor: EarlyStop) -> list[bool]:
    """For each epoch, whether it beat by more than `min_delta` the last one that did so."""
    found: list[bool] = []
    value = math.inf
    for record in history:
        score = monitored_score(record, monitor)
        found.append(not found or score < value - monitor.min_delta)
        value = score if found[-1] else value
    return found


def best_epoch(history: Sequence[EpochRecord], monitor: EarlyStop) -> int:
    """The last epoch that was an improvement; 0 before the first."""
    return max((n for n, better in enumerate(improvements(history, monitor), 1) if better), default=0)


def should_stop(history: Sequence[EpochRecord], monitor: EarlyStop) -> bool:
    """Whether early stop ends the run here."""
    return monitor.enabled and len(history) - best_epoch(history, monitor) >= monitor.patience
