"""`train --exchange backend` of several workers: the bits of `--exchange mpi`, its refusals, and its end.

Each worker is a process that MPI starts. PyTorch exchanges by gloo here; NCCL would need several GPUs.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from command_line import assert_same_run, prepare, run, succeed
from processes import wait_until_ended
from teams import started_team

from core.base.errors import UserError
from core.tasks.engines import WorkerDevice, uses_engine

pytestmark = pytest.mark.turns(3)

# Twelve shards of one image, so that each of four workers has two nodes of the tree. In the last batch of an
# epoch some shards, and all of a worker's, are empty.
SETTINGS = [
    *("--config", "network.yaml", "--data", "data.h5", "--batch-size", "12", "--threads", "1"),
    *("--set", "training.shards=12", "--set", "training.dropout_masks=host"),
    *("--set", "training.clip_norm=0.1", "-q"),
]
LIMIT_S = 15


def trained(folder: Path, precision: str, workers: int, exchange: str) -> Path:
    """Train; return the model."""
    out = f"{precision}-{workers}-{exchange}"
    options = ["--precision", precision, "-j", str(workers), "--exchange", exchange, "-o", out]
    succeed("-f", "torch", *SETTINGS, *options, cwd=folder)
    return folder / out / "torch_model"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all trainings of this module."""
    folder = tmp_path_factory.mktemp("exchange")
    prepare(folder)
    return folder


@pytest.mark.parametrize(("precision", "teams"), [("float32", [2, 4]), ("float64", [4])])
def test_the_bits_are_those_of_one_worker_whose_sums_are_numpys(
    shared: Path, precision: str, teams: list[int]
) -> None:
    alone = trained(shared, precision, 1, "mpi")
    for workers in teams:
        assert_same_run(trained(shared, precision, workers, "backend"), alone)


@pytest.mark.skipif(sys.platform != "linux", reason="it finds the workers by /proc")
def test_a_killed_worker_ends_all(folder: Path) -> None:
    words = ["-f", "torch", *SETTINGS[:-1], "-j", "2", "--exchange", "backend", "--no-progress"]
    with started_team(folder, [*words, "--epochs", "100000"], until=r"epoch +2/") as (process, workers):
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        begun = time.monotonic()
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode != 0
        wait_until_ended(workers, LIMIT_S)
        assert time.monotonic() - begun < LIMIT_S
    assert "Traceback" not in errors


def test_a_backend_without_an_exchange_is_refused(folder: Path) -> None:
    done = run("-f", "reference", *SETTINGS[:4], "--exchange", "backend", "-q", cwd=folder)
    assert done.returncode == 1
    assert "--exchange backend: NumPy" in done.stderr
    assert "has no exchange of its own" in done.stderr
    assert not list(folder.glob("reference_model/*"))


CPU = WorkerDevice("PyTorch 2", True, "cpu", "a")
GPU = WorkerDevice("PyTorch 2", True, "gpu:0", "a")
SECOND = WorkerDevice("PyTorch 2", True, "gpu:1", "a")
OTHER = WorkerDevice("JAX 1", False, "cpu", "b")


@pytest.mark.parametrize(
    ("workers", "used"),
    [
        ([CPU], False),
        ([CPU, CPU], False),
        ([GPU], True),
        ([GPU, SECOND], True),
        ([GPU, GPU], False),
        ([GPU, CPU], False),
        ([OTHER, CPU], False),
    ],
)
def test_by_default_the_engine_is_used_on_gpus(workers: list[WorkerDevice], used: bool) -> None:
    assert uses_engine(None, workers) is used
    assert not uses_engine("mpi", workers)


@pytest.mark.parametrize(
    ("workers", "says"),
    [
        ([OTHER, CPU], "JAX 1 has no exchange of its own"),
        ([CPU, OTHER], "worker 0 has PyTorch 2, worker 1 JAX 1; all need the same"),
        ([GPU, CPU], "worker 0 computes on gpu:0, worker 1 on cpu"),
        ([GPU, SECOND, GPU], "worker 2 shares gpu:0 of a; each needs a GPU of its own"),
    ],
)
def test_workers_that_do_not_fit_are_refused(workers: list[WorkerDevice], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        uses_engine("backend", workers)


def test_workers_that_fit_may_use_the_engine() -> None:
    assert uses_engine("backend", [CPU, CPU])
