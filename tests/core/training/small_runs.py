"""Small training runs on the reference backend, with noise as data and losses from a script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.reference.model import ReferenceModel
from core.backend.contract import Array, DropoutMasks, Model
from core.backend.state import initial_state
from core.backend.training_rules import StepScalars
from core.experiment.checkpoint import LAST, DataFacts, EpochRecord, Progress, load_checkpoint
from core.experiment.configuration import Configuration, parse_configuration
from core.network.lowering import lower
from core.pictures.radiographs import Sample
from core.training.loop import Trainer
from core.training.observers import Observer
from core.training.validation import Summary, ValidationResult, evaluate

HEIGHT, WIDTH, IMAGES, HELD_OUT = 12, 8, 11, 5


class Batch:
    def __init__(self, images: Array, masks: Array) -> None:
        self.images, self.masks = images, masks


class Shuffled:
    """Noise with a bright blob in some images, in an order that depends on the epoch."""

    def __init__(self, images: int, size: int, seed: int, shuffle: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self._x = rng.random((images, HEIGHT, WIDTH, 1)).astype(np.float32)
        self._z = np.zeros(self._x.shape, np.uint8)
        for index in range(0, images, 2):
            row, column = rng.integers(0, HEIGHT - 4), rng.integers(0, WIDTH - 3)
            self._z[index, row : row + 4, column : column + 3] = 1
        self._x = (0.4 * self._x + 0.6 * self._z).astype(np.float32)
        self._size, self._shuffle = size, shuffle
        self.images, self.batches = images, -(-images // size)

    def epoch(self, epoch: int, start: int = 0, every: int = 1) -> Any:
        order = (
            np.random.default_rng(epoch).permutation(self.images) if self._shuffle else np.arange(self.images)
        )
        for number in range(start, self.batches, every):
            chosen = order[number * self._size : (number + 1) * self._size]
            yield Batch(self._x[chosen], self._z[chosen])


def validated(model: Model, batches: Shuffled) -> ValidationResult:
    """Score all batches."""
    summary = Summary()
    for batch in batches.epoch(0):
        summary.add(evaluate(model, batch, 0.5))
    return summary.result()


class Watcher(Observer):
    """Observer that records what it is told and asks for an interruption after a number of batches."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.events: list[Any] = []
        self.records: list[EpochRecord] = []
        self.bests: list[int] = []
        self._left = interrupt_after

    def interrupted(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        return self._left < 0

    def epoch_started(self, epoch: int, done: int, batches: int) -> None:
        self.events.append(("epoch", epoch, done, batches))

    def batch_trained(self, loss: float) -> None:
        self.events.append("trained")

    def scoring_started(self, batches: int) -> None:
        self.events.append(("scoring", batches))

    def batch_scored(self) -> None:
        self.events.append("scored")

    def epoch_ended(self, record: EpochRecord, best: bool, samples: Sequence[Sample]) -> None:
        self.records.append(record)
        if best:
            self.bests.append(record.epoch)


def configured(*overrides: str) -> Configuration:
    blocks = [
        {"name": "down", "kind": "conv", "filters": 3},
        {"name": "mask", "kind": "output"},
    ]
    training = {"epochs": 3, "batch_size": 4, "optimizer": {"learning_rate": 0.02}}
    content = {"network": {"blocks": blocks, "dropout": 0.2}, "training": training}
    return parse_configuration(content, overrides)


def prepared(
    folder: Path,
    configuration: Configuration,
    *,
    validation: bool = True,
    watcher: Watcher | None = None,
    model: ReferenceModel | None = None,
) -> Trainer:
    """Return a trainer that resumes from the folder's checkpoint where there is one."""
    plan, rules = lower(configuration.network, HEIGHT, WIDTH), configuration.training.rules()
    model = model or ReferenceModel(plan, rules, configuration.training.precision)
    progress = Progress()
    if (folder / LAST).exists():
        checkpoint = load_checkpoint(folder / LAST)
        progress = checkpoint.progress
        model.load_state(checkpoint.arrays)
    else:
        folder.mkdir(exist_ok=True)
        model.load_state(initial_state(plan, rules, configuration.training.seed))
    watcher = watcher or Watcher()
    return Trainer(
        model=model,
        plan=plan,
        configuration=configuration,
        data=DataFacts(IMAGES + HELD_OUT, 9, HEIGHT, WIDTH),
        training=Shuffled(IMAGES, configuration.training.batch_size, seed=1),
        validation=Shuffled(
            HELD_OUT if validation else IMAGES, 2, seed=2 if validation else 1, shuffle=False
        ),
        folder=folder,
        held_out=validation,
        observers=(watcher,),
        interrupted=watcher.interrupted,
        progress=progress,
    )


class Scripted(ReferenceModel):
    """The reference model, with losses from a script."""

    validation: tuple[float, ...] = ()
    training: tuple[float, ...] = ()
    calls = 0
    steps = 0

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> float:
        loss = super().train_step(images, masks, scalars, keep)
        self.steps += 1
        return self.training[self.steps - 1] if self.training else loss

    def evaluate(self, images: Array, masks: Array) -> tuple[float, Array]:
        loss, probabilities = super().evaluate(images, masks)
        self.calls += 1
        return (self.validation[(self.calls - 1) // 3] if self.validation else loss), probabilities


def scripted(configuration: Configuration, **losses: tuple[float, ...]) -> Scripted:
    plan = lower(configuration.network, HEIGHT, WIDTH)
    model = Scripted(plan, configuration.training.rules(), configuration.training.precision)
    for name, values in losses.items():
        setattr(model, name, values)
    return model
