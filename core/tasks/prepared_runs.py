"""What a planned run needs before it can train: its data, the plan of its network, the compiled network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.backend.contract import Backend, Engine, Implementation, State
from core.backend.state import initial_state
from core.base.errors import UserError
from core.distribution.exchange import Exchange
from core.experiment.checkpoint import DataFacts, Progress, check_continuation
from core.experiment.configuration import Training
from core.network.plan import Plan
from core.tasks.engines import Exchanger, WorkerDevice, uses_engine
from core.tasks.followers import Ready, connect_all, prepare_followers
from core.tasks.training_batches import RunBatches
from core.tasks.training_models import TrainingModels
from core.tasks.training_runs import TrainingRun, TrainingRuns
from core.tasks.validation_split import facts_of, store_for
from core.weights.start_files import StartFile, load_start
from data.hdf5.store import Store


@dataclass(frozen=True)
class PreparedRun:
    """A run, with the data that it reads and the plan of its network.

    Args:
        run: The run.
        store: The data file, at the size of the run's images.
        facts: The properties of the data that the run depends on.
        plan: The plan that is trained, for crops if there are any.
        batches: The batches of this worker.
    """

    run: TrainingRun
    store: Store
    facts: DataFacts
    plan: Plan
    batches: RunBatches

    @property
    def settings(self) -> Training:
        """The settings of the run."""
        return self.run.configuration.training


def prepare_run(one: TrainingRun, store: Store, exchange: Exchange) -> PreparedRun:
    """Return a run with its data.

    Raises:
        UserError: They do not fit each other.
    """
    settings = one.configuration.training
    try:
        reduced = store_for(store, settings)
        facts = facts_of(reduced)
        if (checkpoint := one.checkpoint()) is not None:
            check_continuation(checkpoint, one.configuration, facts)
        plan = one.configuration.training_plan(reduced.height, reduced.width)
        return PreparedRun(one, reduced, facts, plan, RunBatches.of(reduced, settings, exchange))
    except UserError as error:
        if settings.stage is None:
            raise
        raise UserError(f"stage {settings.stage}: {error.message}", error.hint) from error


class Networks:
    """The compiled network of the current run, on all workers.

    Args:
        backend: The backend of this worker.
        implementation: Its implementation.
        device: The device of this worker.
        exchange: The connection with the other workers.
        exchanger: Who exchanges between workers: see `core.tasks.engines`.

    Attributes:
        models: The compiled models.
        engine: The engine of the model that is trained, if it exchanges.
    """

    models: TrainingModels
    engine: Engine | None

    def __init__(
        self,
        backend: Backend,
        implementation: Implementation,
        device: str,
        exchange: Exchange,
        exchanger: Exchanger | None,
    ) -> None:
        self.implementation, self.device, self.exchange = implementation, device, exchange
        self._backend, self._exchanger = backend, exchanger
        self._compiled: tuple[Any, ...] | None = None

    def compile(self, one: PreparedRun) -> list[Ready]:
        """Compile the network of a run, if it is not that of the run before; return the other workers."""
        size = one.store.height, one.store.width
        compiled = size, one.plan, one.settings.rules(), one.settings.precision
        if compiled == self._compiled:
            return []
        if self._compiled is not None:
            del self.models, self.engine  # their memory is needed
        self._compiled = compiled
        self.models = TrainingModels.compile(self.implementation, one.run.configuration, *size, self.device)
        others = prepare_followers(self.exchange, one.run.configuration, one.facts)
        own = WorkerDevice.of(self._backend, self.models.model, self.device, self.exchange.hosts[0])
        by_backend = uses_engine(self._exchanger, [own, *(other.computes for other in others)])
        self.engine = connect_all(self.exchange, self.models.model) if by_backend else None
        return others


def start_of(planned: TrainingRuns, plan: Plan) -> StartFile | None:
    """Return the weights that new runs begin with; None where all begin at random or are resumed."""
    settings = planned.runs[0].configuration.training
    beginning = [one for one in planned.runs if one.before is None]
    if settings.start_from is None or all(one.source is not None for one in beginning):
        return None
    return load_start(Path(settings.start_from), plan)


def beginning(one: PreparedRun, start: StartFile | None) -> tuple[State, Progress]:
    """Return the state and progress that a new run begins with.

    Args:
        one: The run.
        start: The weights that the first stage begins with; None for random ones.
    """
    settings = one.settings
    found = start if one.run.before is None else load_start(one.run.before, one.plan)
    given, began = (None, None) if found is None else (found.arrays, found.start)
    return dict(initial_state(one.plan, settings.rules(), settings.seed, given)), Progress(start=began)
