"""The training loop: written once, for every backend.

Promises: a run is decided by its configuration, the data and the seed. Interrupted at any step and
resumed it makes the same updates as if it had not been. After every epoch the held-out images are
scored, the checkpoint is written, and the best one is kept beside it. A loss that is not finite stops
the run before anything is written.

In the folder of the model:

    last.safetensors        the newest checkpoint
    best.safetensors        the best by the monitored score
    averaged.safetensors    the average of the best few, if that is better: see
    `core.training.weight_averaging` history.json            one record an epoch export/                 the
    best, or the average, in the framework's own format predictions.png         some scored images with truth
    and its prediction
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Model
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.training_rules import OptimizerRule, step_scalars
from core.base.errors import UserError
from core.base.packages import explain_missing
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
from core.pictures.radiographs import Sample, draw_sheet
from core.prediction.exports import EXPORT, export_metadata, write_metadata
from core.scoring.metrics import Scores, dice_per_image, summarise
from core.training.best_epoch import best_epoch, monitored_score, should_stop
from core.training.schedules import learning_rate
from core.training.weight_averaging import KeptEpochs, WeightAverage, average_kept_epochs

_POSITIVE_SAMPLES, _NEGATIVE_SAMPLES = 4, 2


class LabelledBatch(Protocol):
    """Images (n, H, W, 1) in [0, 1] and masks (n, H, W, 1) in {0, 1}."""

    @property
    def images(self) -> NDArray[np.float32]:
        """The images."""
        ...

    @property
    def masks(self) -> NDArray[np.uint8]:
        """The masks."""
        ...


class BatchSource(Protocol):
    """A set of images in batches, in an order that depends on the epoch alone."""

    @property
    def images(self) -> int:
        """Images in an epoch."""
        ...

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Generator[LabelledBatch, None, None]:
        """The batches of an epoch without the first `start`."""
        ...


class Observer:
    """Watches a run; every method does nothing unless a subclass says otherwise."""

    def epoch_started(self, epoch: int, done: int, batches: int) -> None:
        """Epoch `epoch` begins (or goes on) with `done` of its `batches` batches done."""

    def batch_trained(self, loss: float) -> None:
        """One more batch is done; `loss` is the newest that is known."""

    def scoring_started(self, batches: int) -> None:
        """Training of the epoch is over; `batches` batches will be scored."""

    def batch_scored(self) -> None:
        """One more batch is scored."""

    def averaging_started(self, batches: int) -> None:
        """The statistics of averaged weights will be taken of `batches` batches, as if they were scored."""

    def export_left_out(self, missing: UserError) -> None:
        """No export was written, for want of a package."""

    def averaged(self, average: WeightAverage) -> None:
        """The best epochs were averaged and the average scored."""

    def epoch_ended(self, record: EpochRecord, best: bool, samples: Sequence[Sample]) -> None:
        """The epoch is scored and its checkpoint written."""


@dataclass(frozen=True)
class ValidationResult:
    """What scoring a set of images gave."""

    loss: float
    scores: Scores
    samples: tuple[Sample, ...]

    @property
    def validation_loss(self) -> float:
        """The loss, by the name that it has in a record."""
        return self.loss

    @property
    def dice(self) -> float:
        """Of all images."""
        return self.scores.dice

    @property
    def dice_positive(self) -> float | None:
        """Of the positive images; None where there are none."""
        return self.scores.dice_positive


@dataclass(frozen=True)
class TrainingOutcome:
    """How a run ended."""

    reason: Literal["finished", "early stop", "interrupted"]
    progress: Progress


@dataclass
class Trainer:
    """One run.

    Args:
        model: Compiled; its state is that of `progress`.
        plan: What it was compiled from.
        configuration: The run's settings.
        data: What the run depends on of the data.
        training: Batches to learn from.
        validation: Batches to score.
        folder: Where the model is written.
        held_out: False says that `validation` holds the training images, as nothing was held out.
        observers: Told of everything that happens.
        interrupted: Asked after each batch; True stops the run after writing a checkpoint.
        progress: How far the run has come.
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
                save_checkpoint(self.folder / LAST, self._checkpoint())
                return TrainingOutcome("interrupted", self.progress)
            self._finish_epoch(found)
        return TrainingOutcome("finished", self.progress)

    def finish(self) -> ValidationResult | None:
        """Export what predicts best and draw what it predicts; None when no epoch was finished.

        That is the best epoch's model, or the average of the best few if it is better.
        """
        if not (self.folder / BEST).is_file():
            return None
        self._average()
        chosen = AVERAGED if (self.folder / AVERAGED).is_file() else BEST
        checkpoint = load_checkpoint(self.folder / chosen)
        self.model.load_state(checkpoint.arrays)
        self._export(checkpoint, self.folder / chosen)
        found = self._validate(self._tell_scored)
        sheet = draw_sheet(found.samples, self.configuration.training.threshold)
        write_bytes(self.folder / "predictions.png", sheet)
        return found

    def _export(self, checkpoint: Checkpoint, path: Path) -> None:
        """Write what the model predicts; a package that only this needs costs no training."""
        try:
            with replacing(self.folder / EXPORT) as partial:
                partial.mkdir()
                metadata = export_metadata(checkpoint, path, None)
                self.model.export(partial, metadata)
                write_metadata(partial, metadata)
        except ModuleNotFoundError as error:
            if (missing := explain_missing(error, "the export")) is None:
                raise
            shutil.rmtree(self.folder / EXPORT, ignore_errors=True)  # an earlier one is of another model
            for observer in self.observers:
                observer.export_left_out(missing)

    def _average(self) -> None:
        """Write the average of the kept epochs if nothing is better; then they are needed no more."""
        stop, history = self.configuration.training.early_stop, self.progress.history

        def score() -> float:
            return monitored_score(self._validate(self._tell_scored), stop)

        if len(self._kept.epochs(history)) > 1:
            to_beat = monitored_score(history[best_epoch(history, stop) - 1], stop)
            if (self.folder / AVERAGED).is_file():  # of this run before it was resumed for longer
                self.model.load_state(load_checkpoint(self.folder / AVERAGED).arrays)
                to_beat = min(to_beat, score())
            average = average_kept_epochs(
                self._kept, history, self.model, self.plan, to_beat, self._updates_of_size_0, score
            )
            if average.is_better:
                checkpoint = Checkpoint(self.configuration, self.data, self.progress, average.state)
                save_checkpoint(self.folder / AVERAGED, checkpoint)
            for observer in self.observers:
                observer.averaged(average)
        self._kept.clear()

    def _updates_of_size_0(self) -> Iterator[Callable[[], int]]:
        """One more epoch's updates, which move nothing but running statistics and moments."""
        for observer in self.observers:
            observer.averaging_started(self.training.batches)
        batches = self.training.epoch(len(self.progress.history) + 1)
        for step, batch in enumerate(batches, start=self.progress.step + 1):

            def update(batch: LabelledBatch = batch, step: int = step) -> int:
                float(self._train_step(batch, step, 0.0, 0.0))
                self._tell_scored()
                return len(batch.images)

            yield update

    def _train_epoch(self) -> bool:
        """Do the rest of the epoch under way; False when interrupted before its end."""
        epoch, settings = len(self.progress.history) + 1, self.configuration.training
        for observer in self.observers:
            observer.epoch_started(epoch, self.progress.batch, self.training.batches)
        losses, decay = _Losses(self.progress), settings.optimizer.weight_decay
        began = time.perf_counter() - self.progress.seconds
        for batch in self.training.epoch(epoch, start=self.progress.batch):
            losses.step += 1
            loss = self._train_step(batch, losses.step, self._rate(losses.step), decay)
            losses.add(loss, len(batch.images))
            self._settle(losses, leave=1)
            for observer in self.observers:
                observer.batch_trained(losses.newest)
            if self.interrupted():
                break
        self._settle(losses, leave=0)
        self.progress = replace(losses.progress(), seconds=time.perf_counter() - began)
        return self.progress.batch == self.training.batches and not self.interrupted()

    def _train_step(self, batch: LabelledBatch, step: int, rate: float, decay: float) -> SupportsFloat:
        """One update, and the loss before it."""
        settings = self.configuration.training
        scalars = step_scalars(self._optimizer, step, rate, decay)
        keep = None
        if settings.dropout_masks == "host":
            keep = draw_dropout_masks(self.plan, settings.seed, step, len(batch.images))
        return self.model.train_step(batch.images, batch.masks, scalars, keep)

    def _validate(self, after_batch: Callable[[], None]) -> ValidationResult:
        for observer in self.observers:
            observer.scoring_started(self.validation.batches)
        return validate(self.model, self.validation, self.configuration.training.threshold, after_batch)

    def _score(self) -> ValidationResult | None:
        """Score the held-out images; None when interrupted."""
        try:
            found = self._validate(self._on_scored)
        except _InterruptedError:
            return None
        if not math.isfinite(found.loss):
            raise self._diverged(f"the loss is {found.loss} on the scored images")
        return found

    def _finish_epoch(self, found: ValidationResult) -> None:
        scores, progress = found.scores, self.progress
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
        )
        self.progress = Progress(step=progress.step, history=(*progress.history, record))
        history = self.progress.history
        best = best_epoch(history, self.configuration.training.early_stop) == record.epoch
        checkpoint = self._checkpoint()
        self._kept.keep(checkpoint, self.plan)
        if best:
            save_checkpoint(self.folder / BEST, checkpoint)
            (self.folder / AVERAGED).unlink(missing_ok=True)  # it was better than another one
        save_checkpoint(self.folder / LAST, checkpoint)
        self._kept.tidy(history)
        self._write_history()
        for observer in self.observers:
            observer.epoch_ended(record, best, found.samples)

    def _rate(self, step: int) -> float:
        """The learning rate of an update of the epoch under way."""
        settings = self.configuration.training
        return learning_rate(settings, step, self.training.batches, self.progress.history)

    def _settle(self, losses: _Losses, leave: int) -> None:
        if (bad := losses.settle(leave)) is not None:
            epoch = len(self.progress.history) + 1
            raise self._diverged(f"the loss is {bad} in epoch {epoch}, step {losses.settled}")

    def _diverged(self, how: str) -> UserError:
        last = self.folder / LAST
        kept = f"The last good checkpoint is kept: {last}" if last.is_file() else "No checkpoint was written"
        rate = self.configuration.training.optimizer.learning_rate
        return UserError(
            f"training diverged: {how}",
            f"{kept}. Lower --learning-rate (now {rate:g}), or set training.clip_norm=1.",
        )

    def _checkpoint(self) -> Checkpoint:
        """The run as it stands."""
        state = self.model.state()
        for array, values in state.items():
            if not np.isfinite(values).all():
                raise self._diverged(f"{array} is no longer finite")
        return Checkpoint(self.configuration, self.data, self.progress, state)

    @property
    def _kept(self) -> KeptEpochs:
        settings = self.configuration.training
        return KeptEpochs(self.folder, settings.average_best, settings.early_stop)

    @functools.cached_property
    def _optimizer(self) -> OptimizerRule:
        return self.configuration.training.rules().optimizer

    def _write_history(self) -> None:
        records = [dataclasses.asdict(record) for record in self.progress.history]
        write_text(self.folder / "history.json", json.dumps(records, indent=1) + "\n")

    def _on_scored(self) -> None:
        if self.interrupted():
            raise _InterruptedError
        self._tell_scored()

    def _tell_scored(self) -> None:
        for observer in self.observers:
            observer.batch_scored()


