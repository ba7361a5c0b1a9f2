"""Plan of the runs to train: one, or one for each stage of each fold, with their folders and starting points.

Planning changes nothing on disk. `prepare` then renames the folders of an earlier run and copies the files of
a run that is resumed from elsewhere. A process that has `claimed` the folders locks them: no other process
trains, tunes or exports there until it ends. Several processes may train a single fold each. Such a process
locks the folders of all folds only while it starts, then its own fold.

    NAME_model/             NAME_logs/              without folds
    NAME_model/fold0/ …     NAME_logs/fold0/ …      with `training.folds`
    …/stage1/, …/stage2/    …/stage1/, …/stage2/    the stages before the last one (`training.stages`)
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.base.errors import UserError
from core.experiment.checkpoint import (
    AVERAGED,
    BEST,
    LAST,
    Checkpoint,
    check_unchanged,
    load_checkpoint,
)
from core.experiment.configuration import Configuration, Training, load_configuration, parse_configuration
from core.files.atomic import make_folder, rename_existing, reserved, write_bytes
from core.files.locks import LockedError, check_no_locks_in, lock_note
from core.files.system_errors import explain_os_errors
from core.prediction.trained_models import fold_folder, folds, model_folder, stage_folder
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
        before: The folder of the model that a new run begins with: of the stage before. None for none.
        is_left: Whether the next stage has begun.
    """

    configuration: Configuration
    folder: Path
    logs: Path
    source: Path | None
    before: Path | None = None
    is_left: bool = False

    @property
    def is_last_stage(self) -> bool:
        """Whether no stage follows."""
        training = self.configuration.training
        return training.stage in (None, len(training.stages))

    def __str__(self) -> str:
        training = self.configuration.training
        fold = [] if training.fold is None else [f"fold {training.fold}"]
        stage = [] if training.stage is None else [f"stage {training.stage} of {len(training.stages)}"]
        return ", ".join([*fold, *stage])

    def checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint that is resumed, or None."""
        return None if self.source is None else load_checkpoint(self.source / LAST)

    def is_done(self) -> bool:
        """Tell whether the last epoch is trained and the files that follow it are written."""
        return self.is_left or (self.has_after_training("predictions.png") and self.is_trained())

    def is_trained(self) -> bool:
        """Tell whether the last epoch is trained."""
        if (checkpoint := self.checkpoint()) is None:
            return False
        settings, history = self.configuration.training, checkpoint.progress.history
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
    def folds(self) -> int:
        """The number of folds that are trained; 1 without folds."""
        return sum(run.is_last_stage for run in self.runs)

    @property
    def _is_one_of_several(self) -> bool:
        """Whether this is a single fold, beside which other processes may train other folds."""
        return self.folds == 1 and self._model.folder != self.folder

    @property
    def _model(self) -> TrainingRun:
        """The run that the last model is from; the stages before are in its folder."""
        return self.runs[-1]

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
                _check_idle(self._model.folder)
                _check_idle(self._model.logs)
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
            return [self._model.folder, self._model.logs]
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
    in_folds = source is not None and not _is_begun(source)
    checkpoint = _first_checkpoint(source)
    configuration = _configuration(configuration_file, overrides, checkpoint, forget_fold=in_folds)
    settings = configuration.training
    if settings.folds is None:
        if in_folds and source is not None and folds(source):
            raise UserError(
                f"{source} holds folds, but the configuration has no training.folds.",
                "Leave --config out to go on as it was begun, or add --folds.",
            )
        return TrainingRuns(tuple(_stages(configuration, folder, logs, source)), folder, logs, source)
    runs: list[TrainingRun] = []
    for fold in range(settings.folds) if settings.fold is None else [settings.fold]:
        begun = fold_folder(source, fold) if source is not None and in_folds else source
        if begun is not None and in_folds and not _is_begun(begun):
            begun = None
        of_fold = configuration.model_copy(update={"training": settings.model_copy(update={"fold": fold})})
        runs += _stages(of_fold, fold_folder(folder, fold), fold_folder(logs, fold), begun)
    return TrainingRuns(tuple(runs), folder, logs, source)


def _stages(configuration: Configuration, folder: Path, logs: Path, source: Path | None) -> list[TrainingRun]:
    """Return the runs of all stages of a training; without stages, its only run.

    Args:
        configuration: The settings of the training.
        folder: The folder of its last model.
        logs: The folder of its last logs.
        source: The folder of the training that is resumed; None for none.

    Raises:
        UserError: A finished stage has other settings now, or a folder holds another stage.
    """
    runs: list[TrainingRun] = []
    in_stages = configuration.in_stages()
    for number, settings in enumerate(in_stages, start=1):
        is_last = number == len(in_stages)
        here, log = (path if is_last else stage_folder(path, number) for path in (folder, logs))
        begun = source if source is None or is_last else stage_folder(source, number)
        if begun is not None and len(in_stages) > 1 and not (begun / LAST).is_file():
            begun = None
        if begun is not None and runs:
            _check_left(runs[-1], begun)
            runs[-1] = replace(runs[-1], is_left=True)
        runs.append(TrainingRun(settings, here, log, begun, runs[-1].folder if runs else None))
    return runs


def _check_left(before: TrainingRun, begun: Path) -> None:
    """Refuse to go on with a stage whose predecessor has other settings now.

    Args:
        before: The stage before.
        begun: The folder of the stage that is resumed.

    Raises:
        UserError: The text names what differs.
    """
    settings, checkpoint = before.configuration.training, before.checkpoint()
    found = load_checkpoint(begun / LAST).configuration.training.stage
    if found != (settings.stage or 0) + 1:
        raise UserError(
            f"{begun} holds {'no stage' if found is None else f'stage {found}'}, not stage "
            f"{(settings.stage or 0) + 1} of {len(settings.stages)}",
            "The number of stages cannot change when a training is resumed.",
        )
    if checkpoint is None:
        raise UserError(f"{before.folder} has no checkpoint, but {begun} has one of the stage after it")
    check_unchanged(checkpoint, before.configuration, str(before))


def _split_name(settings: Training) -> str:
    """Return a name for the split into folds, which is the same for all folds of one split."""
    return f"{settings.folds} folds, seed {settings.seed}"


def _split_name_in(folder: Path) -> str | None:
    """Return the split name of a fold's folder, from its checkpoint or from the process that trains it."""
    for path in (folder, stage_folder(folder, 1)):
        if (path / LAST).is_file():
            return _split_name(load_checkpoint(path / LAST).configuration.training)
    return lock_note(Path(os.path.realpath(folder)))


