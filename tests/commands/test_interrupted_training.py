"""A stopped and resumed run ends with the same result as an uninterrupted one.

Ctrl-C stops the run after the current batch, with a checkpoint and the command that continues. A killed run
continues from its newest checkpoint. Checkpoints and history then equal those of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from command_line import (
    LAST,
    TIMEOUT_S,
    assert_same_run,
    changed,
    environment,
    history,
    launcher,
    prepare,
    run,
    run_here,
    started,
    succeed,
    train,
    words_of,
)
from processes import interruptible

from core.experiment.checkpoint import load_checkpoint

MODEL = "reference_model"
EPOCHS, BATCHES = 4, 64
OPTIONS = ["--epochs", str(EPOCHS), "--batch-size", "3"]
BEGIN = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *OPTIONS]
RESUME = ["-f", "reference", "--data", "data.h5", "--resume"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of an uninterrupted run, with its data in the same folder."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder, images=240)
    train(*OPTIONS, cwd=folder, how=run_here)
    return folder / MODEL


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """A folder with the same data and no model."""
    prepare(tmp_path, images=240)
    assert (tmp_path / "data.h5").stat().st_size == (whole.parent / "data.h5").stat().st_size
    return tmp_path


def wait_for_line(process: subprocess.Popen[str], start: str) -> None:
    """Read the process's output up to a line that starts with a text."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        if line.startswith(start):
            return
        seen.append(line)
    pytest.fail(f"no line {start!r} in {''.join(seen)}")


@pytest.mark.parametrize(
    ("sent", "data", "out"), [(signal.SIGINT, "data.h5", "."), (signal.SIGTERM, "my data.h5", "my/other out")]
)
def test_an_interrupted_run_says_how_to_go_on_and_ends_the_same(
    whole: Path, place: Path, sent: signal.Signals, data: str, out: str
) -> None:
    """The command that continues can be pasted: names with spaces are quoted."""
    (place / "data.h5").rename(place / data)
    model, done, output = Path(out, MODEL), 0, ""
    for words in (BEGIN, RESUME):
        with started(place, changed(words, "--data", data, "--out", out)) as process:
            wait_for_line(process, f"epoch {done + 1}/{EPOCHS}")
            process.send_signal(sent)
            output, errors = process.communicate()
        status = {signal.SIGINT: 130, signal.SIGTERM: 143}[sent]
        assert (process.returncode, errors) == (status, ""), output + errors
        found = re.search(r"Interrupted in epoch (\d+), after (\d+) of (\d+) batches; ", output)
        assert found, output
        epoch, batch, batches = map(int, found.groups())
        assert f"the checkpoint is {model}/{LAST}\n" in output
        progress = load_checkpoint(place / model / LAST).progress
        assert (len(progress.history), progress.batch) == (epoch - 1, batch)
        assert (batches, progress.step) == (BATCHES, (epoch - 1) * BATCHES + batch)
        done = epoch - 1
    go_on(output, place)
    assert_same_run(whole, place / model)


def go_on(output: str, cwd: Path) -> None:
    """Run the command that an interrupted run printed."""
    (command,) = re.findall(r"^Go on with: (.*)$", output, re.MULTILINE)
    python, program, *words = shlex.split(command)
    assert (python, program) == ("python", "run.py")
    succeed(*words, cwd=cwd, how=run_here)


