"""Comparison of epochs: one rule for the best checkpoint, early stop, plateaus and averaging.

Every function depends on the history and the settings `training.early_stop` alone, so a resumed run decides
like one that was not interrupted. Lower scores are better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from core.experiment.checkpoint import EpochRecord
from core.experiment.configuration import EarlyStop


class MonitoredScores(Protocol):
    """Anything with the scores that can be monitored, such as an `EpochRecord`."""

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
        """Mean Dice over the positive images; None where there is none."""
        ...

    @property
    def auroc(self) -> float | None:
        """AUROC of the images' highest probabilities; None without positive or negative images."""
        ...


def monitored_score(scores: MonitoredScores, monitor: EarlyStop) -> float:
    """Return the score that `monitor` names; all but the loss are negated, so that lower is better."""
    if monitor.monitor == "validation_loss":
        return scores.validation_loss
    return -(getattr(scores, monitor.monitor) or 0.0)


def improvements(history: Sequence[EpochRecord], monitor: EarlyStop) -> list[bool]:
    """Return for each epoch whether it is a new best.

    The first epoch is one. A later epoch is a new best if it improves on the current best by more than
    `min_delta`.
    """
    found: list[bool] = []
    value = math.inf
    for record in history:
        score = monitored_score(record, monitor)
        found.append(not found or score < value - monitor.min_delta)
        value = score if found[-1] else value
    return found


def best_epoch(history: Sequence[EpochRecord], monitor: EarlyStop) -> int:
    """Return the number of the last epoch that was a new best; 0 before the first epoch."""
    return max((n for n, better in enumerate(improvements(history, monitor), 1) if better), default=0)


def should_stop(history: Sequence[EpochRecord], monitor: EarlyStop) -> bool:
    """Tell whether early stop ends the run after this history."""
    return monitor.enabled and len(history) - best_epoch(history, monitor) >= monitor.patience
