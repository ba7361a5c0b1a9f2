"""Runs of one training by different numbers of workers, compared bit by bit.

`compare` starts each run with MPI. A run trains as `train` does, by the same `Team`, and worker 0 records the
loss of each step and a hash of all arrays after it. At the end all workers of one backend must have the same
arrays. Runs of one backend must be equal in every bit. A run whose workers have several backends is compared
by its losses and its last arrays, within the tolerance of float64.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.backend.contract import Engine, Model, State, array_type
from core.backend.devices import choose_device
from core.backend.registry import load_backend
from core.backend.state import by_kind, initial_state
from core.backend.training_rules import step_scalars
from core.base.errors import UserError
from core.distribution.exchange import Exchange
from core.distribution.launch import connect, worker_command
from core.distribution.shards import Shards
from core.experiment.configuration import Configuration, Training
from core.parity.synthetic_batches import SYNTHETIC_SIZE, SyntheticBatch, SyntheticBatches
from core.parity.trajectory import endless
from core.tasks.engines import WorkerDevice, connect_model, uses_engine
from core.tasks.training_batches import RunBatches
from core.tasks.validation_split import facts_of, store_for
from core.tolerance.budget import Budget, budget_floor, largest_share
from core.training.schedules import learning_rate
from core.training.team import Team
from core.training.validation import BatchSource
from data.hdf5.store import Store

_ROOT = Path(__file__).resolve().parents[2]
_LIMIT_S = 600.0  # a framework may compile for long on a loaded machine


@dataclass(frozen=True)
class WorkerRun:
    """One training by some workers.

    Args:
        backends: The backend of each worker.
        losses: The loss before each step.
        digests: SHA-256 of all arrays after each step.
        state: The arrays at the end.
    """

    backends: tuple[str, ...]
    losses: list[float]
    digests: list[str]
    state: State

    def __str__(self) -> str:
        workers = f"{len(self.backends)} worker{'s' if len(self.backends) > 1 else ''}"
        return f"{' + '.join(dict.fromkeys(self.backends))}, {workers}"


@dataclass(frozen=True)
class Comparison:
    """The comparison of a run with the first one whose worker 0 has the same backend.

    Args:
        run: The run.
        first_difference: The first step after which a bit differs; None if none does.
        loss: The largest relative distance of a loss.
        arrays: The largest relative distance of an array at the end.
        holds: Whether the run is as near as it must be: see the module.
    """

    run: WorkerRun
    first_difference: int | None
    loss: float
    arrays: float
    holds: bool


@dataclass(frozen=True)
class _Work:
    configuration: Configuration
    data: Path | None
    steps: int
    device: str


def compare(
    teams: Sequence[tuple[str, ...]],
    configuration: Configuration,
    data: Path | None,
    steps: int,
    after_run: Callable[[], None] = lambda: None,
    device: str = "cpu",
) -> list[Comparison]:
    """Train with each team of workers; compare each with the first whose worker 0 has the same backend.

    Args:
        teams: For each run, the backend of each worker.
        configuration: The settings; `training.shards` is a multiple of the number of workers of each team.
        data: A data file, which is split and read as for training; None for synthetic images.
        steps: Number of updates.
        after_run: Called after each run.
        device: Where the workers compute, as for `core.backend.devices.choose_device`. Workers with GPUs of
            their own exchange by their backend's engine where it has one, as in training; others by MPI.

    Raises:
        UserError: The shards cannot be shared, or a worker has an error.
    """
    settings = configuration.training
    for team in teams:
        Shards(settings.shards, settings.batch_size, len(team))
        if len(set(team)) > 1 and settings.precision != "float64":
            raise UserError(
                f"workers of several backends ({'+'.join(team)}) are compared in float64 only; "
                f"received: {settings.precision}"
            )
    runs = []
    for team in teams:
        runs.append(_run(team, _Work(configuration, data, steps, device)))
        after_run()
    firsts: dict[str, WorkerRun] = {}
    for run in runs:
        firsts.setdefault(run.backends[0], run)
    return [_compared(run, first) for run in runs if run is not (first := firsts[run.backends[0]])]


def _compared(run: WorkerRun, first: WorkerRun) -> Comparison:
    pairs = list(zip(run.digests, first.digests, strict=True))
    different = next((step for step, (a, b) in enumerate(pairs, start=1) if a != b), None)
    losses = np.array(run.losses), np.array(first.losses)
    if different is None and np.array_equal(*losses):
        return Comparison(run, None, 0.0, 0.0, holds=True)
    budget = Budget(lambda kind: budget_floor(kind, "float64"))
    budget.advance({**by_kind(first.state), "loss": {"losses": losses[1]}})
    found = budget.distances({**by_kind(run.state), "loss": {"losses": losses[0]}})
    arrays = [largest_share(found[kind])[1] for kind in found if kind != "loss"]
    of_losses = float(np.max(np.abs(losses[0] - losses[1]) / np.abs(losses[1])))
    near = of_losses <= budget_floor("loss", "float64") and all(one.share <= 1 for one in arrays)
    mixed = len(set(run.backends) | set(first.backends)) > 1
    return Comparison(run, different, of_losses, max(one.value for one in arrays), holds=mixed and near)


def _run(team: tuple[str, ...], work: _Work) -> WorkerRun:
    """Start the workers of a run, and return what worker 0 recorded."""
    with tempfile.TemporaryDirectory() as folder:
        given, recorded = Path(folder) / "work", Path(folder) / "record"
        given.write_bytes(pickle.dumps(work))
        words = [[sys.executable, "-m", __name__, str(given), str(recorded), backend] for backend in team]
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        ended = subprocess.run(
            worker_command(words),
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONPATH": path},  # a checkout need not be installed
        )
        if ended.returncode or not recorded.is_file():
            told = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
            reason = told[0].removeprefix("error: ") if told else ended.stderr.strip()[-2000:]
            raise UserError(f"{' + '.join(team)}: {reason or 'the workers ended without a word'}")
        losses, digests, state = pickle.loads(recorded.read_bytes())  # written by our own process
        return WorkerRun(team, losses, digests, state)


def _main(given: str, recorded: str, backend: str) -> None:
    """Be one worker of a run."""
    with connect(_LIMIT_S, threads=1) as exchange:
        work: _Work = pickle.loads(Path(given).read_bytes())  # written by our own process
        settings, rules = work.configuration.training, work.configuration.training.rules()
        with _batches(work, exchange) as (training, height, width):
            plan = work.configuration.training_plan(height, width)
            descriptor, implementation = load_backend(backend)
            device = choose_device(
                work.device, implementation.list_devices(), descriptor.title, exchange.place
            )
            model = implementation.compile(plan, rules, device, settings.precision)
            computes = WorkerDevice.of(descriptor, model, device, exchange.hosts[exchange.worker])
            team = Team(
                model, plan, settings, training, training, exchange, _engine(model, computes, exchange)
            )
            if exchange.worker > 0:
                team.follow()
                exchange.collect((backend, _digest(model.state())))
                return
            first = initial_state(plan, rules, settings.seed)
            kind = array_type(settings.precision)
            team.load_state({name: array.astype(kind) for name, array in first.items()})
            losses: list[float] = []
            digests: list[str] = []
            for step, batch in zip(range(1, work.steps + 1), endless(team.epoch), strict=False):
                rate = learning_rate(settings, step, training.batches)
                scalars = step_scalars(rules, step, rate, settings.optimizer.weight_decay)
                losses.append(float(team.train_step(batch, scalars)))
                digests.append(_digest(team.state()))
            team.end()
            ends = exchange.collect((backend, digests[-1]))
            if len(set(ends)) > len({name for name, _ in ends}):
                raise UserError("workers of one run, with one backend, have different arrays at its end")
            Path(recorded).write_bytes(pickle.dumps((losses, digests, team.state())))


def _engine(model: Model, computes: WorkerDevice, exchange: Exchange) -> Engine | None:
    """Return the model's engine if the workers exchange by it, as `train` decides; else None."""
    everyone = exchange.collect(computes)
    by_backend = uses_engine(None, everyone) if exchange.worker == 0 else None
    if len(exchange.hosts) > 1:
        by_backend = exchange.command(by_backend)
    if not by_backend:
        return None
    with exchange.together():
        return connect_model(model, exchange)


