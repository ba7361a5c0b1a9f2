"""Training, from a configuration and a data file to the folder of a model.

Promises: what is written is what `train` writes with the same configuration, data and seed, bit for bit; an
earlier run's folders are kept aside. Ctrl-C stops after the batch under way with a checkpoint to go on from.
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
    """One network.

    Attributes:
        folder: Its model, for `load_model`.
        logs: Its logs, for TensorBoard.
        history: Its epochs.
    """

    folder: Path
    logs: Path
    history: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        folder: The model, for `load_model`; with folds, the folder of all of them.
        finished: Whether it came to its end; False after Ctrl-C. Go on with `resume=True`.
        runs: The networks: one, or one a fold.
    """

    folder: Path
    finished: bool
    runs: tuple[TrainedRun, ...]

    @property
    def history(self) -> tuple[EpochRecord, ...]:
        """The epochs of all networks, one after another."""
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
    """Train a network, or one for each fold; docs/training.md has what can be set.

    Args:
        configuration: A file, or the name of one of the toolkit's own ("demo", "unet", "siim"); None is
            "fcn", or when going on with a run its own. A mapping is `overrides` of that.
        data: The data file.
        backend: Who trains: "tf", "torch", "jax", "mxnet", "reference", or a third party's.
        out: Where `NAME_model/` and `NAME_logs/` are made.
        overrides: Settings by their path: {"training.epochs": 3, "network.dropout": 0.2}.
        device: "auto", "cpu", "gpu" or "gpu:N".
        resume: Whether to go on from `NAME_model/`; or the folder of a model, of any backend, to go on from.
        on_epoch: Is called with the record of each epoch when it ends.
        say: Is called with each line that the command would show.

    Raises:
        Error: A bad configuration, data that do not fit, a backend that is not installed or only predicts,
            or a training that diverged.
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
    """A setting as `--set` takes it: the value in YAML, on one line."""
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
    """Tells a caller."""

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
