"""The learning rate of every update.

The rate depends on the settings, the number of the update, the batches in an epoch and the finished epochs
alone, so a resumed run has the rates of one that was not interrupted.

Let t be the number of the update from 1, n the batches in an epoch, e = (t - 1) // n the finished epochs, E
the epochs of the run, and w = warmup_epochs * n:

    rate = optimizer.learning_rate * shape * min(1, t / w)          (the last factor only where w > 0)

    constant    shape = 1
    step        shape = factor ** (e // every), or factor ** (number of milestones <= e)
    cosine      shape = final + (1 - final) * (1 + cos(pi * (t - 1 - w) / (E * n - w))) / 2 after the
                warm-up, 1 during it        (Loshchilov and Hutter, 2017, without restarts)
    cosine with cycle_epochs    the same with (updates since the cycle began) / (the cycle's updates) after
                pi; the cycles follow the warm-up, and cycle k = 0, 1, ... has n * cycle_epochs *
                cycle_factor ** k updates   (the same paper, with T_0 and T_mult)
    plateau     shape = factor ** (plateaus so far); the rate without the warm-up's factor is at least
                min(min_rate, optimizer.learning_rate)

The warm-up is the gradual one of Goyal et al., 2017, section 2.2. A plateau is `patience` epochs in
which `training.early_stop.monitor` did not improve by more than `min_delta`. The count of epochs restarts
after each plateau, as in Keras's ReduceLROnPlateau; PyTorch's waits one epoch more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.experiment.checkpoint import EpochRecord
from core.experiment.configuration import EarlyStop, Training
from core.experiment.recipe import CosineSchedule, PlateauSchedule, Schedule, StepSchedule
from core.training.best_epoch import improvements


def learning_rate(settings: Training, step: int, batches: int, history: Sequence[EpochRecord] = ()) -> float:
    """Return the learning rate of update number `step`.

    Args:
        settings: The run's settings.
        step: The number of the update; the run's first one is 1.
        batches: Number of batches in an epoch.
        history: The epochs finished before this update; only the plateau schedule uses them.
    """
    schedule, base = settings.schedule, settings.optimizer.learning_rate
    warmup = schedule.warmup_epochs * batches
    if isinstance(schedule, PlateauSchedule):
        reduced = base * schedule.factor ** _plateaus(history, settings.early_stop, schedule.patience)
        rate = max(reduced, min(schedule.min_rate, base))
    else:
        rate = base * _shape(schedule, step, batches, settings.epochs, warmup)
    return rate * min(1.0, step / warmup) if warmup else rate


def _shape(schedule: Schedule, step: int, batches: int, epochs: int, warmup: float) -> float:
    finished = (step - 1) // batches
    if isinstance(schedule, StepSchedule):
        passed = sum(milestone <= finished for milestone in schedule.milestones)
        return schedule.factor ** (passed if schedule.every is None else finished // schedule.every)
    if isinstance(schedule, CosineSchedule):
        done = _done(schedule, max(step - 1 - warmup, 0.0), batches, epochs * batches - warmup)
        return schedule.final + (1.0 - schedule.final) * (1.0 + math.cos(math.pi * done)) / 2.0
    return 1.0


def _done(schedule: CosineSchedule, updates: float, batches: int, left: float) -> float:
    """Return how much of its half cosine is done after some updates since the warm-up, from 0 to 1.

    Args:
        schedule: The settings.
        updates: The updates since the warm-up.
        batches: Number of batches in an epoch.
        left: All updates of the run after the warm-up.
    """
    if schedule.cycle_epochs is None:
        return min(updates / left, 1.0) if left > 0 else 0.0
    cycle = schedule.cycle_epochs * batches
    if schedule.cycle_factor == 1:
        return updates % cycle / cycle
    while updates >= cycle:
        updates -= cycle
        cycle *= schedule.cycle_factor
    return updates / cycle


def _plateaus(history: Sequence[EpochRecord], monitor: EarlyStop, patience: int) -> int:
    plateaus = waited = 0
    for better in improvements(history, monitor):
        waited = 0 if better else waited + 1
        if waited == patience:
            plateaus, waited = plateaus + 1, 0
    return plateaus
