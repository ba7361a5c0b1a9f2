"""An exchange between threads, so that several workers can be tested in one process without MPI."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from core.backend.contract import Array

R = TypeVar("R")


class _Table:
    """A place where all threads put something and then read what all have put."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._cells: list[Any] = [None] * workers
        self._barrier = threading.Barrier(workers, timeout=60)

    def swap(self, worker: int, mine: Any) -> list[Any]:
        self._cells[worker] = mine
        self._barrier.wait()
        found = list(self._cells)
        self._barrier.wait()
        return found

    def abort(self) -> None:
        self._barrier.abort()


@dataclass
class ThreadExchange:
    """`core.distribution.exchange.Exchange` of one thread."""

    worker: int
    table: _Table
    place: int = 0
    sent: int = field(default=0, init=False)
    """Numbers sent to other workers by `scatter` and `join`."""

    @property
    def patience_s(self) -> float:
        return 60.0

    def at_end(self, action: Callable[[], None]) -> None:
        action()

    @property
    def hosts(self) -> Sequence[str]:
        return ["here"] * self.table.workers

    def together(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def command(self, command: Any = None) -> Any:
        return self.table.swap(self.worker, command)[0]

    def collect(self, answer: Any) -> list[Any]:
        found = self.table.swap(self.worker, answer)
        return found if self.worker == 0 else []

    def scatter(self, array: Array, send: Sequence[int], receive: Sequence[int]) -> list[Array]:
        ends = np.cumsum(send)
        parts = [array[end - length : end].copy() for end, length in zip(ends, send, strict=True)]
        self.sent += sum(length for other, length in enumerate(send) if other != self.worker)
        found = [parts_of[self.worker] for parts_of in self.table.swap(self.worker, parts)]
        assert [len(part) for part in found] == list(receive)
        return found

    def join(self, part: Array, lengths: Sequence[int]) -> Array:
        found = self.table.swap(self.worker, part.copy())
        assert [len(one) for one in found] == list(lengths)
        self.sent += len(part) * (len(lengths) - 1)
        return np.concatenate(found)


def run_threads(workers: int, work: Callable[[ThreadExchange], R]) -> list[R]:
    """Run `work` in a thread for each worker; return the results by worker."""
    table = _Table(workers)

    def run(worker: int) -> R:
        try:
            return work(ThreadExchange(worker, table))
        except BaseException:
            table.abort()
            raise

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, range(workers)))
