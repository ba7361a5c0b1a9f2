"""What `train` does, apart from its options: joins data, backend, training loop, console and logs."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from core.checkpoint import AVERAGED, BEST, LAST, Checkpoint, DataFacts, Progress, check_continuation
from core.commands import terminal
from core.commands.batches import training_batches
from core.commands.console import TrainingConsole, print_network
from core.commands.held_out import facts_of, split_of
from core.commands.runs import Run, Runs, plan_runs
from core.commands.statuses import Status, of_signal
from core.commands.terminal import Terminal
from core.commands.tuning_run import tune_trained
from core.configuration import Training
from core.contract import Implementation, Model
from core.devices import choose_device
from core.errors import UserError
from core.inference import fold_folder
from core.logs import TensorBoardLog
from core.lowering import lower
from core.plan import Plan
from core.recipe import ConstantSchedule, CosineSchedule
from core.registry import load_backend, require_training
from core.standard_streams import visible
from core.state import initial_state
from core.thresholds import FILE as THRESHOLDS
from core.training import Outcome, Trainer
from data.loader import Loader
from data.store import Store


def run(arguments: argparse.Namespace) -> int:
    """Train as the command line says."""
    require_training(arguments.framework)  # before files are looked for: a mistyped name is answered at once
    console = terminal.console(soft_wrap=True)
    planned = plan_runs(arguments)
    with planned.claimed() as claim, Store.open(Path(arguments.data)) as store:
        facts = facts_of(store)
        for one in planned.runs:
            if (checkpoint := one.checkpoint()) is not None:
                check_continuation(checkpoint, one.configuration, facts)
        configuration = planned.runs[0].configuration
        plan = lower(configuration.network, store.height, store.width)
        backend, implementation = load_backend(arguments.framework)
        device = choose_device(arguments.device, implementation.list_devices(), backend.title)
        rules, precision = configuration.training.rules(), configuration.training.precision
        model = implementation.compile(plan, rules, device, precision)
        session = _Session(
            console, arguments, store, plan, implementation, device, model, len(planned.runs) == 1
        )
        work = [(one, _Data.of(store, one.configuration.training, facts)) for one in planned.runs]
        print_network(console, plan)
        console.print(f"backend: {backend.title} {backend.version()}, device: {device}")
        planned.prepare(console, claim)
        for one, data in work:
            if len(work) > 1 and one.is_done():
                console.print(visible(f"{_fold(one)}: finished already, {one.folder}"))
                if not one.has_after_training(THRESHOLDS):  # killed before they were found
                    session.tune(one.folder, one.configuration.training)
                continue
            if len(work) > 1:
                console.print(f"{_fold(one)}:")
            console.print(visible(data.describe(arguments.data)))
            if status := session.train(one, data):
                return status
        if configuration.training.folds is not None:
            session.tune_together(planned, configuration.training)
    if len(work) > 1:
        console.print(
            visible(
                f"All {len(work)} folds are trained; together they predict as an ensemble: {planned.folder}"
            )
        )
    return Status.DONE


@dataclass(frozen=True)
class _Data:
    """What one network learns from, and what it is judged by."""

    facts: DataFacts
    training: Loader
    validation: Loader
    held_out: bool

    @classmethod
    def of(cls, store: Store, settings: Training, facts: DataFacts) -> _Data:
        split = split_of(store, settings)
        held_out = len(split.validation) > 0
        return cls(
            facts,
            training_batches(store, split.training, settings),
            Loader(store, split.validation if held_out else split.training, settings.batch_size),
            held_out,
        )

    def describe(self, path: str) -> str:
        share = f"{self.training.images} to train, {self.validation.images} held out"
        if not self.held_out:
            share = "all to train; none is held out, so the scores below are of the training images"
        facts = self.facts
        return (
            f"data: {path}, {facts.images} images of {facts.height}x{facts.width}, "
            f"{facts.positives} positive; {share}"
        )


@dataclass(frozen=True)
class _Session:
    """Trains one network after another with one compiled model."""

    console: Terminal
    arguments: argparse.Namespace
    store: Store
    plan: Plan
    implementation: Implementation
    device: str
    model: Model
    alone: bool

    def train(self, one: Run, data: _Data) -> int:
        """Train one network to its end; the status that the signal gives when it was interrupted."""
        settings, checkpoint = one.configuration.training, one.checkpoint()
        if checkpoint is not None:
            self._tell_changes(checkpoint, settings)
        self.model.load_state(
            initial_state(self.plan, settings.rules(), settings.seed)
            if checkpoint is None
            else checkpoint.arrays
        )
        progress = Progress() if checkpoint is None else checkpoint.progress
        log = TensorBoardLog(one.logs, len(progress.history), settings.threshold)
        changes = settings.schedule != ConstantSchedule()
        with TrainingConsole(self.console, settings.epochs, show_rate=changes) as shown:
            with _interruptible() as interrupted:
                trainer = Trainer(
                    model=self.model,
                    plan=self.plan,
                    configuration=one.configuration,
                    data=data.facts,
                    training=data.training,
                    validation=data.validation,
                    folder=one.folder,
                    held_out=data.held_out,
                    observers=(shown, log),
                    interrupted=interrupted,
                    progress=progress,
                )
                try:
                    outcome = trainer.run()
                finally:
                    log.close()
            if outcome.reason == "interrupted":
                self._tell_interruption(one, trainer, outcome)
                return of_signal(interrupted.number)
            self._conclude(trainer, outcome)
        self.tune(one.folder, settings)
        names = [AVERAGED, BEST, LAST, "export/", "history.json", "predictions.png", THRESHOLDS]
        written = ", ".join(name for name in names if (one.folder / name).exists())
        self.console.print(visible(f"Written: {one.folder}/ ({written}) and logs"))
        return Status.DONE

    def tune(self, folder: Path, settings: Training) -> None:
        """Find the thresholds of the model, or of the folds, in a folder."""
        tune_trained(self.console, self.store, folder, self.implementation, self.device, settings.batch_size)

    def tune_together(self, planned: Runs, settings: Training) -> None:
        """Find the thresholds of all folds together once each is there; until then no old ones may hold."""
        folders = (fold_folder(planned.folder, number) for number in range(settings.folds or 0))
        if all((folder / BEST).is_file() for folder in folders):
            self.tune(planned.folder, settings)
        else:
            (planned.folder / THRESHOLDS).unlink(missing_ok=True)

    def _tell_changes(self, checkpoint: Checkpoint, settings: Training) -> None:
        """What of the recipe spans the whole run follows another number of epochs from here on."""
        before, after = checkpoint.configuration.training.epochs, settings.epochs
        spans = []
        if isinstance(settings.schedule, CosineSchedule):
            spans.append("the learning rate (schedule: cosine)")
        if settings.sampling is not None and settings.sampling.over_epochs is None:
            spans.append("the share of positives (sampling.over_epochs: null)")
        if spans and before != after:
            self.console.print(
                f"training.epochs was {before} and is now {after}: from here on {' and '.join(spans)} "
                f"will be what a run of {after} epochs has at this point"
            )

    def _tell_interruption(self, one: Run, trainer: Trainer, outcome: Outcome) -> None:
        done, arguments = len(outcome.progress.history), self.arguments
        where = f"epoch {done + 1}, after {outcome.progress.batch} of {trainer.training.batches} batches"
        fold = "" if self.alone else f"{_fold(one)}, "
        self.console.problem(
            visible(f"Interrupted in {fold}{where}; the checkpoint is {trainer.folder / LAST}")
        )
        out = [] if arguments.out == "." else ["--out", arguments.out]
        number = one.configuration.training.fold
        only = ["--fold", str(number)] if self.alone and number is not None else []
        words = ["python", "run.py", "-f", arguments.framework, "--data", arguments.data, *out, *only]
        self.console.problem(visible(f"Go on with: {shlex.join([*words, '--resume'])}"))

    def _conclude(self, trainer: Trainer, outcome: Outcome) -> None:
        if outcome.reason == "early stop":
            patience = trainer.configuration.training.early_stop.patience
            done = len(outcome.progress.history)
            self.console.print(f"Stopped after epoch {done}: no improvement for {patience} epochs")
        found = trainer.finish()
        if found is None:
            raise UserError("no epoch was finished, so there is no model to export")
        scores = found.scores
        of_positives = "-" if scores.dice_positive is None else f"{scores.dice_positive:.4f}"
        self.console.print(
            f"Best model: Dice {scores.dice:.4f} (all-empty floor {scores.dice_all_empty:.4f}), "
            f"Dice on positives {of_positives}, over {scores.images} images with {scores.positives} positive"
        )


def _fold(one: Run) -> str:
    return f"fold {one.configuration.training.fold}"


class _Interruption:
    """Whether a signal has asked for an end; `number` is that of the signal."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        return self.number != 0


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interruption]:
    """Turn the first Ctrl-C (or SIGTERM) into a question that the loop asks; a second one is an exception."""
    asked = _Interruption()

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        if asked():
            raise KeyboardInterrupt
        asked.number = number

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
