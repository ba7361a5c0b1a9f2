"""Execution of the runs planned by `core.tasks.training_runs`, one by one.

The folds share one compiled model. A stage that differs in what is compiled has a model of its own.

All errors of the input are raised before a folder is changed. A run that is stopped leaves a checkpoint from
which the next one resumes as if there had been no stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from core.backend.contract import State
from core.backend.devices import choose_device
from core.backend.registry import load_backend
from core.base.errors import UserError
from core.base.system import return_freed_memory
from core.distribution.exchange import ALONE, Exchange
from core.experiment.checkpoint import (
    AVERAGED,
    BEST,
    LAST,
    Checkpoint,
    Progress,
)
from core.experiment.configuration import Training
from core.experiment.recipe import CosineSchedule
from core.prediction.trained_models import fold_folder
from core.scoring.thresholds import THRESHOLDS_FILE
from core.tasks.engines import Exchanger
from core.tasks.followers import begin_run
from core.tasks.prepared_runs import Networks, PreparedRun, beginning, prepare_run, start_of
from core.tasks.progress import Watcher
from core.tasks.training_runs import TrainingRun, TrainingRuns
from core.tasks.tuning import tune_after_training
from core.training.loop import Trainer, TrainingOutcome
from core.training.tensorboard import TensorBoardLog
from core.weights.start_files import StartFile
from data.hdf5.store import Store


class StopRequest:
    """Tells whether the training is to stop.

    Attributes:
        number: The number of the signal that asked for the stop; 0 without one.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        """Return whether the training is to stop."""
        return self.number != 0


StopContext = Callable[[], AbstractContextManager[StopRequest]]
"""Returns a context manager that yields a `StopRequest` for the training in its block."""


@dataclass(frozen=True)
class Interruption:
    """Where a training was stopped on request.

    Args:
        run: The current run.
        alone: Whether it is the only run.
        epoch: The current epoch, from 1.
        batch: Number of the epoch's finished batches.
        batches: Number of the epoch's batches.
        number: The number of the signal.
    """

    run: TrainingRun
    alone: bool
    epoch: int
    batch: int
    batches: int
    number: int

    def __str__(self) -> str:
        label = str(self.run) if not self.alone or self.run.configuration.training.stages else ""
        where = (
            f"{label + ', ' if label else ''}epoch {self.epoch}, after {self.batch} of {self.batches} batches"
        )
        return f"Interrupted in {where}; the checkpoint is {self.run.folder / LAST}"


@contextlib.contextmanager
def interruptible() -> Iterator[StopRequest]:
    """Yield a `StopRequest` that the first Ctrl-C or SIGTERM sets; a second one raises `KeyboardInterrupt`.

    Outside of the main thread, which alone receives signals, the request is never set.
    """
    asked = StopRequest()

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        if asked():
            raise KeyboardInterrupt
        asked.number = number

    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(
    watcher: Watcher,
    planned: TrainingRuns,
    framework: str,
    data: str,
    device: str = "auto",
    stopping: StopContext = interruptible,
    exchange: Exchange = ALONE,
    exchanger: Exchanger | None = None,
) -> Interruption | None:
    """Train all planned runs. Of several workers this is worker 0; the others `follow` (`followers`).

    Args:
        watcher: Receives the progress.
        planned: The runs; their folders are locked meanwhile.
        framework: The backend's name.
        data: The data file.
        device: As for `core.backend.devices.choose_device`.
        stopping: Tells when to stop.
        exchange: The connection with the other workers.
        exchanger: Who exchanges between workers: see `core.tasks.engines`.

    Returns:
        Where the training was stopped; None when everything is trained.

    Raises:
        UserError: The data do not fit, the backend refuses, another process trains in the same folders, or
            the training diverged.
    """
    with planned.claimed() as claim, Store.open(Path(data)) as store:
        work = [prepare_run(one, store, exchange) for one in planned.runs]
        first = work[0]
        start = start_of(planned, first.plan)
        backend, implementation = load_backend(framework)
        device = choose_device(device, implementation.list_devices(), backend.title, exchange.place)
        network = Networks(backend, implementation, device, exchange, exchanger)
        alone = planned.folds == 1
        session = _Session(watcher, network, alone, stopping, start)
        others = network.compile(first)
        watcher.network(network.models.whole)
        if start is not None:
            watcher.say(f"start: {start.start.part} from {start.start.file} ({start.start.zoo})")
        watcher.say(f"backend: {backend.title} {backend.version()}, device: {device}")
        if others:
            shards = first.settings.shards
            watcher.say(f"workers: {len(others) + 1}, for {shards} shards of each batch")
            watcher.say(f"worker 0 on {exchange.hosts[0]} (process {os.getpid()}): this one")
            for other in others:
                watcher.say(str(other))
            if network.engine is not None:
                watcher.say(f"exchange: by {backend.title}, on the devices")
        planned.prepare(watcher.say, claim)
        for one in work:
            if len(work) > 1 and one.run.is_done():
                watcher.say(f"{one.run}: finished already, {one.run.folder}")
                if one.run.is_last_stage and not one.run.has_after_training(THRESHOLDS_FILE):
                    session.tune(one, one.run.folder)  # killed before the thresholds were found
                continue
            if len(work) > 1:
                watcher.say(f"{one.run}:")
            watcher.say(one.batches.describe(data, one.facts))
            watcher.say(f"loss: {one.settings.rules().loss.in_words(one.plan.existence is not None)}")
            if (interruption := session.train(one)) is not None:
                return interruption
        if first.settings.folds is not None:
            session.tune_together(planned, work[-1])
    return None


