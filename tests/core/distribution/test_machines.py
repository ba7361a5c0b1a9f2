"""Loops over several machines: order, bounded memory, processes that die, errors, and idle workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.distribution.launch import find_mpiexec

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def run(job: str, folder: Path, workers: int = 2) -> subprocess.CompletedProcess[str]:
    command = [find_mpiexec(), "-n", str(workers), sys.executable, str(HERE / "machine_jobs.py")]
    return subprocess.run(
        [*command, job, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
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


def test_an_exception_comes_after_the_results_before_it(tmp_path: Path) -> None:
    found = result("error", tmp_path)
    assert found == [*(number * number for number in range(13)), "13 has no luck", 1, 4, 9]


def test_a_worker_that_refuses_ends_all(tmp_path: Path) -> None:
    done = run("refused", tmp_path)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: worker 1 on ")
    assert errors[0].endswith(": there is no such device")
    assert "Traceback" not in done.stderr


def test_waiting_takes_no_processor_time(tmp_path: Path) -> None:
    leader = result("idle", tmp_path)
    follower = float((tmp_path / "follower").read_text())
    assert leader < 1.5, "of at least 3 seconds"
    assert follower < 1.5 + 1.0, "with its imports"