def _digest(state: State) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(state.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@contextlib.contextmanager
def _batches(work: _Work, exchange: Exchange) -> Iterator[tuple[BatchSource, int, int]]:
    """Yield this worker's rows of the batches, and the images' height and width."""
    settings = work.configuration.training
    if work.data is None:
        whole = SyntheticBatches(*SYNTHETIC_SIZE, settings.batch_size, settings.seed)
        yield _Rows(whole, settings, exchange), *SYNTHETIC_SIZE
        return
    with Store.open(work.data) as file:
        store = store_for(file, settings)
        facts = facts_of(store)
        yield RunBatches.of(store, settings, exchange).training, facts.height, facts.width


class _Rows:
    """Of synthetic batches, the rows of one worker."""

    def __init__(self, whole: SyntheticBatches, settings: Training, exchange: Exchange) -> None:
        self._whole, self._worker = whole, exchange.worker
        self._shards = Shards(settings.shards, settings.batch_size, len(exchange.hosts))
        self.images, self.batches = whole.images, whole.batches

    def epoch(self, epoch: int, start: int = 0, every: int = 1) -> Generator[SyntheticBatch, None, None]:
        """Yield this worker's rows of the batches of an epoch."""
        for batch in self._whole.epoch(epoch, start, every):
            rows = self._shards.rows_of_worker(self._worker, len(batch.images))
            yield SyntheticBatch(batch.images[rows.start : rows.stop], batch.masks[rows.start : rows.stop])


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
