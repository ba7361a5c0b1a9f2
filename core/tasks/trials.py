"""Trials before a training, which write no model: a rehearsal of each stage, and the range test of rates.

Both train on the real batches, as the training itself does, with one worker.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.backend.devices import choose_device
from core.backend.registry import load_backend
from core.backend.state import SKIPPED_STEPS, initial_state
from core.backend.training_rules import step_scalars
from core.base.errors import UserError
from core.base.system import peak_memory, reset_peak_memory
from core.distribution.exchange import ALONE
from core.parity.trajectory import endless
from core.tasks.prepared_runs import Networks, PreparedRun, prepare_run, start_of
from core.tasks.progress import Watcher
from core.tasks.training_runs import TrainingRuns
from core.training.memory_estimate import estimate_training
from core.training.rate_range import UPDATES, RateRange, find_rates
from core.training.schedules import learning_rate
from core.training.team import Team
from core.training.validation import evaluate
from data.hdf5.store import Store

_WARM_UP, _LEAST, _LEAST_S = 2, 3, 3.0  # updates before the clock starts; then at least so many, and so long


@dataclass(frozen=True)
class StageRehearsal:
    """What one stage of a training will take.

    Args:
        name: "stage 1 of 2"; "" without stages.
        height: Rows of an image.
        width: Columns of an image.
        batch_size: Images in a batch.
        batches: Batches in an epoch.
        epochs: The most epochs.
        seconds_per_update: Time of an update.
        seconds_of_scoring: Time of scoring the held-out images once.
        estimated_bytes: The estimate of a process's memory on a CPU, without the framework's own.
        peak_bytes: The most memory that this process held; None where the system does not tell.
        loss: The loss of the first batch.
    """

    name: str
    height: int
    width: int
    batch_size: int
    batches: int
    epochs: int
    seconds_per_update: float
    seconds_of_scoring: float
    estimated_bytes: int
    peak_bytes: int | None
    loss: float

    @property
    def images_per_second(self) -> float:
        """Training images per second."""
        return self.batch_size / self.seconds_per_update

    @property
    def seconds(self) -> float:
        """The time of all epochs, without an early stop, compilation and what follows the last epoch."""
        return self.epochs * (self.batches * self.seconds_per_update + self.seconds_of_scoring)


def rehearse(
    watcher: Watcher, planned: TrainingRuns, framework: str, data: str, device: str = "auto"
) -> list[StageRehearsal]:
    """Train some batches of each stage, of the first fold; return what the whole training will take.

    Args:
        watcher: Receives the progress.
        planned: The runs.
        framework: The backend's name.
        data: The data file.
        device: As for `core.backend.devices.choose_device`.

    Raises:
        UserError: What `core.tasks.training.train` would raise before it begins.
    """
    found = []
    with _opened(watcher, planned, framework, data, device) as (work, networks, team_of):
        for one in work[: next(n for n, run in enumerate(work, 1) if run.run.is_last_stage)]:
            watcher.say(f"trying {one.run or 'some batches'}")
            reset_peak_memory()
            networks.compile(one)
            found.append(_rehearsed(one, team_of(one)))
    return found


def try_rates(
    watcher: Watcher, planned: TrainingRuns, framework: str, data: str, device: str = "auto"
) -> RateRange:
    """Make the learning-rate range test with the first run; the arguments are those of `rehearse`."""
    with _opened(watcher, planned, framework, data, device) as (work, networks, team_of):
        one = work[0]
        if str(one.run):
            watcher.say(f"with {one.run}")
        networks.compile(one)
        team, rules = team_of(one), one.settings.rules()
        batches = endless(team.epoch)

        def update(number: int, rate: float) -> float:
            done(1)
            decay = one.settings.optimizer.weight_decay
            return float(team.train_step(next(batches), step_scalars(rules, number, rate, decay)))

        with watcher.images("updates", UPDATES) as done:
            found = find_rates(update)
        _check_skipped(team, len(found.rates))
        return found


@contextlib.contextmanager
def _opened(
    watcher: Watcher, planned: TrainingRuns, framework: str, data: str, device: str
) -> Iterator[tuple[list[PreparedRun], Networks, Callable[[PreparedRun], Team]]]:
    with Store.open(Path(data)) as store:
        work = [prepare_run(one, store, ALONE) for one in planned.runs]
        start = start_of(planned, work[0].plan)
        backend, implementation = load_backend(framework)
        chosen = choose_device(device, implementation.list_devices(), backend.title, ALONE.place)
        networks = Networks(backend, implementation, chosen, ALONE, None)
        watcher.say(f"backend: {backend.title} {backend.version()}, device: {chosen}")

        def team_of(one: PreparedRun) -> Team:
            models, batches = networks.models, one.batches.sent_to(chosen)
            team = Team(
                models.model,
                models.plan,
                one.settings,
                batches.training,
                batches.validation,
                scoring=models.scoring,
            )
            given = start.arrays if start is not None and one.run.before is None else None
            team.load_state(initial_state(one.plan, one.settings.rules(), one.settings.seed, given))
            return team

        yield work, networks, team_of


def _rehearsed(one: PreparedRun, team: Team) -> StageRehearsal:
    settings, rules = one.settings, one.settings.rules()
    batches, losses = endless(team.epoch), list[float]()

    def update() -> None:
        step = len(losses) + 1
        rate = learning_rate(settings, step, one.batches.training.batches)
        scalars = step_scalars(rules, step, rate, settings.optimizer.weight_decay)
        losses.append(float(team.train_step(next(batches), scalars)))

    for _ in range(_WARM_UP):
        update()
    began, before = time.perf_counter(), len(losses)
    while len(losses) - before < _LEAST or time.perf_counter() - began < _LEAST_S:
        update()
    per_update = (time.perf_counter() - began) / (len(losses) - before)
    _check_skipped(team, len(losses))
    return StageRehearsal(
        name=str(one.run),
        height=one.facts.height,
        width=one.facts.width,
        batch_size=settings.batch_size,
        batches=one.batches.training.batches,
        epochs=settings.epochs,
        seconds_per_update=per_update,
        seconds_of_scoring=_scoring_time(one, team),
        estimated_bytes=estimate_training(
            one.plan, rules, settings.batch_size, settings.precision, settings.shards
        ).process,
        peak_bytes=peak_memory(),
        loss=losses[0],
    )


def _check_skipped(team: Team, updates: int) -> None:
    """Raise if most updates were skipped, because gradients overflowed: what was tried says nothing then."""
    skipped = int(team.state().get(SKIPPED_STEPS, np.zeros(1))[0])
    if 2 * skipped > updates:
        raise UserError(
            f"{skipped} of {updates} updates were skipped, because gradients overflow float16",
            "Set a smaller training.loss_scale, or train in another --precision.",
        )


def _scoring_time(one: PreparedRun, team: Team) -> float:
    """Return the time of scoring all held-out images, from the second and third batch of them."""
    scored, began, model = 0, time.perf_counter(), team.scorer()
    batches = one.batches.validation
    with contextlib.closing(batches.epoch(0)) as held_out:
        for number, batch in enumerate(itertools.islice(held_out, 3)):
            evaluate(model, batch, one.settings.threshold)
            if number == 0 and batches.batches > 1:
                began = time.perf_counter()  # the first one compiles
            else:
                scored += 1
    return (time.perf_counter() - began) / scored * batches.batches