def validate(
    model: Model, batches: BatchSource, threshold: float, after_batch: Callable[[], None] = lambda: None
) -> ValidationResult:
    """Loss (mean over images), scores and a few samples of a set of images."""
    dice: list[NDArray[np.float64]] = []
    positive: list[NDArray[np.bool_]] = []
    samples: dict[bool, list[Sample]] = {True: [], False: []}
    loss_sum = 0.0
    for batch in batches.epoch(0):
        loss, probabilities = model.evaluate(batch.images, batch.masks)
        loss_sum += float(loss) * len(batch.images)
        dice.append(dice_per_image(probabilities >= threshold, batch.masks))
        positive.append(np.asarray(batch.masks.any(axis=(1, 2, 3))))
        for index, is_positive in enumerate(positive[-1]):
            wanted = _POSITIVE_SAMPLES if is_positive else _NEGATIVE_SAMPLES
            if len(samples[bool(is_positive)]) < wanted:
                samples[bool(is_positive)].append(
                    Sample(
                        image=batch.images[index, ..., 0],
                        truth=batch.masks[index, ..., 0],
                        probability=probabilities[index, ..., 0],
                        dice=float(dice[-1][index]),
                    )
                )
        after_batch()
    return ValidationResult(
        loss_sum / batches.images,
        summarise(np.concatenate(dice), np.concatenate(positive)),
        (*samples[True], *samples[False]),
    )


class _InterruptedError(Exception):
    """Leaves the scoring of a set before its end."""


class _Losses:
    """Losses of the epoch under way; reading one waits for its step, so the newest is left for later."""

    def __init__(self, progress: Progress) -> None:
        self._start = progress
        self._pending: list[tuple[SupportsFloat, int]] = []
        self.step = self.settled = progress.step
        self.sum, self.images = progress.loss_sum, progress.images
        self.newest = math.nan

    def add(self, loss: SupportsFloat, images: int) -> None:
        self._pending.append((loss, images))

    def settle(self, leave: int) -> float | None:
        """Wait for all but the newest `leave` losses; gives the first that is not finite."""
        while len(self._pending) > leave:
            loss, images = self._pending.pop(0)
            self.newest = float(loss)
            self.settled += 1
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
