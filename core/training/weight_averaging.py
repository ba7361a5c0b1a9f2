"""The average of the best epochs' weights (stochastic weight averaging, SWA: Izmailov et al., 2018).

During a run the weights of its `training.average_best` best epochs are kept as files in `averaging/` in the
model's folder. At most one of them is in memory at a time. The monitored score (`core.training.best_epoch`)
decides which epochs are kept, so a run that was killed and resumed keeps the same ones. At the end of the
run weights and running statistics are averaged in float64, in the order of the epochs. Then the folder is
removed.

The mean of the running statistics differs from the statistics that the averaged weights produce. So a second
candidate has recomputed statistics. Each batch of one more epoch is used for one update at learning rate 0
that starts with statistics of 0. Afterwards these are (1 - momentum) times the batch's own statistics. Their
mean over all images is used (`bn_update` of SWA, section 3.2, here by the backend's `train_step`). The better
of the two candidates is the average. It is used if it scores better than the best epoch.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from core.backend.contract import Array, State
from core.backend.state import LOSS_SCALE
from core.backend.trained_part import TrainedPart
from core.backend.training_rules import LEAST_LOSS_SCALE
from core.experiment.checkpoint import Checkpoint, EpochRecord, load_checkpoint, save_checkpoint
from core.experiment.configuration import EarlyStop
from core.files.system_errors import explain_os_errors
from core.network.plan import Plan
from core.training.best_epoch import monitored_score

AVERAGING_FOLDER = "averaging"


class StateHolder(Protocol):
    """A model, or the models of a team."""

    def state(self) -> State:
        """Return copies of all arrays."""
        ...

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Replace all arrays."""
        ...


@dataclass(frozen=True)
class WeightAverage:
    """The average of some epochs, and its score.

    Args:
        epochs: The averaged epochs.
        monitor: Name of the score.
        score: The average's score; a Dice is negated, so that lower is better.
        to_beat: The best score without the average.
        recomputed_statistics: Whether the running statistics were recomputed rather than averaged.
        state: The model's arrays, with moments of 0 (and the least loss scale).
    """

    epochs: tuple[int, ...]
    monitor: str
    score: float
    to_beat: float
    recomputed_statistics: bool
    state: State

    @property
    def is_better(self) -> bool:
        """Whether the average scores better than the best model without it."""
        return self.score < self.to_beat


