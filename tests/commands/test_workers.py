"""Training by several workers: the same bits, one message when a worker fails, and exact resumption."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import pytest
from command_line import (
    TIMEOUT_S,
    assert_one_error,
    assert_same_run,
    environment,
    prepare,
    refused,
    run,
    succeed,
    train,
    words_of,
)
from processes import alive, wait_until_ended
from teams import started_team

from core.distribution.launch import worker_command

pytestmark = pytest.mark.turns(3)

MODEL = "reference_model"
RECIPE = [
    *("--epochs", "3", "--batch-size", "5", "--threads", "1", "--set", "training.shards=4"),
    *("--set", "training.clip_norm=0.05", "--set", "training.sampling.positives=0.5"),
    *("--set", "training.augmentation.shift=0.1", "--set", "training.average_best=2"),
    *("--set", "training.crop={size: 24, positives: 0.7}"),
]
LONG = ["--epochs", "4", "--batch-size", "6", "--threads", "1", "--set", "training.shards=6"]
BEGIN = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *LONG]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run by one worker."""
    folder = tmp_path_factory.mktemp("short")
    prepare(folder, images=33)
    train(*RECIPE, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a longer run by one worker."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder, images=400)
    train(*LONG, cwd=folder)
    return folder


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_trains_the_same_bits(short: Path, tmp_path: Path, workers: int) -> None:
    shutil.copy(short / "data.h5", tmp_path)
    shutil.copy(short / "network.yaml", tmp_path)
    said = train(*RECIPE, "-j", str(workers), cwd=tmp_path)
    assert f"workers: {workers}, for 4 shards of each batch\n" in said
    assert len(re.findall(r"^worker \d on \S+ \(process \d+\): ", said, re.MULTILINE)) == workers
    assert said.count("epoch 3/3") == 1
    assert_same_run(short / MODEL, tmp_path / MODEL)


def place_of(whole: Path, folder: Path) -> Path:
    for name in ("data.h5", "network.yaml"):
        shutil.copy(whole / name, folder)
    return folder


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_worker_ends_all_and_the_run_resumes(whole: Path, tmp_path: Path, victim: int) -> None:
    place_of(whole, tmp_path)
    with started_team(tmp_path, [*BEGIN, "-j", "3"]) as (process, workers):
        assert len(workers) == 3
        time.sleep(random.Random(victim).uniform(0, 0.3))
        os.kill(workers[victim], signal.SIGKILL)
        began = time.monotonic()
        output, errors = process.communicate(timeout=15)
        assert time.monotonic() - began < 15
        wait_until_ended(workers, 5)
    assert process.returncode == 1, output + errors
    assert errors.count("\n") <= 2, errors
    assert re.match(r"error: a worker on \S+ ended: Killed \(signal 9\)\n", errors), errors
    train("--resume", "-j", "2", "--threads", "1", cwd=tmp_path)
    assert_same_run(whole / MODEL, tmp_path / MODEL)


def test_a_worker_that_hangs_ends_all_within_the_limit(whole: Path, tmp_path: Path) -> None:
    place_of(whole, tmp_path)
    with started_team(tmp_path, [*BEGIN, "-j", "2", "--worker-timeout", "3"]) as (process, workers):
        os.kill(workers[1], signal.SIGSTOP)
        output, errors = process.communicate(timeout=15)
        wait_until_ended(workers, 5)
    assert process.returncode == 1, output + errors
    assert errors.count("error: ") == 1, errors
    assert re.search(r"error: worker 0 on \S+: no sign of life from worker 1 on \S+ for 3 s", errors), errors


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_team_leaves_a_checkpoint_that_one_worker_continues(
    whole: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    place_of(whole, tmp_path)
    with started_team(tmp_path, [*BEGIN, "-j", "2"]) as (process, workers):
        process.send_signal(sent)
        output, errors = process.communicate(timeout=TIMEOUT_S)
        wait_until_ended(workers, 5)
    assert (process.returncode, errors) == (128 + sent, ""), output + errors
    assert "--workers 2 --threads 1 --resume" in output
    train("--resume", "--threads", "1", cwd=tmp_path)
    assert_same_run(whole / MODEL, tmp_path / MODEL)


def test_workers_end_when_the_command_that_started_them_is_killed(whole: Path, tmp_path: Path) -> None:
    place_of(whole, tmp_path)
    with started_team(tmp_path, [*BEGIN, "-j", "2"]) as (process, workers):
        process.kill()
        process.communicate()
        wait_until_ended(workers, 15)
    assert not any(map(alive, workers))


def mpiexec(*commands: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run each command as one worker."""
    words = worker_command([words_of("run.py", *command) for command in commands])
    return subprocess.run(
        words,
        cwd=cwd,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )


def test_a_worker_that_reads_other_data_is_named(short: Path, tmp_path: Path) -> None:
    place_of(short, tmp_path)
    (tmp_path / "other").mkdir()
    prepare(tmp_path / "other", images=34)
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *RECIPE]
    other = ["other/data.h5" if word == "data.h5" else word for word in words]
    done = mpiexec(words, other, cwd=tmp_path)
    assert_one_error(done, "worker 1 on ", "reads other data", "34", "33")
    assert not (tmp_path / MODEL).exists()


def test_another_number_of_workers_than_mpiexec_has_started_is_refused(short: Path, tmp_path: Path) -> None:
    place_of(short, tmp_path)
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *RECIPE, "-j", "4"]
    assert_one_error(mpiexec(words, words, cwd=tmp_path), "--workers is 4, but mpiexec has started 2")


def test_a_worker_without_its_data_is_named(short: Path, tmp_path: Path) -> None:
    place_of(short, tmp_path)
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *RECIPE]
    other = ["missing.h5" if word == "data.h5" else word for word in words]
    assert_one_error(mpiexec(words, other, cwd=tmp_path), "worker 1 on ", "missing.h5")
    assert not (tmp_path / MODEL).exists()


def test_an_error_in_the_middle_of_a_run_names_the_worker(short: Path, tmp_path: Path) -> None:
    place_of(short, tmp_path)
    whole = (tmp_path / "data.h5").stat().st_size
    shutil.copy(tmp_path / "data.h5", tmp_path / "broken.h5")
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *RECIPE]
    other = ["broken.h5" if word == "data.h5" else word for word in words]
    with h5py.File(tmp_path / "broken.h5", "r") as file:
        places = [file[f"images_{number}"].id.get_offset() for number in range(4)]
    with (tmp_path / "broken.h5").open("r+b") as file:
        file.truncate(max(place for place in places if place is not None) + 100)
    assert (tmp_path / "broken.h5").stat().st_size < whole
    done = mpiexec(words, other, cwd=tmp_path)
    assert done.returncode != 0
    assert "worker 1 on " in done.stderr, done.stderr
    assert "broken.h5" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-j", "3"], ["training.shards is 4", "3 workers cannot share equally"]),
        (["-j", "0"], ["--workers must be at least 1"]),
        (["-j", "-1"], ["--workers must be at least 1"]),
        (["-j", "2", "--worker-timeout", "0"], ["--worker-timeout must be above 0"]),
        (["--set", "training.shards=6"], ["training.shards is set to 4 and to 6"]),
    ],
)
def test_options_that_do_not_fit_are_refused(
    short: Path, tmp_path: Path, options: list[str], says: list[str]
) -> None:
    place_of(short, tmp_path)
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *RECIPE, *options]
    refused(*words, cwd=tmp_path, says=says)


def test_more_shards_than_images_in_a_batch_are_refused(short: Path, tmp_path: Path) -> None:
    place_of(short, tmp_path)
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", "--batch-size", "3"]
    refused(*words, "--set", "training.shards=4", cwd=tmp_path, says=["training.shards is 4", "has 3 images"])


def test_another_number_of_shards_cannot_resume(short: Path, tmp_path: Path) -> None:
    place_of(short, tmp_path)
    shutil.copytree(short / MODEL, tmp_path / MODEL)
    words = ["-f", "reference", "--data", "data.h5", "--resume", "--set", "training.shards=2"]
    assert_one_error(run(*words, cwd=tmp_path), "training.shards was 4")


def test_parity_compares_numbers_of_workers(tmp_path: Path) -> None:
    words = ["parity", "-f", "reference", "--set", "training.shards=2", "--steps", "4", "--batch-size", "3"]
    said = succeed(*words, "--workers", "1", "--workers", "2", "--no-progress", cwd=tmp_path)
    assert said == "reference, 2 workers: the same bits over 4 steps\n"
