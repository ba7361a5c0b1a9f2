"""The choice of who exchanges between workers: MPI on the hosts, or the backend's engine on the devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from core.backend.contract import Backend, DistributedModel, Engine, Model, Workers
from core.base.errors import UserError

Exchanger: TypeAlias = Literal["mpi", "backend"]


@dataclass(frozen=True)
class WorkerDevice:
    """With what a worker computes.

    Args:
        backend: Title and version of its framework.
        has_engine: Whether its model is a `DistributedModel`.
        device: Its device.
        host: Its machine.
    """

    backend: str
    has_engine: bool
    device: str
    host: str

    @classmethod
    def of(cls, backend: Backend, model: Model, device: str, host: str) -> WorkerDevice:
        """Describe a worker by its backend and its model."""
        return cls(f"{backend.title} {backend.version()}", hasattr(model, "connect"), device, host)


def uses_engine(wanted: Exchanger | None, workers: Sequence[WorkerDevice]) -> bool:
    """Tell whether the backend's engine exchanges.

    Args:
        wanted: The user's choice. None: the engine, if all workers have one and compute on GPUs.
        workers: All workers.

    Raises:
        UserError: The engine is wanted, but the workers cannot have it.
    """
    if wanted == "mpi":
        return False
    obstacle = _obstacle(workers)
    if wanted is None:
        return obstacle is None and workers[0].device != "cpu"
    if obstacle is not None:
        raise UserError(f"--exchange backend: {obstacle}", "Use --exchange mpi, which gives the same bits.")
    return True


def connect_model(model: Model, workers: Workers) -> Engine:
    """Return the engine of a model for which `WorkerDevice.has_engine` is true."""
    return cast(DistributedModel, model).connect(workers)


def _obstacle(workers: Sequence[WorkerDevice]) -> str | None:
    """Return why the workers cannot use an engine; None if they can."""
    first = workers[0]
    if not first.has_engine:
        return f"{first.backend} has no exchange of its own"
    places = set()
    for number, worker in enumerate(workers):
        if worker.backend != first.backend:
            return f"worker 0 has {first.backend}, worker {number} {worker.backend}; all need the same"
        if (worker.device == "cpu") != (first.device == "cpu"):
            return f"worker 0 computes on {first.device}, worker {number} on {worker.device}"
        if worker.device != "cpu" and (worker.host, worker.device) in places:
            return f"worker {number} shares {worker.device} of {worker.host}; each needs a GPU of its own"
        places.add((worker.host, worker.device))
    return None
