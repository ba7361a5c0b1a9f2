"""Plan of the runs to train: one, or one for each fold, with their folders and starting points.

Planning changes nothing on disk. `prepare` then renames the folders of an earlier run and copies the files of
a run that is resumed from elsewhere. A process that has `claimed` the folders locks them: no other process
trains, tunes or exports there until it ends. Several processes may train a single fold each. Such a process
locks the folders of all folds only while it starts, then its own fold.

    NAME_model/            NAME_logs/             without folds
    NAME_model/fold0/ …    NAME_logs/fold0/ …     with `training.folds`
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.base.errors import UserError
from core.experiment.checkpoint import AVERAGED, BEST, LAST, Checkpoint, load_checkpoint
from core.experiment.configuration import Configuration, Training, load_configuration, parse_configuration
from core.files.atomic import make_folder, rename_existing, reserved, write_bytes
from core.files.locks import LockedError, check_no_locks_in, lock_note
from core.files.system_errors import explain_os_errors
from core.prediction.trained_models import fold_folder, folds, model_folder
from core.training.best_epoch import should_stop
from core.training.weight_averaging import AVERAGING_FOLDER

DEFAULT_CONFIGURATION = Path("configs/fcn.yaml")
_PATIENCE_S, _PAUSE_S = 5.0, 0.05  # wait for the start of another fold, which is much shorter
_RESUMED_FILES = (LAST, BEST, AVERAGED, f"{AVERAGING_FOLDER}/*")


@dataclass(frozen=True)
class TrainingRun:
    """One network to train.

    Args:
        configuration: The run's settings; with folds, `training.fold` is set.
        folder: The folder of the model.
        logs: The folder of the logs.
        source: The folder whose checkpoint is resumed; None starts a new run.
    """

    configuration: Configuration
    folder: Path
    logs: Path
    source: Path | None

    def checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint that is resumed, or None."""
        return None if self.source is None else load_checkpoint(self.source / LAST)

    def is_done(self) -> bool:
        """Tell whether the last epoch is trained and the files that follow it are written."""
        if self.source is None or not self.has_after_training("predictions.png"):
            return False
        settings, history = self.configuration.training, load_checkpoint(self.folder / LAST).progress.history
        return len(history) >= settings.epochs or should_stop(history, settings.early_stop)

    def has_after_training(self, name: str) -> bool:
        """Tell whether a file of the folder was written after the newest checkpoint."""
        last, written = self.folder / LAST, self.folder / name
        there = last.is_file() and written.is_file()
        return there and written.stat().st_mtime_ns >= last.stat().st_mtime_ns


@dataclass(frozen=True)
class TrainingRuns:
    """All runs of one call of `train`.

    Args:
        runs: The runs, in order.
        folder: The folder `NAME_model`.
        logs: The folder `NAME_logs`.
        source: The folder that is resumed; None starts new runs.
    """

    runs: tuple[TrainingRun, ...]
    folder: Path
    logs: Path
    source: Path | None

    @property
    def _is_one_of_several(self) -> bool:
        """Whether this is a single fold, beside which other processes may train other folds."""
        return len(self.runs) == 1 and self.runs[0].folder != self.folder

    @contextlib.contextmanager
    def claimed(self) -> Iterator[contextlib.ExitStack]:
        """Lock the folders for this process; a single fold locks its own in `prepare`.

        Yields:
            The stack that holds the locks until the block ends.

        Raises:
            UserError: Another process writes there; the message names it.
        """
        with contextlib.ExitStack() as claim:
            if self._is_one_of_several:
                _check_idle(self.runs[0].folder)
                _check_idle(self.runs[0].logs)
            else:
                claim.enter_context(reserved(self.folder, shared=True))
                claim.enter_context(reserved(self.logs, shared=True))
            yield claim

    def prepare(self, say: Callable[[str], None], claim: contextlib.ExitStack) -> None:
        """Create and lock the folders of each run: see the module. Renamed folders are reported by `say`."""
        with self._all_folders():
            self._keep_earlier(say)
            for run in self.runs:
                make_folder(run.folder)
                note = self._split_name if self._is_one_of_several else ""
                claim.enter_context(reserved(run.folder, shared=True, note=note))
                claim.enter_context(reserved(run.logs, shared=True))
                for path in _files_of(run.source):
                    target = run.folder / path.relative_to(run.source or path)
                    if not target.exists():
                        with explain_os_errors(path, "read"):
                            content = path.read_bytes()
                        write_bytes(target, content)

    @contextlib.contextmanager
    def _all_folders(self) -> Iterator[None]:
        """Lock the folders of all runs during the block; wait for other folds that are starting."""
        deadline = time.monotonic() + (_PATIENCE_S if self._is_one_of_several else 0)
        while True:
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(reserved(self.folder, shared=True))
                    stack.enter_context(reserved(self.logs, shared=True))
                except LockedError:
                    if time.monotonic() > deadline:
                        raise
                else:
                    yield
                    return
            time.sleep(_PAUSE_S)

    def _keep_earlier(self, say: Callable[[str], None]) -> None:
        """Rename an earlier run's folders, unless this run resumes in them; refuse folders in use."""
        own = {path.resolve() for path in (self.folder, *(run.folder for run in self.runs))}
        if self.source is not None and self.source.resolve() in own:
            return
        for path in self._in_the_way():
            _check_idle(path)
            if (kept := rename_existing(path)) is not None:
                say(f"{path} holds an earlier run; it is kept as {kept}")

    def _in_the_way(self) -> list[Path]:
        """Return the folders that must not hold an earlier run; for a fold beside others only its own."""
        known = set(map(_split_name_in, folds(self.folder))) - {None}
        if self._is_one_of_several and known == {self._split_name}:
            return [self.runs[0].folder, self.runs[0].logs]
        return [self.folder, self.logs]

    @property
    def _split_name(self) -> str:
        return _split_name(self.runs[0].configuration.training)


