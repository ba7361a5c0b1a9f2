"""SIGTERM and SIGHUP end a command as Ctrl-C does: no partial file, lock or process is left.

The signal is sent when the output or the files show that the command is at work, not after a fixed time.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import content, environment, words_of
from processes import interruptible, members
from tiny_model import radiograph, write_model, write_radiograph

if sys.platform == "win32":
    pytest.skip("Windows has no such signals", allow_module_level=True)

IMAGES, TIMEOUT_S = 120, 60
PREDICT = ["-f", "reference", "--images", "images", "--out", "s.csv", "--masks", "masks", "--workers", "2"]
COMMANDS = {
    "predict": words_of("run.py", "predict", *PREDICT, "--probabilities", "maps.h5", "--batch-size", "2"),
    "predict into a stream": words_of("run.py", "predict", *PREDICT[:-6], "--out", "-", *PREDICT[-4:]),
    "preprocess": words_of(
        *("preprocess.py", "--images", "images", "--annotations", "truth.csv", "--workers", "2"),
        *("--size", "64", "--out", "new/data.h5"),
    ),
}


SAYS = {
    "predict": "ended by {}\n",
    "predict into a stream": "Nothing was written.\nended by {}\n",
    "preprocess": "(finished work is in new/data.h5.staging).\nended by {}\n",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Radiographs with annotations, and a model. There are enough images that the signal comes in time."""
    folder = tmp_path_factory.mktemp("original")
    write_model(folder / "reference_model")
    for number in range(IMAGES):
        pixels = radiograph(number, 301 + number % 3, 297, bright=number % 3 == 0)
        write_radiograph(folder / "images" / f"{number:03}.dcm", number, pixels)
    rows = [f"{number:03},{'1 5' if number % 2 else -1}\n" for number in range(IMAGES)]
    (folder / "truth.csv").write_text("ImageId,EncodedPixels\n" + "".join(rows))
    return folder


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """A copy of `original` for one test."""
    for path in original.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "temporary").mkdir()
    return tmp_path


def started(words: Sequence[str], cwd: Path, *before: str) -> subprocess.Popen[str]:
    """Start a command in its own process group; yield it once it is at work."""
    with interruptible():
        process = subprocess.Popen(
            [*before, *words],
            cwd=cwd,
            env=environment(TMPDIR=str(cwd / "temporary")),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
    deadline = time.monotonic() + TIMEOUT_S
    while not at_work(cwd) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert process.poll() is None, process.communicate()
    return process


def at_work(folder: Path) -> bool:
    """Return whether a mask was written, or preprocessing has started its journal."""
    return any(folder.glob(".masks.*.partial/*.png")) or any(folder.glob("new/data.h5.staging/*.jsonl"))


def wait_for_group(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process and its children; return standard error."""
    _, errors = process.communicate(timeout=TIMEOUT_S)
    deadline = time.monotonic() + TIMEOUT_S
    while sys.platform == "linux" and members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sys.platform != "linux" or not members(process.pid), "orphans"
    return errors


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with its workers"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_stays(place: Path, command: str, number: signal.Signals, alone: bool) -> None:
    before = content(place)
    process = started(COMMANDS[command], place)
    for _ in range(2):  # as `timeout` does
        (os.kill if alone else os.killpg)(process.pid, number)
    errors = wait_for_group(process)
    assert process.returncode == 128 + number, errors
    assert errors.endswith(SAYS[command].format(number.name)), errors
    assert not re.search("Traceback|Warning|resource", errors), errors
    left = content(place)
    if command == "preprocess":  # the next run continues with its rows, as after Ctrl-C
        left = {name: data for name, data in left.items() if not name.startswith("new/data.h5.staging")}
        assert left.pop("new", "") is None
    assert left == before


def test_an_ignored_hangup_stays_ignored(place: Path) -> None:
    """With `nohup` a command survives its terminal."""
    words = words_of("run.py", "predict", *PREDICT, "--overwrite", "--batch-size", "2")
    ignoring = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    code = f"{ignoring}; os.execv(sys.argv[1], sys.argv[1:])"
    process = started(words, place, sys.executable, "-c", code)
    os.killpg(process.pid, signal.SIGHUP)
    errors = wait_for_group(process)
    assert (process.returncode, errors) == (0, "")
    assert len(list((place / "masks").iterdir())) == IMAGES