@dataclass(frozen=True)
class _Session:
    """Executes runs one after another."""

    watcher: Watcher
    networks: Networks
    alone: bool
    stopping: StopContext
    start: StartFile | None

    def train(self, one: PreparedRun) -> Interruption | None:
        """Train one run to its end or until a stop request."""
        settings, run = one.settings, one.run
        self.networks.compile(one)
        state, progress = self._begins_with(one)
        batches = one.batches.sent_to(self.networks.device)
        begin_run(self.networks.exchange, run.configuration)
        log = TensorBoardLog(run.logs, len(progress.history), settings.threshold)
        with self.watcher.epochs(settings) as shown:
            with self.stopping() as interrupted:
                trainer = Trainer(
                    model=self.networks.models.model,
                    plan=one.plan,
                    configuration=run.configuration,
                    data=one.facts,
                    training=batches.training,
                    validation=batches.validation,
                    folder=run.folder,
                    held_out=batches.held_out,
                    observers=(shown, log),
                    interrupted=interrupted,
                    progress=progress,
                    exchange=self.networks.exchange,
                    engine=self.networks.engine,
                    scoring=self.networks.models.scoring,
                )
                trainer.begin(state)
                del state  # the model has copies, and it is as large as they are
                return_freed_memory()
                try:
                    outcome = trainer.run()
                finally:
                    log.close()
            if outcome.reason == "interrupted":
                done, number = outcome.progress, interrupted.number
                epoch = len(done.history) + 1
                return Interruption(run, self.alone, epoch, done.batch, batches.training.batches, number)
            self._finish(trainer, outcome)
            trainer.end()
        if run.is_last_stage:
            self.tune(one, run.folder)
        names = [AVERAGED, BEST, LAST, "export/", "history.json", "predictions.png", THRESHOLDS_FILE]
        written = ", ".join(name for name in names if (run.folder / name).exists())
        self.watcher.say(f"Written: {run.folder}/ ({written}) and logs")
        return None

    def _begins_with(self, one: PreparedRun) -> tuple[State, Progress]:
        """Return the state and progress that a run begins or goes on with; tell what changed meanwhile."""
        checkpoint = one.run.checkpoint()
        if checkpoint is None:
            return beginning(one, self.start)
        self._tell_changes(checkpoint, one.settings)
        return checkpoint.arrays, checkpoint.progress

    def tune(self, one: PreparedRun, folder: Path) -> None:
        """Search the thresholds of the model or the folds in a folder."""
        tune_after_training(
            self.watcher,
            one.store,
            folder,
            self.networks.implementation,
            self.networks.device,
            one.settings.batch_size,
        )

    def tune_together(self, planned: TrainingRuns, one: PreparedRun) -> None:
        """Search the thresholds of all folds together if all are trained; otherwise remove old thresholds."""
        folders = (fold_folder(planned.folder, number) for number in range(one.settings.folds or 0))
        if all((folder / BEST).is_file() for folder in folders):
            self.tune(one, planned.folder)
        else:
            (planned.folder / THRESHOLDS_FILE).unlink(missing_ok=True)

    def _tell_changes(self, checkpoint: Checkpoint, settings: Training) -> None:
        """Report settings that depend on the number of epochs, if a resumed run has another number."""
        before, after = checkpoint.configuration.training.epochs, settings.epochs
        spans = []
        if isinstance(settings.schedule, CosineSchedule) and settings.schedule.cycle_epochs is None:
            spans.append("the learning rate (schedule: cosine)")
        sampling = settings.sampling
        changes = sampling is not None and sampling.final not in (None, sampling.positives)
        if sampling is not None and changes and sampling.over_epochs is None:
            spans.append("the share of positives (sampling.over_epochs: null)")
        if spans and before != after:
            self.watcher.say(
                f"training.epochs was {before} and is now {after}: from here on {' and '.join(spans)} "
                f"will be what a run of {after} epochs has at this point"
            )

    def _finish(self, trainer: Trainer, outcome: TrainingOutcome) -> None:
        if outcome.reason == "early stop":
            patience = trainer.configuration.training.early_stop.patience
            done = len(outcome.progress.history)
            self.watcher.say(
                f"Stopped after epoch {done}: no improvement for {patience} epoch{'s' * (patience > 1)}"
            )
        found = trainer.finish()
        if found is None:
            raise UserError("no epoch was finished, so there is no model to export")
        scores = found.scores
        of_positives, auroc = (
            "-" if score is None else f"{score:.4f}" for score in (scores.dice_positive, found.auroc)
        )
        self.watcher.say(
            f"Best model: Dice {scores.dice:.4f} (all-empty floor {scores.dice_all_empty:.4f}), "
            f"Dice on positives {of_positives}, AUROC {auroc}, "
            f"over {scores.images} images with {scores.positives} positive"
        )
