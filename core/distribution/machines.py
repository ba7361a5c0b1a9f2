"""One loop of work over several machines, with results in order and bounded memory.

Each MPI worker stands for a machine: it has processes of its own. Worker 0 has a `Machines`, whose
`map_in_order` does what `core.processes.pool.map_in_order` does and gives the same results. The items are
given out in batches, to each machine as it becomes free. Worker 0 has processes too. The others `serve`: they
print nothing and decide nothing, and only their processes write. A process that dies costs what it costs on
one machine. If a whole machine is lost, and MPI survives it (`core.distribution.mpi`), the others do what it
had not finished. Several loops may run at once, one of them giving items to the next.

While they wait, workers sleep for short times, because MPI's own waiting keeps a core busy.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

from core.distribution.exchange import Lost, Messages
from core.processes.pool import OpenPool, Outcome, closing_generator, in_batches

Item = TypeVar("Item")
Result = TypeVar("Result")

_GIVEN = 2  # batches that a machine has for each slot: one in work, one that waits
_AHEAD = 3  # batches for each slot of all machines, whose results are not yet yielded
_SHORTEST_S, _LONGEST_S = 0.0005, 0.01  # of sleeping


class Opened(Protocol):
    """What a machine does a loop's work with."""

    def submit(self, number: int, items: Sequence[Any]) -> None:
        """Take a batch of items, without waiting for its results."""
        ...

    def finished(self) -> Mapping[int, Outcome]:
        """Return the outcomes that are there by now, by the numbers of their batches."""
        ...

    def close(self) -> None:
        """End, also if not all batches are done."""
        ...


class Work(Protocol):
    """A loop's work, which each machine opens. It is sent to them."""

    def slots(self, processes: int) -> int:
        """Return how many batches a machine with so many processes works on at a time."""
        ...

    def open(self, processes: int, place: int) -> Opened:
        """Prepare the work on this machine.

        Args:
            processes: Number of processes of this worker.
            place: The number of this worker among those of its machine, from 0.
        """
        ...


@dataclass(frozen=True)
class _Calls:
    """Work: calls of a function in processes; see `core.processes.pool.map_in_order`."""

    function: Callable[[Any], Any]
    on_crash: Callable[[Any], Any]
    prepare: Callable[..., None] | None
    arguments: tuple[Any, ...]

    def slots(self, processes: int) -> int:
        return processes

    def open(self, processes: int, place: int) -> Opened:
        del place
        return OpenPool(
            self.function,
            workers=processes,
            on_crash=self.on_crash,
            prepare=self.prepare,
            arguments=self.arguments,
        )


@dataclass(frozen=True)
class _Begin:
    """Command: open the work of a loop."""

    loop: int
    work: Work


@dataclass(frozen=True)
class _Give:
    """Command: do a batch of a loop."""

    loop: int
    number: int
    items: Sequence[Any]


@dataclass(frozen=True)
class _End:
    """Command: close the work of a loop; the answer is the same."""

    loop: int


@dataclass(frozen=True)
class _Leave:
    """Command: close all work and serve no more; the answer is the same."""


@dataclass(frozen=True)
class _Done:
    """Answer: the outcome of a batch."""

    loop: int
    number: int
    outcome: Outcome


class Machines:
    """All machines, seen from worker 0. As a context manager it ends the service of the others.

    Args:
        messages: The connection with the other workers.
        processes: The number of processes of each worker.
    """

    def __init__(self, messages: Messages, processes: Sequence[int]) -> None:
        self._messages, self._processes = messages, processes
        self._others = set(range(1, len(processes)))
        self._numbers, self._loops = itertools.count(), dict[int, _Loop]()
        self._left, self._pause = set[int](), _Pause()

    def __enter__(self) -> Machines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for loop in self._loops.values():
            self._end(loop)
        self._loops.clear()
        self._tell(_Leave())
        while not self._left >= self._others:  # all that was sent has then arrived
            self._go_on()

    @property
    def place(self) -> int:
        """The number of worker 0 among those of its machine."""
        return self._messages.place

    def map_in_order(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        workers: int,
        on_crash: Callable[[Item], Result],
        prepare: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
    ) -> Generator[Result, None, None]:
        """Apply a function to each item in processes of all machines; see `core.processes.pool.map_in_order`.

        Args:
            function: See there.
            items: See there. They are sent to other machines, as the results are.
            workers: Number of processes of this machine; each of the others has its own number.
            on_crash: See there, but it is called on the machine where the process died.
            prepare: See there.
            arguments: See there.

        Yields:
            The results, in the order of the items.
        """
        processes = [workers, *self._processes[1:]]
        return self._spread(_Calls(function, on_crash, prepare, arguments), items, processes)

    def spread(self, work: Work, items: Iterable[Any]) -> Generator[Any, None, None]:
        """Do some work with each item.

        Args:
            work: The work.
            items: Its items. They are taken one by one, a few ahead of the results. A generator is closed
                when the results end or are closed.

        Yields:
            The results, in the order of the items.
        """
        return self._spread(work, items, self._processes)

    def _spread(
        self, work: Work, items: Iterable[Any], processes: Sequence[int]
    ) -> Generator[Any, None, None]:
        number = next(self._numbers)
        self._tell(_Begin(number, work))
        with closing_generator(items) as waiting:
            loop = _Loop(number, work, waiting, processes, self._others, self._messages)
            self._loops[number] = loop
            try:
                while loop.give():
                    while (outcome := loop.take()) is None:
                        self._go_on()
                        loop.give()
                    results, error = outcome
                    yield from results
                    if error is not None:
                        raise error
                self._end(loop)
                while not loop.ended >= self._others:  # then they have closed their files
                    self._go_on()
            finally:
                self._end(loop)
                self._loops.pop(number, None)

    def _end(self, loop: _Loop) -> None:
        """End a loop on all machines, unless that was done before."""
        if not loop.closed:
            loop.closed = True
            loop.own.close()
            self._tell(_End(loop.number))

    def _tell(self, command: _Begin | _End | _Leave) -> None:
        for other in self._others:
            self._messages.send(command, other)

    def _go_on(self) -> None:
        """Take what is there from all machines, or sleep for a short time."""
        idle = True
        for loop in self._loops.values():
            for number, outcome in ({} if loop.closed else loop.own.finished()).items():
                loop.put(0, number, outcome)
                idle = False
        while (received := self._messages.receive()) is not None:
            idle = False
            match received:
                case other, Lost() if other in self._others:
                    self._others.remove(other)
                    for loop in self._loops.values():
                        loop.lose(other)
                case other, _ if other not in self._others:
                    pass  # it was lost, and others do its work
                case other, _Done(number, batch, outcome) if number in self._loops:
                    self._loops[number].put(other, batch, outcome)
                case other, _End(number) if number in self._loops:
                    self._loops[number].ended.add(other)
                case other, _Leave():
                    self._left.add(other)
                case _:
                    pass  # of a loop that ended early
        self._pause(idle=idle)


