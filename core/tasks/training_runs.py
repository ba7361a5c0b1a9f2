"""Which networks are to be trained: one, or one for each fold; where; from what on.

Promises: planning changes nothing on disk; `prepare` then keeps an earlier run's folders under another
name and brings along what is resumed from elsewhere. A process that has `claimed` the folders has them for
itself: nobody else trains, tunes or exports there until it ends. Several processes may train a single fold
each; such a one has its own fold for itself, and the folders of all while it begins.

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
from core.files.atomic import keep_existing, make_folder, reserved, write_bytes
from core.files.locks import TakenError, check_below, note_of
from core.files.system_errors import explain_os_errors
from core.prediction.trained_models import fold_folder, folds, model_folder
from core.training.best_epoch import should_stop
from core.training.weight_averaging import AVERAGING_FOLDER

DEFAULT_CONFIGURATION = Path("configs/fcn.yaml")
_PATIENCE_S, _PAUSE_S = 5.0, 0.05  # for another fold's beginning, which takes much less
_BROUGHT_ALONG = (LAST, BEST, AVERAGED, f"{AVERAGING_FOLDER}/*")


@dataclass(frozen=True)
class TrainingRun:
    """One network to train.

    Args:
        configuration: Its settings; with folds, `training.fold` is set.
        folder: Where the model is written.
        logs: Where the logs are.
        source: The folder whose checkpoint is continued; None begins anew.
    """

    configuration: Configuration
    folder: Path
    logs: Path
    source: Path | None

    def checkpoint(self) -> Checkpoint | None:
        """What is continued."""
        return None if self.source is None else load_checkpoint(self.source / LAST)

    def is_done(self) -> bool:
        """Whether nothing is left to do: the last epoch is trained, and what follows it was written after."""
        if self.source is None or not self.has_after_training("predictions.png"):
            return False
        settings, history = self.configuration.training, load_checkpoint(self.folder / LAST).progress.history
        return len(history) >= settings.epochs or should_stop(history, settings.early_stop)

    def has_after_training(self, name: str) -> bool:
        """Whether a file of the folder was written after the newest checkpoint."""
        last, written = self.folder / LAST, self.folder / name
        there = last.is_file() and written.is_file()
        return there and written.stat().st_mtime_ns >= last.stat().st_mtime_ns


@dataclass(frozen=True)
class TrainingRuns:
    """All that is asked for.

    Args:
        runs: In their order.
        folder: `NAME_model`.
        logs: `NAME_logs`.
        source: The folder that is gone on from, or the run's own; None begins anew.
    """

    runs: tuple[TrainingRun, ...]
    folder: Path
    logs: Path
    source: Path | None

    @property
    def _is_one_of_several(self) -> bool:
        """Whether it is a single fold, beside which others may be trained at the same time."""
        return len(self.runs) == 1 and self.runs[0].folder != self.folder

    @contextlib.contextmanager
    def claimed(self) -> Iterator[contextlib.ExitStack]:
        """Keep other processes away from the folders; a single fold claims its own when it is prepared.

        Yields:
            What holds the claim until the block ends.

        Raises:
            UserError: Another process writes there; the text says which.
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
        """Make the folders, and claim those of each run; see the module. What is kept is said."""
        with self._all_folders():
            self._keep_earlier(say)
            for run in self.runs:
                make_folder(run.folder)
                note = self._division if self._is_one_of_several else ""
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
        """Have the folders of all runs for a moment, after other folds that have them for theirs."""
        deadline = time.monotonic() + (_PATIENCE_S if self._is_one_of_several else 0)
        while True:
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(reserved(self.folder, shared=True))
                    stack.enter_context(reserved(self.logs, shared=True))
                except TakenError:
                    if time.monotonic() > deadline:
                        raise
                else:
                    yield
                    return
            time.sleep(_PAUSE_S)

    def _keep_earlier(self, say: Callable[[str], None]) -> None:
        """Rename an earlier run's folders, if this one does not go on in them and nobody is at work there."""
        own = {path.resolve() for path in (self.folder, *(run.folder for run in self.runs))}
        if self.source is not None and self.source.resolve() in own:
            return
        for path in self._in_the_way():
            _check_idle(path)
            if (kept := keep_existing(path)) is not None:
                say(f"{path} holds an earlier run; it is kept as {kept}")

    def _in_the_way(self) -> list[Path]:
        """What a new run would mix with: everything, but for a single fold beside others of its kind."""
        known = set(map(_division_in, folds(self.folder))) - {None}
        if self._is_one_of_several and known == {self._division}:
            return [self.runs[0].folder, self.runs[0].logs]
        return [self.folder, self.logs]

    @property
    def _division(self) -> str:
        return _division_of(self.runs[0].configuration.training)


def plan_runs(
    framework: str,
    out: Path,
    configuration_file: Path | None = None,
    overrides: Sequence[str] = (),
    resume: str | None = None,
) -> TrainingRuns:
    """The runs that are asked for.

    Args:
        framework: The backend's name.
        out: Where `NAME_model` and `NAME_logs` are.
        configuration_file: As for `load_configuration`; None is the checkpoint's own when going on with one,
            or else `DEFAULT_CONFIGURATION`.
        overrides: "key.path=value", as for `load_configuration`.
        resume: The folder to go on from, "" the run's own; None begins anew.

    Raises:
        UserError: A bad configuration, or nothing there to be resumed.
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


def _division_of(settings: Training) -> str:
    """What folds of one division have in common."""
    return f"{settings.folds} folds, seed {settings.seed}"


def _division_in(folder: Path) -> str | None:
    """Of which division a fold's folder is: as its checkpoint says, or who trains it; None if nobody does."""
    if (folder / LAST).is_file():
        return _division_of(load_checkpoint(folder / LAST).configuration.training)
    return note_of(Path(os.path.realpath(folder)))


def _check_idle(folder: Path) -> None:
    """Refuse a folder in which another process writes."""
    if folder.exists():
        with reserved(folder, shared=True):
            check_below(Path(os.path.realpath(folder)))


def _first_checkpoint(source: Path | None) -> Checkpoint | None:
    """A checkpoint that says how the run, or one of its folds, is configured."""
    if source is None:
        return None
    candidates = [source, *folds(source)]
    found = next((path for path in candidates if (path / LAST).is_file()), source)
    return load_checkpoint(found / LAST)


def _configuration(
    file: Path | None, overrides: Sequence[str], checkpoint: Checkpoint | None, *, forget_fold: bool
) -> Configuration:
    """The file's settings, or the checkpoint's where no file is named; then what overrides them."""
    if checkpoint is not None and file is None:
        content = checkpoint.configuration.model_dump(mode="json")
        if forget_fold:
            content["training"]["fold"] = None
        return parse_configuration(content, overrides, source="command line")
    return load_configuration(file or DEFAULT_CONFIGURATION, overrides)


def _files_of(source: Path | None) -> list[Path]:
    """What is brought along of a model; not what writing it may have left unfinished."""
    found = [] if source is None else [path for name in _BROUGHT_ALONG for path in source.glob(name)]
    return [path for path in found if not path.name.startswith(".")]
