"""The workers that train one network together.

Worker 0 has a `Team`, which the training loop uses like a model, and decides all. The others `follow`: they
get each of its commands and do the same with the same arrays. Each worker has a model, of any backend, and
reads its own shards of each batch and its own batches of the held-out images. A team of one sends nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import SupportsFloat, TypeAlias

from core.backend.contract import Array, Engine, Model, State
from core.backend.trained_part import trained_part
from core.backend.training_rules import StepScalars
from core.base.system import return_freed_memory
from core.distribution.exchange import ALONE, Exchange
from core.distribution.host_engine import HostEngine
from core.distribution.shards import Shards
from core.distribution.step import ShardedUpdate
from core.experiment.configuration import Training
from core.network.plan import Plan
from core.training.validation import (
    BatchSource,
    EvaluatedBatch,
    LabelledBatch,
    Summary,
    ValidationResult,
    evaluate,
)


@dataclass(frozen=True)
class Load:
    """Command: replace the model's arrays."""

    state: Mapping[str, Array]


@dataclass(frozen=True)
class BeginEpoch:
    """Command: read the training batches of an epoch, from batch `start` on."""

    epoch: int
    start: int


@dataclass(frozen=True)
class Step:
    """Command: make an update from the next batch."""

    scalars: StepScalars


@dataclass(frozen=True)
class BeginScoring:
    """Command: read the held-out batches."""


@dataclass(frozen=True)
class Score:
    """Command: score the next held-out batch."""


@dataclass(frozen=True)
class EndRun:
    """Command: the run is over."""


Command: TypeAlias = Load | BeginEpoch | Step | BeginScoring | Score | EndRun


@dataclass(frozen=True)
class SharedBatch:
    """A batch that all workers share.

    Args:
        rows: This worker's images and masks.
        images: Number of images in the whole batch.
    """

    rows: LabelledBatch
    images: int


class Team:
    """All workers of a run, seen from worker 0.

    Args:
        model: The compiled model of this worker.
        plan: The plan that it was compiled from.
        settings: The settings of the run.
        training: The batches to train on; of each batch this worker's rows.
        validation: The batches to score.
        exchange: The connection with the other workers.
        engine: Adds and exchanges the model's derivatives; all workers have the same kind. None: the host's.
        scoring: The same network for the batches to score, if they have images of another size; it takes the
            arrays of `model` before it scores. None: `model` scores too.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        settings: Training,
        training: BatchSource,
        validation: BatchSource,
        exchange: Exchange = ALONE,
        engine: Engine | None = None,
        scoring: Model | None = None,
    ) -> None:
        self._scoring = model if scoring is None else scoring
        self._model, self._training, self._validation = model, training, validation
        self._settings, self._exchange = settings, exchange
        self._workers = len(exchange.hosts)
        self._has_compiled = False
        self._update = ShardedUpdate(
            model,
            plan,
            Shards(settings.shards, settings.batch_size, self._workers),
            engine or HostEngine(model, trained_part(plan, settings.rules()), settings.precision, exchange),
            exchange.worker,
            settings.draws_seed if settings.dropout_masks == "host" else None,
        )

    def state(self) -> State:
        """Return copies of all arrays, which all workers have alike."""
        return self._model.state()

    def scorer(self) -> Model:
        """Return the model that scores and is exported, with the current arrays."""
        if self._scoring is not self._model:
            self._scoring.load_state(self._model.state())
        return self._scoring

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Replace the arrays of all workers."""
        with self._exchange.together():
            self._command(Load(state))
            self._model.load_state(state)

    def epoch(self, epoch: int, start: int = 0) -> Generator[SharedBatch, None, None]:
        """Yield the batches of an epoch without the first `start`."""
        self._command(BeginEpoch(epoch, start))
        yield from self._shared(epoch, start)

    def train_step(self, batch: SharedBatch, scalars: StepScalars) -> SupportsFloat:
        """Make an update from the next batch of `epoch`; return the loss of the whole batch before it."""
        with self._exchange.together():
            self._command(Step(scalars))
            return self._updated(batch, scalars)

    def validate(self, after_batch: Callable[[], None] = lambda: None) -> ValidationResult:
        """Compute the loss, the scores and a few samples of the held-out images.

        Each batch is scored by one worker, and the results are added in the order of the batches. So they are
        those of one worker.
        """
        self._command(BeginScoring())
        self.scorer()
        summary = Summary()
        with contextlib.closing(self._validation.epoch(0, self._exchange.worker, self._workers)) as batches:
            for _ in range(0, self._validation.batches, self._workers):
                with self._exchange.together():
                    self._command(Score())
                    answers = self._exchange.collect(self._scored(batches))
                for found in answers:
                    if found is not None:
                        summary.add(found)
                        after_batch()
        return summary.result()

    def end(self) -> None:
        """End the run for the other workers."""
        self._command(EndRun())

    def follow(self) -> bool:
        """Do what worker 0 commands, until the run is over; return False if the work ended before that."""
        with contextlib.ExitStack() as stack:
            shared: Generator[SharedBatch, None, None] | None = None
            held_out: Generator[LabelledBatch, None, None] | None = None
            while True:
                command: Command | None = self._exchange.command()
                match command:
                    case Load():  # no name that lives on may hold the state
                        self._model.load_state(command.state)
                    case BeginEpoch(epoch, start):
                        stack.close()
                        shared = stack.enter_context(contextlib.closing(self._shared(epoch, start)))
                    case Step(scalars) if shared is not None:
                        float(self._updated(next(shared), scalars))
                    case BeginScoring():
                        stack.close()
                        self.scorer()
                        own = self._validation.epoch(0, self._exchange.worker, self._workers)
                        held_out = stack.enter_context(contextlib.closing(own))
                    case Score() if held_out is not None:
                        self._exchange.collect(self._scored(held_out))
                    case EndRun() | None:
                        return command is not None
                    case _:
                        raise AssertionError(f"{command} out of its order")

    def _updated(self, batch: SharedBatch, scalars: StepScalars) -> SupportsFloat:
        loss = self._update(batch.rows.images, batch.rows.masks, batch.images, scalars)
        if not self._has_compiled:  # the first update compiles, and needs memory for that alone
            self._has_compiled = True
            return_freed_memory()
        return loss

    def _shared(self, epoch: int, start: int) -> Generator[SharedBatch, None, None]:
        size, images = self._settings.batch_size, self._training.images
        for number, rows in enumerate(self._training.epoch(epoch, start), start=start):
            yield SharedBatch(rows, min(size, images - number * size))

    def _scored(self, batches: Generator[LabelledBatch, None, None]) -> EvaluatedBatch | None:
        batch = next(batches, None)
        return None if batch is None else evaluate(self._scoring, batch, self._settings.threshold)

    def _command(self, command: Command) -> None:
        if self._workers > 1:
            self._exchange.command(command)
