"""Train a network from a configuration and a data file.

The files equal those of the command `train` with the same configuration, data and seed, bit for bit. The
folders of an earlier run are renamed, not replaced. Ctrl-C stops after the current batch and saves a
checkpoint from which training can continue.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from core.backend.registry import require_training
from core.base.errors import UserError
from core.experiment.checkpoint import LAST, EpochRecord, load_checkpoint
from core.experiment.configuration import Training
from core.pictures.radiographs import Sample
from core.tasks import training
from core.tasks.progress import Watcher
from core.tasks.training_runs import TrainingRun, plan_runs
from core.training.observers import Observer
from pneumoseg.radiographs import PathLike


@dataclass(frozen=True)
class TrainedRun:
    """The training of one network.

    Attributes:
        folder: The folder of the model, for `load_model`.
        logs: The folder of the logs, for TensorBoard.
        history: The records of the epochs.
    """

    folder: Path
    logs: Path
    history: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class Trained:
    """The result of `train`.

    Attributes:
        folder: The folder of the model, for `load_model`; with folds, the folder of all of them.
        finished: Whether the training is complete; False after Ctrl-C. Continue with `resume=True`.
        runs: The networks: one, or one per fold.
    """

    folder: Path
    finished: bool
    runs: tuple[TrainedRun, ...]

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """The records of the epochs of all networks, one network after another."""
        return tuple(record for run in self.runs for record in run.history)


def train(
    configuration: PathLike | Mapping[str, object] | None = None,
    data: PathLike = "pneumothorax.h5",
    *,
    backend: str,
    out: PathLike = ".",
    overrides: Mapping[str, object] | None = None,
    device: str = "auto",
    resume: bool | PathLike = False,
    on_epoch: Callable[[EpochRecord], object] | None = None,
    say: Callable[[str], object] | None = None,
) -> Trained:
    """Train a network, or one for each fold. docs/training.md explains the settings.

    Args:
        configuration: A file, or the name of a configuration of the toolkit ("demo", "unet", "siim"). None is
            "fcn", or, with `resume`, the configuration of the resumed run. A mapping is taken as `overrides`
            of that.
        data: The data file.
        backend: The backend that trains: "tf", "torch", "jax", "mxnet", "reference", or another package's.
        out: The folder for `NAME_model/` and `NAME_logs/`.
        overrides: Settings by their path: {"training.epochs": 3, "network.dropout": 0.2}.
        device: "auto", "cpu", "gpu" or "gpu:N".
        resume: Whether to continue `NAME_model/`; or the folder of a model, of any backend, to continue from.
        on_epoch: Is called with the record of each epoch when it ends.
        say: Is called with each line that the command would print.

    Raises:
        Error: The configuration is invalid, the data do not fit it, the backend is not installed or cannot
            train, or the training diverged.
    """
    require_training(backend)
    changes = dict(overrides or {})
    if isinstance(configuration, Mapping):
        changes = {**configuration, **changes}
        configuration = None
    planned = plan_runs(
        backend,
        Path(out),
        None if configuration is None else Path(configuration),
        [_as_text(key, value) for key, value in changes.items()],
        ("" if resume else None) if isinstance(resume, bool) else str(Path(resume)),
    )
    watcher = _Watcher(on_epoch or _ignore, say or _ignore)
    interruption = training.train(watcher, planned, backend, str(Path(data)), device)
    return Trained(planned.folder, interruption is None, tuple(map(_trained, planned.runs)))


def _trained(run: TrainingRun) -> TrainedRun:
    last = run.folder / LAST
    history = load_checkpoint(last).progress.history if last.is_file() else ()
    return TrainedRun(run.folder, run.logs, history)


def _as_text(key: str, value: object) -> str:
    """Return a setting as `--set` takes it: KEY=VALUE with the value in YAML, on one line."""
    plain = value.item() if isinstance(value, np.generic) else value
    try:
        text = yaml.safe_dump(plain, default_flow_style=True, width=1 << 30, allow_unicode=True)
    except yaml.YAMLError as error:
        raise UserError(
            f"{key}: expected a number, a text, a list or a mapping of them. Received: {value!r}"
        ) from error
    return f"{key}={text.removesuffix('...' + chr(10)).strip()}"


def _ignore(_: object) -> None:
    pass


class _Watcher(Watcher):
    """A `Watcher` that calls the caller's functions."""

    def __init__(self, on_epoch: Callable[[EpochRecord], object], say: Callable[[str], object]) -> None:
        self._on_epoch, self._say = on_epoch, say

    def say(self, text: str) -> None:
        self._say(text)

    @contextlib.contextmanager
    def epochs(self, settings: Training) -> Iterator[Observer]:
        del settings
        yield _Epochs(self._on_epoch)


class _Epochs(Observer):
    def __init__(self, on_epoch: Callable[[EpochRecord], object]) -> None:
        self._on_epoch = on_epoch

    def epoch_ended(self, record: EpochRecord, best: bool, samples: Sequence[Sample]) -> None:
        del best, samples
        self._on_epoch(record)