class _Loop:
    """A loop in progress, on worker 0."""

    def __init__(
        self,
        number: int,
        work: Work,
        items: Iterable[Any],
        processes: Sequence[int],
        others: Iterable[int],
        messages: Messages,
    ) -> None:
        self.number, self._messages = number, messages
        self._slots = {worker: work.slots(processes[worker]) for worker in (0, *sorted(others))}
        self._ahead = sum(self._slots.values()) * _AHEAD
        self._batches: Iterator[list[Any]] = in_batches(iter(items), self._ahead)
        self._in_work = {worker: dict[int, list[Any]]() for worker in self._slots}
        self._again = deque[tuple[int, list[Any]]]()  # batches of lost workers
        self._given = self._taken = 0
        self._outcomes: dict[int, Outcome] = {}
        self.own = work.open(processes[0], messages.place)
        self.closed, self.ended = False, set[int]()  # here, and at the others

    def give(self) -> bool:
        """Give batches to the machines that are free; return whether any batch is in progress."""
        while self._relative_load(self._free()) < 1 and (given := self._next()) is not None:
            number, batch = given
            worker = self._free()  # while the batch was made, others may have become free
            self._in_work[worker][number] = batch
            if worker == 0:
                self.own.submit(number, batch)
            else:
                self._messages.send(_Give(self.number, number, batch), worker)
        return self._taken < self._given

    def put(self, worker: int, number: int, outcome: Outcome) -> None:
        """Take the outcome of a batch from a worker."""
        del self._in_work[worker][number]
        self._outcomes[number] = outcome

    def lose(self, worker: int) -> None:
        """Give what a worker had not finished to others."""
        self._slots.pop(worker, None)
        self._again.extend(self._in_work.pop(worker, {}).items())

    def take(self) -> Outcome | None:
        """Return the next outcome in the order of the items; None if it is not there yet."""
        outcome = self._outcomes.pop(self._taken, None)
        self._taken += outcome is not None
        return outcome

    def _next(self) -> tuple[int, list[Any]] | None:
        """Return the next batch and its number; None if there is none, or if too many are in progress."""
        if self._again:
            return self._again.popleft()
        if self._given - self._taken >= self._ahead or (batch := next(self._batches, None)) is None:
            return None
        self._given += 1
        return self._given - 1, batch

    def _free(self) -> int:
        return min(self._slots, key=self._relative_load)

    def _relative_load(self, worker: int) -> float:
        return len(self._in_work[worker]) / (self._slots[worker] * _GIVEN)


def serve(messages: Messages, processes: int) -> None:
    """Do what worker 0 gives, until its `Machines` ends.

    Args:
        messages: The connection with the other workers.
        processes: Number of processes of this worker.
    """
    opened, pause = dict[int, Opened](), _Pause()
    with contextlib.ExitStack() as stack:
        while True:
            received = messages.receive()
            match received:
                case _, _Begin(loop, work):
                    opened[loop] = work.open(processes, messages.place)
                    stack.callback(opened[loop].close)
                case _, _Give(loop, number, items):
                    opened[loop].submit(number, items)
                case _, _End(loop) as command:
                    opened.pop(loop).close()
                    messages.send(command, 0)
                case _, _Leave():
                    break
            done = [
                _Done(loop, number, outcome)
                for loop, one in opened.items()
                for number, outcome in one.finished().items()
            ]
            for answer in done:
                messages.send(answer, 0)
            pause(idle=received is None and not done)
    messages.send(_Leave(), 0)


class _Pause:
    """Sleeps for longer and longer times while there is nothing to do."""

    def __init__(self) -> None:
        self._next_s = _SHORTEST_S

    def __call__(self, *, idle: bool) -> None:
        if idle:
            time.sleep(self._next_s)
        self._next_s = min(self._next_s * 2, _LONGEST_S) if idle else _SHORTEST_S
