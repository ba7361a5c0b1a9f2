"""Helpers that run the two programs as a user does, and read the files that they write.

Commands run in a process of their own, in a given folder, with an environment that makes their output the
same on every machine. Only `run_here` runs a command in this process, since with small networks most of a
command's time is imports.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hidden_packages import hide
from numpy.typing import NDArray
from processes import interruptible
from safetensors.numpy import load_file

from core.backend.registry import backend_names, find_backend
from core.commands import main
from data.annotations import rle
from data.hdf5.file_writing import ImageMetadata, write
from preprocess import COMMANDS as PREPROCESS_COMMANDS
from run import COMMANDS as RUN_COMMANDS

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120
COMMANDS = {"run.py": RUN_COMMANDS, "preprocess.py": PREPROCESS_COMMANDS}
LAST, BEST = "last.safetensors", "best.safetensors"

NETWORK = """\
network:
  batch_norm_settings: {momentum: 0.9}
  dropout: 0.1
  blocks:
    - {name: down, kind: conv, filters: 4}
    - {name: middle, kind: pointwise}
    - {name: up, kind: output}
training:
  epochs: 2
  batch_size: 5
  seed: 7
  optimizer: {learning_rate: 0.01}
"""

# Code that changes its own process and then replaces itself by the program.
_LAUNCHERS = {
    "limit": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)",
    # Root may read and write everything. Without CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2) in its
    # capability bounding set, the new program must respect the permissions of files.
    "bound": "import ctypes; os.geteuid() or [ctypes.CDLL(None).prctl(24, n, 0, 0, 0) for n in (1, 2)]",
    # Make the terminal on standard input the controlling terminal, whose Ctrl-C reaches this process.
    "terminal": "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)",
}


def launcher(kind: str, *values: object) -> list[str]:
    """Return Python's arguments that start a program in a special way."""
    code = f"import os, sys; {_LAUNCHERS[kind]}; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return ["-c", code, *map(str, values)]


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without variables that change a program's output."""
    unwanted = {"FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "PYTHONPATH", "PYTHONWARNINGS"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "COLUMNS": "160", "PYTHONIOENCODING": "utf-8", **changes}


def hideable() -> list[str]:
    """Return the names of the frameworks' modules."""
    return sorted({find_backend(name).module or "" for name in backend_names()} - {""})


def hide_frameworks(folder: Path, *but: str) -> None:
    """Hide all frameworks except `but` from programs with this folder on their PYTHONPATH."""
    hide(folder, [name for name in hideable() if name not in but])


def words_of(program: str, *words: str, before: Sequence[str] = ()) -> list[str]:
    """Return the whole command line; `before` has options of Python or a `launcher`."""
    return [sys.executable, *before, str(ROOT / program), *words]


def changed(words: Sequence[str], *options: str) -> list[str]:
    """Return a command line in which further options replace its own."""
    kept = list(words)
    for option in options:
        if option.startswith("-") and option in kept:
            place = kept.index(option)
            del kept[place : place + 2]
    return [*kept, *options]


def run(
    *words: str,
    cwd: Path,
    program: str = "run.py",
    before: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        words_of(program, *words, before=before),
        cwd=cwd,
        env=environment(**(env or {})),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )


@contextlib.contextmanager
def started(cwd: Path, words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a command of `run.py`; kill it at the end of the block, or if it takes too long."""
    with interruptible():
        process = subprocess.Popen(
            words_of("run.py", *words),
            cwd=cwd,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
    watchdog = threading.Timer(TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def run_here(*words: str, cwd: Path, program: str = "run.py") -> subprocess.CompletedProcess[str]:
    """Run one command without starting a process."""
    stdout, stderr, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            status = main(program, "", COMMANDS[program], words)
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(words, status, stdout.getvalue(), stderr.getvalue())


def run_with_full_disk(*words: str, cwd: Path, limit: int) -> subprocess.CompletedProcess[str]:
    """Run one command in this process, where files cannot grow beyond `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        return run_here(*words, cwd=cwd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def succeed(*words: str, cwd: Path, how: Callable[..., Any] = run, status: int = 0, **options: Any) -> str:
    """Run a command; assert its status and an empty standard error; return its standard output."""
    done: subprocess.CompletedProcess[str] = how(*words, cwd=cwd, **options)
    assert (done.returncode, done.stderr) == (status, ""), done.stdout + done.stderr
    return done.stdout


def train(*words: str, cwd: Path, **options: Any) -> str:
    """Train on `data.h5` with `network.yaml`, which `prepare` wrote; return standard output."""
    given = [] if "--resume" in words else ["--config", "network.yaml"]
    data = [] if "--data" in words else ["--data", "data.h5"]
    return succeed("-f", "reference", *data, *given, *words, cwd=cwd, **options)


def assert_one_error(done: subprocess.CompletedProcess[str], *says: str) -> None:
    """Assert exit status 1 and a single error message with all these texts."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    for text in says:
        assert text in done.stderr, f"{text!r} is not in {done.stderr!r}"


def refused(
    *words: str, cwd: Path, says: Sequence[str], how: Callable[..., Any] = run, **options: Any
) -> str:
    """Run a command; assert that it ends with one error and changes no file; return the message."""
    before = content(cwd)
    done: subprocess.CompletedProcess[str] = how(*words, cwd=cwd, **options)
    assert_one_error(done, *says)
    assert content(cwd) == before
    return done.stderr


def content(folder: Path) -> dict[str, bytes | None]:
    """Return everything in a folder except `__pycache__`: files with their bytes, folders with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def prepare(folder: Path, images: int = 24, size: int = 32, seed: int = 0) -> None:
    """Write `data.h5`, in which every third image is positive, and `network.yaml`."""
    write_data(folder / "data.h5", images, size, seed)
    (folder / "network.yaml").write_text(NETWORK)


def write_data(
    path: Path, images: int, size: int, seed: int, width: int | None = None, storage: str = "float32"
) -> None:
    """Write images of noise with brighter rectangles as masks; they are square unless a width is given."""
    random = np.random.default_rng(seed)
    masks = np.zeros((images, size, width or size), np.uint8)
    for mask in masks[::3]:
        top, left = random.integers(0, size // 2, 2)
        rows_of_it, columns_of_it = random.integers(4, size // 2, 2)
        mask[top : top + rows_of_it, left : left + columns_of_it] = 1
    pixels = random.random(masks.shape, np.float32) * 0.7 + 0.3 * masks.astype(np.float32)
    rows = ImageMetadata(
        ids=[f"image-{number}" for number in range(images)],
        sizes=np.tile(np.array(masks.shape[1:], np.int32), (images, 1)),
        positive=masks.any(axis=(1, 2)),
        runs=[rle.runs(rle.encode(mask)) for mask in masks],
    )
    stored = np.rint(pixels * 255).astype(np.uint8) if storage == "uint8" else pixels
    blocks = iter([(stored, masks)])
    write(path, rows, (size, width or size), blocks, per_dataset=10, storage=storage, attributes={})


def name_patients(path: Path, names: Sequence[str]) -> None:
    """Set the patients of the images in a data file."""
    with h5py.File(path, "r+") as file:
        rest = list(names)
        for number in range(sum(key.startswith("images_") for key in file)):
            count = len(file[f"images_{number}"])
            file[f"patients_{number}"] = rest[:count]
            del rest[:count]


def install_backend(site: Path, name: str, source: str) -> dict[str, str]:
    """Write a backend of a test, one module, into a new folder; return the environment that finds it."""
    information = site / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    entry = f"[pneumoseg.backends]\n{name} = {name}_package:backend\n"
    (information / "entry_points.txt").write_text(entry)
    (site / f"{name}_package.py").write_text(source)
    return {"PYTHONPATH": str(site)}


def history(model: Path) -> list[dict[str, Any]]:
    """Return the records of a model's `history.json`."""
    records: list[dict[str, Any]] = json.loads((model / "history.json").read_text())
    return records


def arrays(model: Path, name: str = LAST) -> dict[str, NDArray[Any]]:
    """Return the arrays of a checkpoint."""
    return load_file(model / name)


def assert_same_run(one: Path, other: Path) -> None:
    """Assert equal histories except for the speed, and equal checkpoints bit for bit."""

    def without_speed(model: Path) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in record.items() if key != "images_per_second"}
            for record in history(model)
        ]

    assert without_speed(one) == without_speed(other)
    for name in (LAST, BEST):
        first, second = arrays(one, name), arrays(other, name)
        assert first.keys() == second.keys()
        for array in first:
            assert first[array].dtype == second[array].dtype, array
            assert first[array].tobytes() == second[array].tobytes(), array


def imported(trace: str) -> set[str]:
    """Return the top-level modules that a program started with `-X importtime` imported."""
    lines = re.finditer(r"^import time:.*\| +(\S+)$", trace, re.MULTILINE)
    return {line[1].split(".")[0] for line in lines}