def _check_idle(folder: Path) -> None:
    """Raise a `UserError` if another process writes in a folder."""
    if folder.exists():
        with reserved(folder, shared=True):
            check_no_locks_in(Path(os.path.realpath(folder)))


def _is_begun(folder: Path) -> bool:
    """Tell whether a training has a checkpoint in a folder."""
    return any((path / LAST).is_file() for path in (stage_folder(folder, 1), folder))


def _first_checkpoint(source: Path | None) -> Checkpoint | None:
    """Return a checkpoint with the configuration of the training, or of one of its folds.

    Of several stages it is the first one's.

    Raises:
        UserError: There is none, or the folder is that of a single stage.
    """
    if source is None:
        return None
    candidates = [stage for path in (source, *folds(source)) for stage in (stage_folder(path, 1), path)]
    found = next((path for path in candidates if (path / LAST).is_file()), source)
    checkpoint = load_checkpoint(found / LAST)
    if found == source and checkpoint.configuration.training.stages:
        raise UserError(
            f"{source} holds one of several stages", f"Resume the whole training: --resume {source.parent}"
        )
    return checkpoint


def _configuration(
    file: Path | None, overrides: Sequence[str], checkpoint: Checkpoint | None, *, forget_fold: bool
) -> Configuration:
    """Return the settings of the file, or of the checkpoint if no file is named, with the overrides."""
    if checkpoint is not None and file is None:
        content = checkpoint.configuration.model_dump(mode="json")
        content["training"]["stage"] = None
        if forget_fold:
            content["training"]["fold"] = None
        return parse_configuration(content, overrides, source="command line")
    return load_configuration(file or DEFAULT_CONFIGURATION, overrides)


def _files_of(source: Path | None) -> list[Path]:
    """Return the files of a model that a resumed run needs, without unfinished temporary files."""
    found = [] if source is None else [path for name in _RESUMED_FILES for path in source.glob(name)]
    return [path for path in found if not path.name.startswith(".")]