def test_ctrl_c_on_the_terminal_stops_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    prepare(tmp_path, images=900)  # an epoch of almost a second
    options = ["--epochs", "1", "--batch-size", "3"]
    terminal, inside = pty.openpty()
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *options]
    with interruptible():
        process = subprocess.Popen(
            words_of("run.py", *words, before=launcher("terminal")),
            cwd=tmp_path,
            env=environment(TERM="xterm", LINES="50"),
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
    os.close(inside)
    watchdog = threading.Timer(TIMEOUT_S, process.kill)
    watchdog.start()
    output, pressed = b"", False
    with contextlib.suppress(OSError):  # on Linux: no process has the terminal open any more
        while chunk := os.read(terminal, 65536):
            output += chunk
            if not pressed and re.search(rb"epoch 1/1.*\D[1-9]\d*/240", output):  # the bar has moved
                os.write(terminal, b"\x03")
                pressed = True
    os.close(terminal)
    watchdog.cancel()
    text = output.decode()
    assert process.wait() == 130, text
    assert "Traceback" not in text
    assert "Interrupted in epoch 1, after " in text
    assert 0 < load_checkpoint(tmp_path / MODEL / LAST).progress.batch < 240
    train("--resume", cwd=tmp_path, how=run_here)
    train("--out", "whole", *options, cwd=tmp_path, how=run_here)
    assert_same_run(tmp_path / "whole" / MODEL, tmp_path / MODEL)


@pytest.mark.parametrize("line", ["network:", "data:"])
def test_ctrl_c_before_training_leaves_nothing_that_cannot_be_resumed(
    whole: Path, place: Path, line: str
) -> None:
    with started(place, BEGIN) as process:
        wait_for_line(process, line)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert process.returncode == 130, output + errors
    assert errors in ("", "interrupted\n")
    begun = (place / MODEL / LAST).exists()
    assert begun == ("Go on with:" in output)
    train(*(["--resume"] if begun else OPTIONS), cwd=place, how=run_here)
    assert_same_run(whole, place / MODEL)


def test_a_run_killed_at_random_moments_ends_the_same(whole: Path, place: Path) -> None:
    moments = random.Random(1)
    epoch_s = 192 / min(record["images_per_second"] for record in history(whole))
    for number, words in enumerate([BEGIN, RESUME], start=1):
        with started(place, words) as process:
            wait_for_line(process, "epoch ")
            time.sleep(moments.uniform(0, epoch_s))
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert len(load_checkpoint(place / MODEL / LAST).progress.history) >= number
    train("--resume", cwd=place, how=run_here)
    assert_same_run(whole, place / MODEL)


# Kill the process just before it renames a file to its final name for the n-th time.
KILLER = """
import os, pathlib, signal

wanted, left = os.environ["KILL_BEFORE"].split(":")
left = int(left)
replace = pathlib.Path.replace


def killing(self, target):
    global left
    left -= pathlib.Path(target).name == wanted
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)


pathlib.Path.replace = killing
"""


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of an uninterrupted run of two short epochs."""
    folder = tmp_path_factory.mktemp("short")
    prepare(folder)
    train(cwd=folder, how=run_here)
    return folder / MODEL


def killing(hook: Path, moment: str) -> dict[str, str]:
    """Return the environment of a process that kills itself at "FILE:N"; `hook` is an empty folder."""
    (hook / "sitecustomize.py").write_text(KILLER)
    return {"PYTHONPATH": str(hook), "KILL_BEFORE": moment}


@pytest.mark.parametrize(
    ("moment", "epochs"),
    [
        ("best.safetensors:1", None),
        ("last.safetensors:1", None),
        ("history.json:1", 1),
        ("best.safetensors:2", 1),
        ("last.safetensors:2", 1),
        ("history.json:2", 2),
        ("export:1", 2),
        ("predictions.png:1", 2),
    ],
)
def test_a_run_killed_between_two_files_ends_the_same(
    short: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory, moment: str, epochs: int | None
) -> None:
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]
    killed = run(*words, cwd=folder, env=killing(tmp_path_factory.mktemp("hook"), moment))
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    last = folder / MODEL / LAST
    assert last.exists() == (epochs is not None)
    if epochs is not None:
        assert len(load_checkpoint(last).progress.history) == epochs
    train(*(["--resume"] if last.exists() else []), cwd=folder, how=run_here)
    assert_same_run(short, folder / MODEL)
    assert [record["epoch"] for record in history(folder / MODEL)] == [1, 2]
    for name in ("export/weights.npz", "predictions.png"):
        ended, expected = (path / name for path in (folder / MODEL, short))
        assert ended.stat().st_size == expected.stat().st_size
