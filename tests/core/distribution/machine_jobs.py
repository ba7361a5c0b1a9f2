"""Jobs for several machines: `mpiexec -n 2 python machine_jobs.py JOB FOLDER`; worker 0 prints JSON.

This is a module of the tests and also a program. Each worker has two processes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.base.errors import UserError
from core.commands.shared.statuses import Status
from core.commands.shared.team import run_over_machines
from core.distribution.machines import Machines, Opened

_folder = Path()


def set_folder(folder: Path) -> None:
    """Prepare a process."""
    global _folder
    _folder = folder


def worker() -> int:
    """Return the number of the worker that this process belongs to."""
    return int(os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])


def square(number: int) -> tuple[int, int]:
    """Return the square, and the worker."""
    time.sleep(0.002)
    return number * number, worker()


def negative(number: int) -> int:
    """Return the result of an item whose process died."""
    return -number


def square_or_die(number: int) -> int:
    """Return the square. Item 11 always kills its process, and any item the first process of worker 1."""
    time.sleep(0.005)
    mark = _folder / "died"
    if number == 11 or (worker() == 1 and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def square_or_lose_machine(number: int) -> int:
    """Return the square. The machine of worker 1 is lost when it has begun with its items."""
    time.sleep(0.005)
    if worker() == 1 and number > 30:
        os.kill(int((_folder / "worker1").read_text()), signal.SIGKILL)
        time.sleep(60)
    return number * number


def square_or_raise(number: int) -> int:
    """Return the square, but raise for 13 and 14."""
    if number in (13, 14):
        raise UserError(f"{number} has no luck")
    return number * number


def sleep(seconds: float) -> float:
    """Sleep; return the processor time that this took."""
    time.sleep(seconds)
    return seconds


class Refusal:
    """Work that only worker 0 can do."""

    def slots(self, processes: int) -> int:
        """Return 1."""
        return 1

    def open(self, processes: int, place: int) -> Opened:
        """Refuse on all workers but worker 0."""
        if worker() > 0:
            raise UserError("there is no such device")
        return Nothing()


class Nothing:
    """Work that is never done."""

    def submit(self, number: int, items: Sequence[Any]) -> None:
        """Do nothing."""

    def finished(self) -> dict[int, Any]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Do nothing."""


def mapped(machines: Machines, function: Callable[[Any], Any], items: Iterable[Any], folder: Path) -> Any:
    """Return the results of a function."""
    return machines.map_in_order(
        function, items, workers=2, on_crash=negative, prepare=set_folder, arguments=(folder,)
    )


def nested(machines: Machines, folder: Path) -> Any:
    """Let one loop give its results to another; return those, the workers, and how far items were ahead."""
    taken, ahead = 0, 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(150):
            taken += 1
            yield number

    workers, found = set(), []
    first = mapped(machines, square, numbers(), folder)
    for value, where in mapped(machines, square, (value for value, _ in first), folder):
        found.append(value)
        workers.add(where)
        ahead = max(ahead, taken - len(found))
    return {"found": found, "workers": sorted(workers), "ahead": ahead}


def crash(machines: Machines, folder: Path) -> Any:
    """Return the results although processes die."""
    return list(mapped(machines, square_or_die, list(range(60)), folder))


def lost(machines: Machines, folder: Path) -> Any:
    """Return the results although a machine is lost, and those of more work."""
    found = list(mapped(machines, square_or_lose_machine, list(range(60)), folder))
    return [found, list(mapped(machines, square_or_raise, list(range(9)), folder))]


def error(machines: Machines, folder: Path) -> Any:
    """Return the results before an exception, and its message; then do more work."""
    found: list[Any] = []
    try:
        for value in mapped(machines, square_or_raise, list(range(40)), folder):
            found.append(value)  # noqa: PERF402  those before an exception
    except UserError as raised:
        found.append(str(raised))
    return [*found, *(value for value, _ in mapped(machines, square, [1, 2, 3], folder))]


def refused(machines: Machines, folder: Path) -> Any:
    """Give work that worker 1 refuses."""
    del folder
    return list(machines.spread(Refusal(), [1, 2, 3]))


def idle(machines: Machines, folder: Path) -> Any:
    """Return the processor time of worker 0 while the processes of all sleep."""
    before = time.process_time()
    list(mapped(machines, sleep, [3.0] * 4, folder))
    return time.process_time() - before


def main(job: str, folder: str) -> int:
    """Run a job."""
    jobs = {one.__name__: one for one in (nested, crash, lost, error, refused, idle)}

    def work(machines: Machines | None) -> Status:
        assert machines is not None
        print(json.dumps(jobs[job](machines, Path(folder))))
        return Status.DONE

    (Path(folder) / f"worker{worker()}").write_text(str(os.getpid()))
    before = time.process_time()
    status = run_over_machines(argparse.Namespace(workers=2, worker_timeout=60.0), work)
    if worker() > 0 and job == "idle":
        (Path(folder) / "follower").write_text(str(time.process_time() - before))
    return status


if __name__ == "__main__":
    import machine_jobs  # processes look its functions up by this name

    sys.exit(machine_jobs.main(*sys.argv[1:]))