def plan_runs(
    framework: str,
    out: Path,
    configuration_file: Path | None = None,
    overrides: Sequence[str] = (),
    resume: str | None = None,
) -> TrainingRuns:
    """Plan the requested runs.

    Args:
        framework: The backend's name.
        out: The parent folder of `NAME_model` and `NAME_logs`.
        configuration_file: As for `load_configuration`; None uses the resumed checkpoint's configuration, or
            `DEFAULT_CONFIGURATION` for a new run.
        overrides: "key.path=value", as for `load_configuration`.
        resume: The folder to resume from, "" for the run's own folder; None starts a new run.

    Raises:
        UserError: The configuration is wrong, or there is nothing to resume.
    """
    folder = out / model_folder(framework)
    logs = out / f"{framework}_logs"
    source = None if resume is None else Path(resume or folder)
    in_folds = source is not None and not (source / LAST).is_file()
    checkpoint = _first_checkpoint(source)
    configuration = _configuration(configuration_file, overrides, checkpoint, forget_fold=in_folds)
    settings = configuration.training
    if settings.folds is None:
        if in_folds and source is not None and folds(source):
            raise UserError(
                f"{source} holds folds, but the configuration has no training.folds.",
                "Leave --config out to go on as it was begun, or add --folds.",
            )
        return TrainingRuns((TrainingRun(configuration, folder, logs, source),), folder, logs, source)
    runs = []
    for fold in range(settings.folds) if settings.fold is None else [settings.fold]:
        begun = fold_folder(source, fold) if source is not None and in_folds else source
        if begun is not None and in_folds and not (begun / LAST).is_file():
            begun = None
        of_fold = configuration.model_copy(update={"training": settings.model_copy(update={"fold": fold})})
        runs.append(TrainingRun(of_fold, fold_folder(folder, fold), fold_folder(logs, fold), begun))
    return TrainingRuns(tuple(runs), folder, logs, source)


def _split_name(settings: Training) -> str:
    """Return a name for the split into folds, which is the same for all folds of one split."""
    return f"{settings.folds} folds, seed {settings.seed}"


def _split_name_in(folder: Path) -> str | None:
    """Return the split name of a fold's folder, from its checkpoint or from the process that trains it."""
    if (folder / LAST).is_file():
        return _split_name(load_checkpoint(folder / LAST).configuration.training)
    return lock_note(Path(os.path.realpath(folder)))


def _check_idle(folder: Path) -> None:
    """Raise a `UserError` if another process writes in a folder."""
    if folder.exists():
        with reserved(folder, shared=True):
            check_no_locks_in(Path(os.path.realpath(folder)))


def _first_checkpoint(source: Path | None) -> Checkpoint | None:
    """Return a checkpoint with the configuration of the run, or of one of its folds."""
    if source is None:
        return None
    candidates = [source, *folds(source)]
    found = next((path for path in candidates if (path / LAST).is_file()), source)
    return load_checkpoint(found / LAST)


def _configuration(
    file: Path | None, overrides: Sequence[str], checkpoint: Checkpoint | None, *, forget_fold: bool
) -> Configuration:
    """Return the settings of the file, or of the checkpoint if no file is named, with the overrides."""
    if checkpoint is not None and file is None:
        content = checkpoint.configuration.model_dump(mode="json")
        if forget_fold:
            content["training"]["fold"] = None
        return parse_configuration(content, overrides, source="command line")
    return load_configuration(file or DEFAULT_CONFIGURATION, overrides)


def _files_of(source: Path | None) -> list[Path]:
    """Return the files of a model that a resumed run needs, without unfinished temporary files."""
    found = [] if source is None else [path for name in _RESUMED_FILES for path in source.glob(name)]
    return [path for path in found if not path.name.startswith(".")]
