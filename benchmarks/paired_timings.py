"""Contenders of a benchmark, each in a process of its own, which take turns.

Promises: while one is at work the others wait, so none disturbs another, and whatever else the machine does
meets all of them alike; a contender's first turn (imports, compiling) is not for counting. Work that a
framework has only queued belongs to the turn that queued it: a turn ends when its last step is settled.
`seconds_in_turns` is the same for work that one process does, or that is a process from start to end.
"""

from __future__ import annotations

import atexit
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")

_PATIENCE_S = 10.0  # for a process that has nothing left to do


@dataclass(frozen=True)
class Block:
    """One turn.

    Attributes:
        steps: Made in it.
        seconds: It took.
        waiting: Seconds of these in which the next batch was waited for.
        inside: Seconds inside the framework: in a step, or waiting for its loss.
        processor: Seconds of all cores.
    """

    steps: int
    seconds: float
    waiting: float
    inside: float
    processor: float


class Finished(Exception):  # noqa: N818  it is no error
    """There are no more turns."""


class Turn:
    """A contender's side: it says when it is ready, then when each step is done."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._steps = self._left = 0
        self.waiting = self.inside = 0.0
        self._began = self._processor = 0.0

    def ready(self, **facts: Any) -> None:
        """Everything is set up; returns when the first turn begins."""
        self._connection.send(facts)
        self._wait()

    def step_done(self, settle: Callable[[], object]) -> None:
        """One more step was asked for; `settle` waits for its result. Returns when there is a turn."""
        self._left -= 1
        if self._left:
            return
        settle()
        seconds = time.perf_counter() - self._began
        processor = time.process_time() - self._processor
        block = Block(self._steps, seconds, self.waiting, self.inside, processor)
        self._connection.send(block)
        self._wait()

    def _wait(self) -> None:
        try:
            self._steps = self._left = self._connection.recv()
        except EOFError:
            raise Finished from None
        if not self._steps:
            self._connection.send(_peak_memory())
            raise Finished
        self.waiting = self.inside = 0.0
        self._began, self._processor = time.perf_counter(), time.process_time()


class Contender:
    """A process that runs `function(turn, *arguments)`.

    Raises:
        RuntimeError: From any method: the process ended with an exception, which it printed.
    """

    def __init__(self, name: str, function: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.blocks: list[Block] = []
        self.peak_memory = 0
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, function, arguments))
        self._process.start()
        # Should this process fail, it waits for its children: without this they would wait for it.
        atexit.register(self._connection.close)
        theirs.close()
        self.facts: dict[str, Any] = self._receive()

    def take_turn(self, steps: int, *, counts: bool = True) -> Block:
        """Let it make so many steps."""
        self._connection.send(steps)
        block: Block = self._receive()
        if counts:
            self.blocks.append(block)
        return block

    def finish(self) -> None:
        """End the process, and learn how much memory it took at most."""
        self._connection.send(0)
        self.peak_memory = self._receive()
        self._process.join(_PATIENCE_S)
        self._process.kill()  # a framework with threads at work need not come to its end by itself

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: its process ended") from None


def take_turns(contenders: Sequence[Contender], steps: int, rounds: int, warm_up: int = 1) -> None:
    """Rounds in which each has one turn, every second one in the other order; the first do not count."""
    for number in range(warm_up + rounds):
        for contender in _in_order(contenders, number):
            contender.take_turn(steps, counts=number >= warm_up)
    for contender in contenders:
        contender.finish()


def seconds_in_turns(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """How long each takes in every round, by its name; a first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(1 + rounds):
        for name in _in_order(list(work), number):
            began = time.perf_counter()
            work[name]()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Round by round one over the other: median, least, greatest."""
    return spread([a / b for a, b in zip(one, other, strict=True)])


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least, greatest."""
    return statistics.median(values), min(values), max(values)


def shown(values: tuple[float, float, float], form: str = ".2f") -> str:
    """A median with its range, as text."""
    middle, low, high = (format(value, form) for value in values)
    return f"{middle} ({low}, {high})"


def _in_order(items: Sequence[Item], number: int) -> Sequence[Item]:
    """Every second round goes the other way."""
    return items[:: -1 if number % 2 else 1]


def _run(connection: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        function(Turn(connection), *arguments)
    except Finished:
        pass
    finally:
        connection.close()


def _peak_memory() -> int:
    """Of this process, in bytes; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
