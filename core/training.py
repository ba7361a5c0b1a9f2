"""The training loop: written once, for every backend.

Promises: a run is decided by its configuration, the data and the seed. Interrupted at any step and
resumed it makes the same updates as if it had not been. After every epoch the held-out images are
scored, the checkpoint is written, and the best one is kept beside it. A loss that is not finite stops
the run before anything is written.

In the folder of the model:

    last.safetensors    the newest checkpoint          best.safetensors    the best by the monitored score
    history.json        one record an epoch            export/             the framework's own format
    predictions.png     some scored images with truth and prediction
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from core.checkpoint import Checkpoint, DataFacts, EpochRecord, Progress, load_checkpoint, save_checkpoint
from core.configuration import Configuration
from core.contract import Model
from core.dropout import draw_keep_masks
from core.errors import UserError
from core.files import replacing, write_bytes, write_text
from core.metrics import Scores, dice_per_image, summarise
from core.pictures import Sample, draw_sheet
from core.plan import Plan
from core.rules import step_scalars

LAST, BEST = "last.safetensors", "best.safetensors"
_POSITIVE_SAMPLES, _NEGATIVE_SAMPLES = 4, 2


class Batch(Protocol):
    """Images (n, H, W, 1) in [0, 1] and masks (n, H, W, 1) in {0, 1}."""

    @property
    def images(self) -> NDArray[np.float32]:
        """The images."""
        ...

    @property
    def masks(self) -> NDArray[np.uint8]:
        """The masks."""
        ...


class Batches(Protocol):
    """A set of images in batches, in an order that depends on the epoch alone."""

    @property
    def images(self) -> int:
        """Images in an epoch."""
        ...

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
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

    def epoch_ended(self, record: EpochRecord, best: bool, samples: Sequence[Sample]) -> None:
        """The epoch is scored and its checkpoint written."""


@dataclass(frozen=True)
class Evaluation:
    """What scoring a set of images gave."""

    loss: float
    scores: Scores
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Outcome:
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
        validation: Batches to score; None scores the training images, in whatever order they come.
        folder: Where the model is written.
        observers: Told of everything that happens.
        interrupted: Asked after each batch; True stops the run after writing a checkpoint.
        progress: How far the run has come.
    """

    model: Model
    plan: Plan
    configuration: Configuration
    data: DataFacts
    training: Batches
    validation: Batches | None
    folder: Path
    observers: Sequence[Observer] = ()
    interrupted: Callable[[], bool] = lambda: False
    progress: Progress = field(default_factory=Progress)

    def run(self) -> Outcome:
        """Train until the last epoch, the early stop, or an interruption."""
        settings = self.configuration.training
        if self.progress.history:  # a run killed before it was written, or continued in another folder
            self._write_history()
        while len(self.progress.history) < settings.epochs:
            if self._is_stale():
                return Outcome("early stop", self.progress)
            evaluation = self._score() if self._train_epoch() else None
            if evaluation is None:
                self._save(LAST)
                return Outcome("interrupted", self.progress)
            self._finish_epoch(evaluation)
        return Outcome("finished", self.progress)

    def finish(self) -> Evaluation | None:
        """Export the best model and draw what it predicts; None when no epoch was finished."""
        if not (self.folder / BEST).is_file():
            return None
        self.model.load_state(load_checkpoint(self.folder / BEST).arrays)
        with replacing(self.folder / "export") as partial:
            partial.mkdir()
            self.model.export(partial)
        evaluation = evaluate(self.model, self._scored(), self.configuration.training.threshold)
        sheet = draw_sheet(evaluation.samples, self.configuration.training.threshold)
        write_bytes(self.folder / "predictions.png", sheet)
        return evaluation

    def _train_epoch(self) -> bool:
        """Do the rest of the epoch under way; False when interrupted before its end."""
        epoch, settings = len(self.progress.history) + 1, self.configuration.training
        for observer in self.observers:
            observer.epoch_started(epoch, self.progress.batch, self.training.batches)
        losses, optimizer = _Losses(self.progress), settings.rules().optimizer
        began = time.perf_counter() - self.progress.seconds
        for batch in self.training.epoch(epoch, start=self.progress.batch):
            losses.step += 1
            rate, decay = settings.optimizer.learning_rate, settings.optimizer.weight_decay
            scalars = step_scalars(optimizer, losses.step, rate, decay)
            keep = None
            if settings.dropout_masks == "host":
                keep = draw_keep_masks(self.plan, settings.seed, losses.step, len(batch.images))
            losses.add(self.model.train_step(batch.images, batch.masks, scalars, keep), len(batch.images))
            self._settle(losses, leave=1)
            for observer in self.observers:
                observer.batch_trained(losses.newest)
            if self.interrupted():
                break
        self._settle(losses, leave=0)
        self.progress = replace(losses.progress(), seconds=time.perf_counter() - began)
        return self.progress.batch == self.training.batches and not self.interrupted()

    def _score(self) -> Evaluation | None:
        """Score the held-out images; None when interrupted."""
        for observer in self.observers:
            observer.scoring_started(self._scored().batches)
        try:
            evaluation = evaluate(
                self.model, self._scored(), self.configuration.training.threshold, self._on_scored
            )
        except _InterruptedError:
            return None
        if not math.isfinite(evaluation.loss):
            raise self._diverged(f"the loss is {evaluation.loss} on the scored images")
        return evaluation

    def _finish_epoch(self, evaluation: Evaluation) -> None:
        scores, progress = evaluation.scores, self.progress
        record = EpochRecord(
            epoch=len(progress.history) + 1,
            loss=progress.loss_sum / progress.images,
            validation_loss=evaluation.loss,
            dice=scores.dice,
            dice_all_empty=scores.dice_all_empty,
            dice_positive=scores.dice_positive,
            learning_rate=self.configuration.training.optimizer.learning_rate,
            images_per_second=progress.images / progress.seconds,
            scored_on="training" if self.validation is None else "validation",
            step=progress.step,
        )
        self.progress = Progress(step=progress.step, history=(*progress.history, record))
        best = self._best_epoch() == record.epoch
        self._save(*([BEST] if best else []), LAST)
        self._write_history()
        for observer in self.observers:
            observer.epoch_ended(record, best, evaluation.samples)

    def _best_epoch(self) -> int:
        """The first epoch that no later one beats by more than `min_delta`; 0 before the first."""
        monitor, best, value = self.configuration.training.early_stop, 0, math.inf
        for record in self.progress.history:
            score = getattr(record, monitor.monitor)
            lower = score if monitor.monitor == "validation_loss" else -(score or 0.0)
            if lower < value - monitor.min_delta or best == 0:
                best, value = record.epoch, lower
        return best

    def _is_stale(self) -> bool:
        stop = self.configuration.training.early_stop
        return stop.enabled and len(self.progress.history) - self._best_epoch() >= stop.patience

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

    def _save(self, *names: str) -> None:
        state = self.model.state()
        for array, values in state.items():
            if not np.isfinite(values).all():
                raise self._diverged(f"{array} is no longer finite")
        checkpoint = Checkpoint(self.configuration, self.data, self.progress, state)
        for name in names:
            save_checkpoint(self.folder / name, checkpoint)

    def _write_history(self) -> None:
        records = [dataclasses.asdict(record) for record in self.progress.history]
        write_text(self.folder / "history.json", json.dumps(records, indent=1) + "\n")

    def _scored(self) -> Batches:
        return self.training if self.validation is None else self.validation

    def _on_scored(self) -> None:
        if self.interrupted():
            raise _InterruptedError
        for observer in self.observers:
            observer.batch_scored()


def evaluate(
    model: Model, batches: Batches, threshold: float, after_batch: Callable[[], None] = lambda: None
) -> Evaluation:
    """Loss (mean over images), scores and a few samples of a set of images."""
    dice: list[NDArray[np.float64]] = []
    positive: list[NDArray[np.bool_]] = []
    samples: dict[bool, list[Sample]] = {True: [], False: []}
    loss_sum = 0.0
    for batch in batches.epoch(0):
        loss, probabilities = model.evaluate(batch.images, batch.masks)
        loss_sum += float(loss) * len(batch.images)
        dice.append(dice_per_image(probabilities >= threshold, batch.masks))
        positive.append(batch.masks.any(axis=(1, 2, 3)))
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
    return Evaluation(
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
