"""`preprocess` and `predict` by `mpiexec` write what they write alone, and end if a worker is lost."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from command_line import environment, words_of
from processes import alive, wait_until_ended
from tiny_model import radiograph, write_model, write_radiograph

from core.distribution.launch import find_mpiexec
from data.phantoms.data_set import PhantomSettings, write_phantoms

UNREADABLE = 3  # the exit status
QUIETLY = ("-j", "2", "--no-progress")
COPIES = 60  # of each phantom, where a run has to be long enough to be killed in it

pytestmark = [
    pytest.mark.turns(3),
    pytest.mark.skipif(sys.platform != "linux", reason="it looks for workers in /proc"),
]


def by_mpi(workers: int, program: str, *words: str) -> list[str]:
    return [find_mpiexec(), "-n", str(workers), *words_of(program, *words)]


def run(words: list[str], place: Path, status: int = UNREADABLE) -> str:
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        words, cwd=place, env=environment(), capture_output=True, encoding="utf-8", timeout=100, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 phantoms, one of them unreadable."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(PhantomSettings(out=folder, count=20, size=64, seed=1, positive_fraction=0.5, workers=2))
    sorted(folder.rglob("*.dcm"))[7].write_bytes(b"no radiograph")
    return folder


def preprocess_words(sources: Path) -> list[str]:
    images, annotations = str(sources / "dicom-images-train"), str(sources / "train-rle.csv")
    return ["--images", images, "--annotations", annotations, "--size", "64", "--per-dataset", "8", *QUIETLY]


@pytest.mark.parametrize("workers", [2, 3])
def test_preprocess(phantoms: Path, tmp_path: Path, workers: int) -> None:
    words = preprocess_words(phantoms)
    alone = run(words_of("preprocess.py", *words), tmp_path / "alone")
    together = run(by_mpi(workers, "preprocess.py", *words), tmp_path / "together")
    assert together == alone
    assert [path.name for path in (tmp_path / "together").iterdir()] == ["pneumothorax.h5"]
    name = "pneumothorax.h5"
    assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_preprocess_with_an_error(phantoms: Path, tmp_path: Path) -> None:
    said = run(by_mpi(2, "preprocess.py", *preprocess_words(phantoms), "--strict"), tmp_path, status=1)
    assert said.count("error: ") == 1
    assert "2 of 20 DICOM files cannot be used" in said


@pytest.mark.parametrize("backend", ["reference", "onnx"])
def test_predict(tmp_path: Path, backend: str) -> None:
    for number in range(20):
        pixels = radiograph(number, 41 + number % 3, 37, bright=number % 3 == 0)
        write_radiograph(tmp_path / "images" / f"{number:02}.dcm", number, pixels)
    (tmp_path / "images" / "07.dcm").write_bytes(b"no radiograph")
    write_model(tmp_path / "model")
    words = ["predict", "-f", backend, "--model", "../model", "--images", "../images", "--batch-size", "4"]
    words += ["--json", "answers.json", "--probabilities", "maps.h5", "--masks", "masks", *QUIETLY]
    alone = run(words_of("run.py", *words), tmp_path / "alone")
    together = run(by_mpi(2, "run.py", *words), tmp_path / "together")
    assert without_speed(together) == without_speed(alone)
    assert content(tmp_path / "together") == content(tmp_path / "alone")
    assert content(tmp_path / "alone").keys() >= {"submission.csv", "answers.json", "maps.h5", "masks/19.png"}


def without_speed(said: str) -> str:
    return re.sub(r"[0-9.]+ images/s", "", said)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Workers:
    """A run by `mpiexec` whose processes can be found, since they inherit a mark."""

    def __init__(self, words: list[str], place: Path) -> None:
        self._mark = f"MARK_OF_THE_TEST={uuid.uuid4()}"
        name, value = self._mark.split("=")
        self.process = subprocess.Popen(
            words, cwd=place, env=environment(**{name: value}), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def found(self) -> dict[int, dict[str, str]]:
        """Return the environments of all processes."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                lines = path.read_text(errors="replace").split("\0")
                if self._mark in lines and alive(int(path.parent.name)):
                    found[int(path.parent.name)] = dict(line.split("=", 1) for line in lines if "=" in line)
        return found

    def of(self, worker: int) -> tuple[int, list[int]]:
        """Return the process of a worker and those of its pool, which are forks of its child."""
        own = [pid for pid, lines in self.found().items() if lines.get("PMI_RANK") == str(worker)]
        parents = {}
        for pid in own:
            with contextlib.suppress(OSError):
                parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        (leader,) = (pid for pid in own if parents.get(pid) not in own)
        return leader, [pid for pid, parent in parents.items() if parent in own and parent != leader]

    def wait_for(self, file: Path) -> None:
        """Wait until a file has a line."""
        deadline = time.monotonic() + 60
        while not (file.is_file() and file.stat().st_size):
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)


@pytest.fixture
def long_run(phantoms: Path, tmp_path: Path) -> list[str]:
    """The words of `preprocess` for so many files that it can be killed, which it reads from `many`."""
    files = sorted(phantoms.rglob("*.dcm"))
    many = tmp_path / "many"
    many.mkdir()
    for number in range(COPIES * len(files)):
        shutil.copy(files[number % len(files)], many / f"{number:04}.dcm")
    (tmp_path / "place").mkdir()
    return ["--images", str(many), "--no-annotations", "--size", "64", "--overwrite", *QUIETLY]


def test_a_process_of_a_follower_is_killed(long_run: list[str], tmp_path: Path) -> None:
    place, journal = tmp_path / "place", tmp_path / "place" / "pneumothorax.h5.staging" / "journal.jsonl"
    run(words_of("preprocess.py", *long_run), place)
    alone = (place / "pneumothorax.h5").read_bytes()
    workers = Workers(by_mpi(2, "preprocess.py", *long_run), place)
    workers.wait_for(journal)
    while not (pool := workers.of(1)[1]):
        assert workers.process.poll() is None, "it was too short"
    os.kill(pool[-1], signal.SIGKILL)
    said = b"".join(workers.process.communicate(timeout=100))
    assert workers.process.returncode == UNREADABLE, said
    assert (place / "pneumothorax.h5").read_bytes() == alone


def test_a_follower_is_killed(long_run: list[str], tmp_path: Path) -> None:
    place, journal = tmp_path / "place", tmp_path / "place" / "pneumothorax.h5.staging" / "journal.jsonl"
    workers = Workers(by_mpi(2, "preprocess.py", *long_run), place)
    workers.wait_for(journal)
    follower, _ = workers.of(1)
    left = list(workers.found())
    os.kill(follower, signal.SIGKILL)
    killed = time.monotonic()
    workers.process.communicate(timeout=60)
    assert workers.process.returncode != 0
    wait_until_ended(left, 15 - (time.monotonic() - killed))
    assert not workers.found()
    assert journal.read_bytes()
    assert not (place / "pneumothorax.h5").exists()
    assert "taken over from an interrupted run" in run(by_mpi(2, "preprocess.py", *long_run), place)
    resumed = (place / "pneumothorax.h5").read_bytes()
    run(words_of("preprocess.py", *long_run), place)
    assert resumed == (place / "pneumothorax.h5").read_bytes()
