"""The steps of a training on a data file, for benchmarks that compute them on several models."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from core.backend.contract import DropoutMasks
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.training_rules import StepScalars, TrainingRules, step_scalars
from core.experiment.configuration import Configuration
from core.network.lowering import lower
from core.network.plan import Plan
from core.parity.trajectory import endless
from core.tasks.training_batches import training_batches
from core.tasks.validation_split import split_of
from core.training.schedules import learning_rate
from core.training.validation import LabelledBatch
from data.hdf5.store import Store


class Step(NamedTuple):
    """What an update takes: a batch, the scalars and the dropout masks."""

    batch: LabelledBatch
    scalars: StepScalars
    keep: DropoutMasks


@contextlib.contextmanager
def opened_training(
    configuration: Configuration, path: Path, count: int
) -> Iterator[tuple[Plan, TrainingRules, Iterator[Step]]]:
    """Yield the network and the rules of a training on a data file, and its first steps."""
    settings = configuration.training
    rules = settings.rules()
    with Store.open(path) as store:
        plan = lower(configuration.network, store.height, store.width)
        loader = training_batches(store, split_of(store, settings).training, settings)

        def steps() -> Iterator[Step]:
            for step, batch in enumerate(itertools.islice(endless(loader.epoch), count), start=1):
                rate = learning_rate(settings, step, loader.batches)
                scalars = step_scalars(rules, step, rate, settings.optimizer.weight_decay)
                yield Step(batch, scalars, draw_dropout_masks(plan, settings.seed, step, len(batch.images)))

        yield plan, rules, steps()
