"""The training loop, the same for every backend.

Provides `Trainer`. A run is determined by its configuration, the data and the seed. A run that is interrupted
at any step and resumed makes the same updates as one that is not. After every epoch the held-out images are
scored and the checkpoint is written; the best checkpoint is kept beside it. A loss that is not finite stops
the run before anything is written.

The folder of the model holds:

    last.safetensors        the newest checkpoint
    best.safetensors        the best checkpoint by the monitored score
    averaged.safetensors    the average of the best epochs, if it scores better (`weight_averaging`)
    history.json            one record for each epoch
    export/                 the best or averaged model in the framework's own format
    predictions.png         some scored images with true and predicted masks
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, SupportsFloat

import numpy as np

from core.backend.contract import Engine, Model, State
from core.backend.state import LOSS_SCALE, SKIPPED_STEPS, averaged_state
from core.backend.trained_part import trained_part
from core.backend.training_rules import LEAST_LOSS_SCALE, TrainingRules, step_scalars
from core.base.errors import UserError
from core.base.packages import explain_missing
from core.distribution.exchange import ALONE, Exchange
from core.experiment.checkpoint import (
    AVERAGED,
    BEST,
    LAST,
    Checkpoint,
    DataFacts,
    EpochRecord,
    Progress,
    load_checkpoint,
    save_checkpoint,
)
from core.experiment.configuration import Configuration
from core.files.atomic import replacing, write_bytes, write_text
from core.network.plan import Plan
from core.pictures.radiographs import draw_sheet
from core.prediction.exports import EXPORT, export_metadata, write_metadata
from core.training.best_epoch import best_epoch, monitored_score, should_stop
from core.training.observers import Observer
from core.training.schedules import learning_rate
from core.training.team import SharedBatch, Team
from core.training.validation import BatchSource, ValidationResult
from core.training.weight_averaging import KeptEpochs, average_kept_epochs


@dataclass(frozen=True)
class TrainingOutcome:
    """How a run ended: the reason, and how far it came."""

    reason: Literal["finished", "early stop", "interrupted"]
    progress: Progress


@dataclass
class Trainer:
    """One training run.

    Args:
        model: The compiled model; its state is that of `progress`.
        plan: The plan that the model was compiled from.
        configuration: The run's settings.
        data: The properties of the data that the run depends on.
        training: Batches to train on.
        validation: Batches to score.
        folder: Where the model is written.
        held_out: False if no image was held out, so that `validation` holds the training images.
        observers: They are told of everything that happens.
        interrupted: Called after each batch; True stops the run after writing a checkpoint.
        progress: How far the run has come.
        exchange: The connection with the other workers that train the same network.
        engine: As for `core.training.team.Team`.
        scoring: As for `core.training.team.Team`.
    """

    model: Model
    plan: Plan
    configuration: Configuration
    data: DataFacts
    training: BatchSource
    validation: BatchSource
    folder: Path
    held_out: bool = True
    observers: Sequence[Observer] = ()
    interrupted: Callable[[], bool] = lambda: False
    progress: Progress = field(default_factory=Progress)
    exchange: Exchange = ALONE
    engine: Engine | None = None
    scoring: Model | None = None

    def begin(self, state: State) -> None:
        """Give all workers the state of `progress`."""
        self._team.load_state(state)

    def run(self) -> TrainingOutcome:
        """Train until the last epoch, the early stop, or an interruption."""
        settings = self.configuration.training
        if self.progress.history:  # a run killed before it was written, or continued in another folder
            self._write_history()
        while len(self.progress.history) < settings.epochs:
            if should_stop(self.progress.history, settings.early_stop):
                return TrainingOutcome("early stop", self.progress)
            found = self._score() if self._train_epoch() else None
            if found is None:
                save_checkpoint(self.folder / LAST, self._checkpoint(self._finite_state()))
                return TrainingOutcome("interrupted", self.progress)
            self._finish_epoch(found)
        return TrainingOutcome("finished", self.progress)

    def finish(self) -> ValidationResult | None:
        """Export the best model and draw some of its predictions; None when no epoch was finished.

        The best model is that of the best epoch, or the average of the best epochs if it scores better.
        """
        if not (self.folder / BEST).is_file():
            return None
        self._average()
        chosen = AVERAGED if (self.folder / AVERAGED).is_file() else BEST
        checkpoint = load_checkpoint(self.folder / chosen)
        self._team.load_state(averaged_state(checkpoint.arrays))
        self._export(checkpoint, self.folder / chosen)
        found = self._validate(self._report_batch_scored)
        sheet = draw_sheet(found.samples, self.configuration.training.threshold)
        write_bytes(self.folder / "predictions.png", sheet)
        return found

    def end(self) -> None:
        """End the run for the other workers."""
        self._team.end()

    def _export(self, checkpoint: Checkpoint, path: Path) -> None:
        """Export the model. A missing package that only the export needs does not fail the run."""
        try:
            with replacing(self.folder / EXPORT) as partial:
                partial.mkdir()
                metadata = export_metadata(checkpoint, path, None)
                self._team.scorer().export(partial, metadata)
                write_metadata(partial, metadata)
        except ModuleNotFoundError as error:
            if (missing := explain_missing(error, "the export")) is None:
                raise
            shutil.rmtree(self.folder / EXPORT, ignore_errors=True)  # an earlier export holds another model
            for observer in self.observers:
                observer.export_left_out(missing)

    def _average(self) -> None:
        """Write the average of the kept epochs if it scores best, then remove these epochs."""
        stop, history = self.configuration.training.early_stop, self.progress.history

        def score() -> float:
            return monitored_score(self._validate(self._report_batch_scored), stop)

        if len(self._kept_epochs.epochs(history)) > 1:
            to_beat = monitored_score(history[best_epoch(history, stop) - 1], stop)
            if (self.folder / AVERAGED).is_file():  # from before the run was resumed with more epochs
                self._team.load_state(load_checkpoint(self.folder / AVERAGED).arrays)
                to_beat = min(to_beat, score())
            average = average_kept_epochs(
                self._kept_epochs,
                history,
                self._team,
                trained_part(self.plan, self._rules),
                to_beat,
                self._zero_rate_updates,
                score,
            )
            if average.is_better:
                checkpoint = Checkpoint(self.configuration, self.data, self.progress, average.state)
                save_checkpoint(self.folder / AVERAGED, checkpoint)
            for observer in self.observers:
                observer.averaged(average)
        self._kept_epochs.clear()

    def _zero_rate_updates(self) -> Iterator[Callable[[], int]]:
        """Yield one more epoch's updates at learning rate 0; they change only statistics and moments."""
        for observer in self.observers:
            observer.averaging_started(self.training.batches)
        batches = self._team.epoch(len(self.progress.history) + 1)
        for step, batch in enumerate(batches, start=self.progress.step + 1):

            def update(batch: SharedBatch = batch, step: int = step) -> int:
                float(self._train_step(batch, step, 0.0, 0.0))
                self._report_batch_scored()
                return batch.images

            yield update

    def _train_epoch(self) -> bool:
        """Train the rest of the current epoch; return False when interrupted before its end."""
        epoch, settings = len(self.progress.history) + 1, self.configuration.training
        for observer in self.observers:
            observer.epoch_started(epoch, self.progress.batch, self.training.batches)
        losses, decay = _Losses(self.progress), settings.optimizer.weight_decay
        began = time.perf_counter() - self.progress.seconds
        for batch in self._team.epoch(epoch, start=self.progress.batch):
            losses.step += 1
            loss = self._train_step(batch, losses.step, self._rate(losses.step), decay)
            losses.add(loss, batch.images)
            self._read_losses(losses, leave=1)
            for observer in self.observers:
                observer.batch_trained(losses.newest)
            if self.interrupted():
                break
        self._read_losses(losses, leave=0)
        self.progress = replace(losses.progress(), seconds=time.perf_counter() - began)
        return self.progress.batch == self.training.batches and not self.interrupted()

    def _train_step(self, batch: SharedBatch, step: int, rate: float, decay: float) -> SupportsFloat:
        """Make one update and return the loss before it."""
        return self._team.train_step(batch, step_scalars(self._rules, step, rate, decay))

    def _validate(self, after_batch: Callable[[], None]) -> ValidationResult:
        for observer in self.observers:
            observer.scoring_started(self.validation.batches)
        return self._team.validate(after_batch)

    def _score(self) -> ValidationResult | None:
        """Score the held-out images; return None when interrupted.

        The moving average is scored in place of the weights, if there is one. Copies of all arrays are kept
        meanwhile and put back, so that the run goes on with the same bits.
        """
        averages = self._rules.average_decay is not None
        state = self._team.state() if averages else {}
        if averages:
            self._team.load_state(averaged_state(state))
        try:
            found = self._validate(self._after_scored_batch)
        except _InterruptedError:
            found = None
        if averages:
            self._team.load_state(state)
        if found is None:
            return None
        if not math.isfinite(found.loss):
            raise self._divergence_error(f"the loss is {found.loss} on the scored images")
        return found

    def _finish_epoch(self, found: ValidationResult) -> None:
        scores, progress, state = found.scores, self.progress, self._finite_state()
        skipped = None
        if SKIPPED_STEPS in state:
            skipped = int(state[SKIPPED_STEPS][0]) - sum(old.skipped_steps or 0 for old in progress.history)
        record = EpochRecord(
            epoch=len(progress.history) + 1,
            loss=progress.loss_sum / progress.images,
            validation_loss=found.loss,
            dice=scores.dice,
            dice_all_empty=scores.dice_all_empty,
            dice_positive=scores.dice_positive,
            learning_rate=self._rate(progress.step),
            images_per_second=progress.images / progress.seconds,
            scored_on="validation" if self.held_out else "training",
            step=progress.step,
            skipped_steps=skipped,
            loss_scale=float(state[LOSS_SCALE][0]) if LOSS_SCALE in state else None,
            auroc=found.auroc,
        )
        self._check_skipped(record)
        self.progress = Progress(
            step=progress.step, history=(*progress.history, record), start=progress.start
        )
        history = self.progress.history
        best = best_epoch(history, self.configuration.training.early_stop) == record.epoch
        checkpoint = self._checkpoint(state)
        self._kept_epochs.keep(checkpoint, self.plan)
        if best:
            save_checkpoint(self.folder / BEST, checkpoint)
            (self.folder / AVERAGED).unlink(missing_ok=True)  # it was compared with an earlier best
        save_checkpoint(self.folder / LAST, checkpoint)
        self._kept_epochs.tidy(history)
        self._write_history()
        for observer in self.observers:
            observer.epoch_ended(record, best, found.samples)

    def _check_skipped(self, record: EpochRecord) -> None:
        """Raise if no update of an epoch was made, at a loss scale that will not change."""
        rule, history = self._rules.loss_scale, self.progress.history
        if rule is None or record.skipped_steps is None or record.loss_scale is None:
            return
        is_fixed = rule.factor == 1 or record.loss_scale <= LEAST_LOSS_SCALE
        if is_fixed and record.skipped_steps == record.step - (history[-1].step if history else 0):
            raise UserError(
                f"all {record.skipped_steps} updates of epoch {record.epoch} were skipped, because gradients "
                f"overflow float16 at the loss scale {record.loss_scale:.0f}",
                "Set a smaller training.loss_scale, or leave it out; or train in another --precision.",
            )

    def _rate(self, step: int) -> float:
        """Return the learning rate of an update of the current epoch."""
        settings = self.configuration.training
        return learning_rate(settings, step, self.training.batches, self.progress.history)

    def _read_losses(self, losses: _Losses, leave: int) -> None:
        if (bad := losses.read(leave)) is not None:
            epoch = len(self.progress.history) + 1
            raise self._divergence_error(f"the loss is {bad} in epoch {epoch}, step {losses.steps_read}")

    def _divergence_error(self, how: str) -> UserError:
        last = self.folder / LAST
        kept = f"The last good checkpoint is kept: {last}" if last.is_file() else "No checkpoint was written"
        settings = self.configuration.training
        rate, half = settings.optimizer.learning_rate, settings.precision == "mixed_float16"
        return UserError(
            f"training diverged: {how}",
            f"{kept}. Lower --learning-rate (now {rate:g}), or set training.clip_norm=1."
            + (" Or take another --precision: a product beyond 65504 is infinite in this one." * half),
        )

    def _checkpoint(self, state: State) -> Checkpoint:
        return Checkpoint(self.configuration, self.data, self.progress, state)

    def _finite_state(self) -> State:
        """Return copies of all arrays, which must be finite."""
        state = self._team.state()
        for array, values in state.items():
            if not np.isfinite(values).all():
                raise self._divergence_error(f"{array} is no longer finite")
        return state

    @functools.cached_property
    def _team(self) -> Team:
        settings = self.configuration.training
        return Team(
            self.model,
            self.plan,
            settings,
            self.training,
            self.validation,
            self.exchange,
            self.engine,
            self.scoring,
        )

    @property
    def _kept_epochs(self) -> KeptEpochs:
        settings = self.configuration.training
        return KeptEpochs(self.folder, settings.average_best, settings.early_stop)

    @functools.cached_property
    def _rules(self) -> TrainingRules:
        return self.configuration.training.rules()

    def _write_history(self) -> None:
        records = [dataclasses.asdict(record) for record in self.progress.history]
        write_text(self.folder / "history.json", json.dumps(records, indent=1) + "\n")

    def _after_scored_batch(self) -> None:
        if self.interrupted():
            raise _InterruptedError
        self._report_batch_scored()

    def _report_batch_scored(self) -> None:
        for observer in self.observers:
            observer.batch_scored()


class _InterruptedError(Exception):
    """Raised to end the scoring of a set early."""


class _Losses:
    """Losses of the current epoch.

    Reading a loss waits for its step to finish, so the newest is read later, when the next step has started.
    """

    def __init__(self, progress: Progress) -> None:
        self._start = progress
        self._pending: list[tuple[SupportsFloat, int]] = []
        self.step = self.steps_read = progress.step
        self.sum, self.images = progress.loss_sum, progress.images
        self.newest = math.nan

    def add(self, loss: SupportsFloat, images: int) -> None:
        self._pending.append((loss, images))

    def read(self, leave: int) -> float | None:
        """Read all but the newest `leave` losses; return the first that is not finite, or None."""
        while len(self._pending) > leave:
            loss, images = self._pending.pop(0)
            self.newest = float(loss)
            self.steps_read += 1
            if not math.isfinite(self.newest):
                return self.newest
            self.sum += self.newest * images
            self.images += images
        return None

    def progress(self) -> Progress:
        return replace(
            self._start,
            step=self.step,
            batch=self._start.batch + self.step - self._start.step,
            loss_sum=self.sum,
            images=self.images,
        )
