"""Training by several workers: what the workers other than worker 0 do.

Worker 0 plans the runs, reads and writes all files but the data, and prints. The others get the configuration
from it, compile the network with a backend of their own, and read the data file on their own machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from core.backend.contract import Engine, Model
from core.backend.devices import choose_device
from core.backend.registry import load_backend
from core.base.errors import UserError
from core.distribution.exchange import Exchange
from core.experiment.checkpoint import DataFacts
from core.experiment.configuration import Configuration
from core.tasks.engines import WorkerDevice, connect_model
from core.tasks.training_batches import RunBatches
from core.tasks.training_models import TrainingModels
from core.tasks.validation_split import facts_of, store_for
from core.training.team import Team
from data.hdf5.store import Store


@dataclass(frozen=True)
class Prepare:
    """Command: compile the network of a configuration; the answer is a `Ready`, or the text of an error."""

    configuration: Configuration


@dataclass(frozen=True)
class Connect:
    """Command: exchange by the engine of the prepared network's model."""


@dataclass(frozen=True)
class BeginRun:
    """Command: begin a run of the prepared network."""

    configuration: Configuration


@dataclass(frozen=True)
class Ready:
    """A worker that has compiled the network.

    Args:
        worker: Its number.
        host: Its machine.
        process: Its process number there.
        computes: With what it computes.
        facts: The properties of the data that it reads.
    """

    worker: int
    host: str
    process: int
    computes: WorkerDevice
    facts: DataFacts

    def __str__(self) -> str:
        where = f"on {self.host} (process {self.process})"
        return f"worker {self.worker} {where}: {self.computes.backend}, device: {self.computes.device}"


def prepare_followers(exchange: Exchange, configuration: Configuration, facts: DataFacts) -> list[Ready]:
    """Let all other workers compile the network; return them.

    Raises:
        UserError: One of them cannot, or reads other data; the message names the worker.
    """
    if len(exchange.hosts) == 1:
        return []
    with exchange.together():
        exchange.command(Prepare(configuration))
        answers = exchange.collect(None)[1:]
    ready = []
    for worker, answer in enumerate(answers, start=1):
        where = f"worker {worker} on {exchange.hosts[worker]}"
        if not isinstance(answer, Ready):
            raise UserError(f"{where}: {answer}")
        if answer.facts != facts:
            raise UserError(f"{where} reads other data: {answer.facts}, worker 0 {facts}")
        ready.append(answer)
    return ready


def connect_all(exchange: Exchange, model: Model) -> Engine:
    """Let all workers connect the engines of their models; return that of worker 0.

    Raises:
        UserError: The engines cannot connect.
    """
    with exchange.together():
        if len(exchange.hosts) > 1:
            exchange.command(Connect())
        return connect_model(model, exchange)


def begin_run(exchange: Exchange, configuration: Configuration) -> None:
    """Let all other workers begin a run."""
    if len(exchange.hosts) > 1:
        exchange.command(BeginRun(configuration))


def follow(exchange: Exchange, framework: str, data: str, device: str) -> None:
    """Do what worker 0 commands, until it ends the work.

    Args:
        exchange: The connection with the other workers.
        framework: The backend of this worker.
        data: The data file.
        device: As for `core.backend.devices.choose_device`.
    """
    network: _Network | None = None
    while (command := exchange.command()) is not None:
        match command:
            case Prepare(configuration):
                answer: Ready | str
                if network is not None:
                    network.close()
                network = None  # its memory is needed
                try:
                    network = _Network(exchange, framework, data, device, configuration)
                    answer = network.ready
                except UserError as error:
                    answer = str(error)
                exchange.collect(answer)
            case Connect() if network is not None:
                network.connect()
            case BeginRun(configuration) if network is not None:
                if not network.follow(configuration):
                    return
            case _:
                raise AssertionError(f"{command} out of its order")


class _Network:
    """The compiled network and the data of a worker."""

    def __init__(
        self, exchange: Exchange, framework: str, data: str, device: str, configuration: Configuration
    ) -> None:
        self._exchange = exchange
        self._store = store_for(Store.open(Path(data)), configuration.training)
        facts = facts_of(self._store)
        backend, implementation = load_backend(framework)
        chosen = choose_device(device, implementation.list_devices(), backend.title, exchange.place)
        self._models = TrainingModels.compile(
            implementation, configuration, facts.height, facts.width, chosen
        )
        self._engine: Engine | None = None
        host = exchange.hosts[exchange.worker]
        computes = WorkerDevice.of(backend, self._models.model, chosen, host)
        self.ready = Ready(exchange.worker, host, os.getpid(), computes, facts)

    def close(self) -> None:
        """Close the data file."""
        self._store.close()

    def connect(self) -> None:
        """Exchange by the model's engine."""
        self._engine = connect_model(self._models.model, self._exchange)

    def follow(self, configuration: Configuration) -> bool:
        """Follow worker 0 through a run; return False if the work ended before the run."""
        settings = configuration.training
        batches = RunBatches.of(self._store, settings, self._exchange).sent_to(self.ready.computes.device)
        team = Team(
            self._models.model,
            self._models.plan,
            settings,
            batches.training,
            batches.validation,
            self._exchange,
            self._engine,
            self._models.scoring,
        )
        return team.follow()
