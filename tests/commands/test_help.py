"""`--help` is fast: it lists all options and imports only the standard library."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import environment, imported, run, words_of

from core.backend.registry import backend_names, find_backend

FORMATS = sorted({form for name in backend_names() for form in find_backend(name).exports})
HEAVY = {"tensorflow", "mxnet", "numpy", "cv2", "h5py", "pydicom"}
MOST_TIMES, MOST_ROUNDS = 3.0, 40


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        ("run.py", ["--help"], ["train", "backends", "--framework", "--resume", "--set"]),
        ("run.py", ["-h"], ["train", "backends", "--framework"]),
        ("run.py", ["train", "--help"], ["--framework", "--config", "--data", "--out", "--device"]),
        ("run.py", ["-f", "tf", "train", "--help"], ["--framework", "--epochs", "--batch-size"]),
        ("run.py", ["score", "--help"], ["submission", "--annotations", "--missing", "--json"]),
        ("run.py", ["check", "--help"], ["submission", "--images", "--sample", "--size", "--json"]),
        ("run.py", ["backends", "--help"], ["--json"]),
        ("run.py", ["export", "--help"], ["--to", *FORMATS]),
        ("preprocess.py", ["--help"], ["preprocess", "phantoms", "verify", "--images", "--annotations"]),
        ("preprocess.py", ["preprocess", "--help"], ["--storage", "--per-dataset", "--overwrite"]),
        ("preprocess.py", ["phantoms", "--help"], ["--count", "--size", "--positive-fraction"]),
        ("preprocess.py", ["verify", "--help"], ["file", "--overlays", "--count", "--seed"]),
    ],
)
def test_help_shows_commands_and_options(
    tmp_path: Path, program: str, words: list[str], says: list[str]
) -> None:
    done = run(*words, program=program, cwd=tmp_path, before=["-X", "importtime"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {program}")
    for text in says:
        assert text in done.stdout
    found = imported(done.stderr)
    assert "argparse" in found, "the trace of imports could not be read"
    assert not found & HEAVY
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    ("program", "words", "status"),
    [
        ("run.py", ["--help"], 1),
        ("run.py", ["predict", "--help"], 1),
        ("preprocess.py", ["phantoms", "--help"], 1),
        ("run.py", ["predict", "--nonsense"], 2),
    ],
)
def test_help_that_could_not_be_written_is_an_error(
    tmp_path: Path, program: str, words: list[str], status: int
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            words_of(program, *words),
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == status, done.stderr
    assert ("cannot write standard output: No space left" in done.stderr) == (status == 1)
    assert "Traceback" not in done.stderr


def test_help_is_quick(tmp_path: Path) -> None:
    def seconds(words: list[str]) -> float:
        began = time.perf_counter()
        subprocess.run(words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    helping, importing = [], []
    # The minimum of each is compared, since other load only adds time. They run in turns, so that a slow
    # period affects both.
    for _ in range(MOST_ROUNDS):
        importing.append(seconds([sys.executable, "-c", "import numpy"]))
        helping.append(seconds(words_of("run.py", "--help")))
        if len(helping) >= 5 and min(helping) <= MOST_TIMES * min(importing):
            return
    pytest.fail(f"--help took {min(helping):.3f} s, importing NumPy {min(importing):.3f} s")


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        ("run.py", [], "-f/--framework"),
        ("run.py", ["train"], "-f/--framework"),
        ("run.py", ["--epochs", "3"], "-f/--framework"),
        *(("run.py", [name], "-f/--framework") for name in ("parity", "conformance")),
        ("run.py", ["predict"], "required: --images"),
        ("run.py", ["predict", "-f", "reference"], "required: --images"),
        ("run.py", ["export"], "--model, --to"),
        ("run.py", ["export", "--model", "m"], "required: --to"),
        ("run.py", ["export", "--to", "onnx"], "required: --model"),
        ("run.py", ["-f"], "expected one argument"),
        ("run.py", ["-f", "reference", "--epoch", "3"], "--epoch"),
        ("run.py", ["-f", "reference", "trian"], "trian"),
        ("run.py", ["backends", "-f", "tf"], "-f"),
        ("preprocess.py", ["--size", "large"], "large"),
        ("preprocess.py", ["--storage", "float16"], "float16"),
        ("preprocess.py", ["fantoms"], "fantoms"),
    ],
)
def test_a_wrong_command_line_is_answered_with_the_usage(
    tmp_path: Path, program: str, words: list[str], says: str
) -> None:
    done = run(*words, program=program, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage: {program}")
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
