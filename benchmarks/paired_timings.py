"""Contenders of a benchmark, each in a process of its own, which take turns.

While one works the others wait, so none disturbs another, and other work on the machine affects all of them
alike. A contender's first turn (imports, compiling) does not count. Work that a framework has only queued
belongs to the turn that queued it: a turn ends when its last step is finished. `seconds_in_turns` does the
same for work in this process, or for whole processes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")

_PATIENCE_S = 10.0  # for a process that has nothing left to do


@dataclass(frozen=True)
class Block:
    """The result of one turn.

    Attributes:
        steps: Number of steps.
        seconds: Wall time.
        waiting: Seconds of it spent waiting for the next batch.
        inside: Seconds of it inside the framework: in a step, or waiting for its loss.
        processor: Processor time of all cores, in seconds.
        begun: `time.monotonic` at the beginning.
    """

    steps: int
    seconds: float
    waiting: float
    inside: float
    processor: float
    begun: float = 0.0


class Finished(Exception):  # noqa: N818  it is no error
    """There are no more turns."""


@dataclass(frozen=True)
class _Failed:
    """The exception that ended a contender."""

    reason: str


class Turn:
    """A contender's side of the turns: the contender reports when it is ready, and when each step is done.

    Attributes:
        device_memory: Returns the peak of the device's memory in bytes; None if it is not known. The
            contender sets it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._steps = self._left = 0
        self.waiting = self.inside = 0.0
        self._began = self._processor = self._begun = 0.0
        self.device_memory: Callable[[], int | None] = lambda: None

    def ready(self, **facts: Any) -> None:
        """Report that everything is set up; return when the first turn begins."""
        self._connection.send(facts)
        self._wait()

    def step_done(self, settle: Callable[[], object]) -> None:
        """Report one more step, whose result `settle` waits for; return when it is this contender's turn."""
        self._left -= 1
        if self._left:
            return
        settle()
        seconds = time.perf_counter() - self._began
        processor = time.process_time() - self._processor
        block = Block(self._steps, seconds, self.waiting, self.inside, processor, self._begun)
        self._connection.send(block)
        self._wait()

    def _wait(self) -> None:
        try:
            self._steps = self._left = self._connection.recv()
        except EOFError:
            raise Finished from None
        if not self._steps:
            self._connection.send((_peak_memory(), self.device_memory()))
            raise Finished
        self.waiting = self.inside = 0.0
        self._begun = time.monotonic()
        self._began, self._processor = time.perf_counter(), time.process_time()


class Seat:
    """A process in which contenders run one after another, so that a framework is imported once."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs,))
        self._process.start()
        # If this process fails, it waits for its children. Without this they would wait for it.
        atexit.register(self.connection.close)
        theirs.close()

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self._process.join(_PATIENCE_S)
        self._process.kill()  # a framework with running threads may not end by itself


class Contender:
    """A process that runs `function(turn, *arguments)`. It begins at once, and `facts` waits for it.

    Args:
        name: For messages.
        function: What runs.
        arguments: Its arguments after the turn.
        seat: The process, if contenders share it; one that has failed cannot be used again.

    Raises:
        RuntimeError: From any method: the function ended with an exception, which its process printed.
    """

    def __init__(
        self, name: str, function: Callable[..., None], *arguments: Any, seat: Seat | None = None
    ) -> None:
        self.name = name
        self.blocks: list[Block] = []
        self.peak_memory = 0
        self.device_memory: int | None = None
        self._seat, self._shares = seat or Seat(), seat is not None
        self._seat.connection.send((function, arguments))

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What the contender said of itself when it was ready."""
        found: dict[str, Any] = self._receive()
        return found

    def take_turn(self, steps: int, *, counts: bool = True) -> Block:
        """Let the contender make a number of steps."""
        _ = self.facts
        self._seat.connection.send(steps)
        block: Block = self._receive()
        if counts:
            self.blocks.append(block)
        return block

    def finish(self) -> None:
        """End the function, and store the peaks of memory."""
        self._seat.connection.send(0)
        self.peak_memory, self.device_memory = self._receive()
        if not self._shares:
            self._seat.close()

    def _receive(self) -> Any:
        try:
            received = self._seat.connection.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError(f"{self.name}: its process ended") from None
        if isinstance(received, _Failed):
            raise RuntimeError(f"{self.name}: {received.reason}")
        return received


def take_turns(contenders: Sequence[Contender], steps: int, rounds: int, warm_up: int = 1) -> None:
    """Run rounds in which each has one turn, every second round in reverse order; the first do not count."""
    for contender in contenders:
        _ = contender.facts  # all of them are ready
    for number in range(warm_up + rounds):
        for contender in _in_order(contenders, number):
            contender.take_turn(steps, counts=number >= warm_up)
    for contender in contenders:
        contender.finish()


def seconds_in_turns(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each in every round, by its name; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(1 + rounds):
        for name in _in_order(list(work), number):
            began = time.perf_counter()
            work[name]()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Return median, minimum and maximum of the rounds' ratios of one to the other."""
    return spread([a / b for a, b in zip(one, other, strict=True)])


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, minimum and maximum."""
    return statistics.median(values), min(values), max(values)


def shown(values: tuple[float, float, float], form: str = ".2f") -> str:
    """Format a median with its range."""
    middle, low, high = (format(value, form) for value in values)
    return f"{middle} ({low}, {high})"


def _in_order(items: Sequence[Item], number: int) -> Sequence[Item]:
    """Return the order of a round: reversed in every second one."""
    return items[:: -1 if number % 2 else 1]


def _run(connection: Connection) -> None:
    """Run one function after the other, until the connection is closed or a function fails."""
    with contextlib.closing(connection), contextlib.suppress(EOFError):
        while True:
            function, arguments = connection.recv()
            try:
                function(Turn(connection), *arguments)
            except Finished:
                pass
            except Exception as error:
                traceback.print_exc()
                connection.send(_Failed(f"{type(error).__name__}: {error}"))
                return
            gc.collect()


def _peak_memory() -> int:
    """Return this process's peak memory in bytes; 0 if the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