@dataclass(frozen=True)
class KeptEpochs:
    """The files with the weights of the best epochs.

    Args:
        folder: The model's folder.
        count: Number of epochs to keep; below 2 none is kept.
        monitor: The settings that tell which epochs are better.
    """

    folder: Path
    count: int
    monitor: EarlyStop

    def keep(self, checkpoint: Checkpoint, plan: Plan) -> None:
        """Write the weights of the epoch that a checkpoint has just finished, if it is among the best.

        The epoch that it replaces stays until `tidy`, because a run may be killed before it writes its
        newest checkpoint.
        """
        newest = checkpoint.progress.history[-1].epoch
        if newest in self._best(checkpoint.progress.history, {*self._present(), newest}):
            arrays = {array.name: checkpoint.arrays[array.name] for array in plan.arrays}
            save_checkpoint(self._path(newest), replace(checkpoint, arrays=arrays))

    def tidy(self, history: Sequence[EpochRecord]) -> None:
        """Remove the files of epochs that are not among the best of a history."""
        present = self._present()
        for epoch in present - set(self._best(history, present)):
            with explain_os_errors(self._path(epoch), "remove"):
                self._path(epoch).unlink()

    def epochs(self, history: Sequence[EpochRecord]) -> tuple[int, ...]:
        """Return the numbers of the best epochs that are kept, in ascending order."""
        return tuple(sorted(self._best(history, self._present())))

    def mean(self, epochs: Sequence[int]) -> State:
        """Return the mean of some epochs' weights and statistics, in their own type."""
        first = load_checkpoint(self._path(epochs[0])).arrays
        total = {name: array.astype(np.float64) for name, array in first.items()}
        for epoch in epochs[1:]:
            for name, array in load_checkpoint(self._path(epoch)).arrays.items():
                total[name] += array
        return {name: (total[name] / len(epochs)).astype(array.dtype) for name, array in first.items()}

    def clear(self) -> None:
        """Remove all files at once, so that a killed run cannot average a part of them later."""
        folder = self.folder / AVERAGING_FOLDER
        old = folder.with_name(f".{AVERAGING_FOLDER}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            with explain_os_errors(folder, "remove"):
                folder.replace(old)
            shutil.rmtree(old, ignore_errors=True)

    def _best(self, history: Sequence[EpochRecord], among: Iterable[int]) -> list[int]:
        """Return the best of some epochs by their scores in a history; of equal scores the earlier epochs."""
        if self.count < 2:
            return []
        scores = {record.epoch: monitored_score(record, self.monitor) for record in history}
        return sorted(scores.keys() & set(among), key=lambda epoch: (scores[epoch], epoch))[: self.count]

    def _path(self, epoch: int) -> Path:
        return self.folder / AVERAGING_FOLDER / f"epoch-{epoch:07d}.safetensors"

    def _present(self) -> set[int]:
        names = (path.name for path in (self.folder / AVERAGING_FOLDER).glob("epoch-*.safetensors"))
        return {int(found[1]) for name in names if (found := re.fullmatch(r"epoch-(\d+)\.safetensors", name))}


def average_kept_epochs(
    kept: KeptEpochs,
    history: Sequence[EpochRecord],
    model: StateHolder,
    trained: TrainedPart,
    to_beat: float,
    updates: Callable[[], Iterable[Callable[[], int]]],
    score: Callable[[], float],
) -> WeightAverage:
    """Return the better of the two averages of the kept epochs.

    Args:
        kept: The files, of one epoch at least.
        history: The run's finished epochs.
        model: The model that is scored; its state afterwards is unspecified.
        trained: What the run has trained of the plan.
        to_beat: The best score without the average.
        updates: Returns an epoch's updates. Calling an update runs it; it leaves the weights unchanged and
            returns its number of images.
        score: Scores the model's current state; lower is better.
    """
    epochs = kept.epochs(history)
    mean = kept.mean(epochs)
    state = {name: mean.get(name, np.zeros_like(array)) for name, array in model.state().items()}
    if LOSS_SCALE in state:  # the least: an update whose gradients overflow would leave statistics of 0
        state[LOSS_SCALE][...] = LEAST_LOSS_SCALE
    candidates = [(state, False)]
    if trained.batch_norms:
        candidates.append((recompute_statistics(model, trained, state, updates()), True))
    found = []
    for candidate, recomputed_statistics in candidates:
        model.load_state(candidate)
        found.append(
            WeightAverage(epochs, kept.monitor.monitor, score(), to_beat, recomputed_statistics, candidate)
        )
    return min(found, key=lambda average: math.inf if math.isnan(average.score) else average.score)


def recompute_statistics(
    model: StateHolder, trained: TrainedPart, state: State, updates: Iterable[Callable[[], int]]
) -> State:
    """Return the state with the mean of the batches' own statistics, weighted by their number of images.

    Those of frozen blocks stay.
    """
    shares = {
        name: 1.0 - norm.momentum
        for norm in trained.batch_norms
        for name in (norm.moving_mean, norm.moving_variance)
    }
    blank = {name: np.zeros_like(state[name]) for name in shares}
    total = {name: np.zeros(state[name].shape, np.float64) for name in shares}
    images = 0
    for update in updates:
        model.load_state({**state, **blank})
        count = update()
        moved = model.state()
        images += count
        for name, share in shares.items():
            total[name] += moved[name].astype(np.float64) * (count / share)
    return {**state, **{name: (total[name] / images).astype(state[name].dtype) for name in shares}}
