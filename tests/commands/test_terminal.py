"""Terminals and logs: other encodings, hostile file names, a closed pipe, a full disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import ROOT, environment, prepare, run, words_of
from tiny_model import SIZE, radiograph, write_model, write_radiograph

POSIX = pytest.mark.skipif(os.name == "nt", reason="names and descriptors as POSIX has them")
HOSTILE = "胸\x1b[31m\nforged é"  # it changes the colour and starts a new line
SHOWN = r"\x1b[31m\nforged"
NOT_UTF8 = os.fsdecode(b"\xff")

pytestmark = [pytest.mark.turns(3), POSIX]

PREDICT = ("run.py", "predict", "-f", "numpy", "--images", "images", "--overwrite", "-o", f"{HOSTILE}.csv")
EVALUATE = ("run.py", "evaluate", "-f", "reference", "--data", f"{HOSTILE}.h5", "--split", "all")
# Command lines, and their exit statuses.
COMMANDS: list[tuple[Sequence[str], int]] = [
    (PREDICT, 3),
    ((*EVALUATE, "--report", f"{HOSTILE}.html"), 0),
    (("run.py", "export", "--model", "reference_model", "--to", "onnx", "--out", f"{HOSTILE}.onnx"), 0),
    (("run.py", "score", f"{HOSTILE}.csv", "--annotations", "truth.csv", "--missing", "skip"), 0),
    (("run.py", "check", f"{HOSTILE}.csv", "--images", "images"), 3),
    (("run.py", "check", f"{HOSTILE}.missing.csv"), 1),
    ((*PREDICT, f"--{HOSTILE}"), 2),
    (("run.py", "-f", HOSTILE), 1),
    (("run.py", "-f", "reference", "--set", f"{HOSTILE}=3"), 1),
    (("preprocess.py", "--images", "images", "--annotations", "truth.csv", "--out", f"{HOSTILE}.out.h5"), 3),
    (("preprocess.py", "verify", f"{HOSTILE}.h5", "--overlays", HOSTILE), 0),
    (("preprocess.py", "phantoms", "--out", f"{HOSTILE}.demo", "--count", "3", "--size", "64"), 0),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a model, data, tables and radiographs; one file is unreadable and has a hostile name."""
    prepare(tmp_path, size=SIZE)
    write_model(tmp_path / "reference_model")
    (tmp_path / "data.h5").rename(tmp_path / f"{HOSTILE}.h5")
    for number in range(2):
        pixels = radiograph(number, 40, 36, bright=number == 0)
        write_radiograph(tmp_path / "images" / f"{number}.dcm", number, pixels)
    for name in (HOSTILE, NOT_UTF8):
        (tmp_path / "images" / f"{name}.dcm").write_bytes(b"no radiograph")
    table = "ImageId,EncodedPixels\n0,1 2\n1,-1\n胸部,1 2\n"
    (tmp_path / f"{HOSTILE}.csv").write_text(table, encoding="utf-8")
    (tmp_path / "truth.csv").write_text(table, encoding="utf-8")
    return tmp_path


def known(words: Sequence[str]) -> str:
    """Return a test's name without the hostile file name."""
    return " ".join(word for word in words[:4] if HOSTILE not in word)


def run_in(encoding: dict[str, str], *words: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a command with another encoding of its streams, or of the whole process."""
    variables = environment()
    variables.pop("PYTHONIOENCODING")
    return subprocess.run(
        words_of(*words),
        cwd=cwd,
        env={**variables, **encoding},
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "encoding",
    [
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "cp1252", "ascii file system"],
)
@pytest.mark.parametrize(("words", "status"), COMMANDS, ids=[known(words) for words, _ in COMMANDS])
def test_every_command_shows_names_as_escapes(
    place: Path, encoding: dict[str, str], words: Sequence[str], status: int
) -> None:
    done = run_in(encoding, *words, cwd=place)
    said = done.stdout + done.stderr
    assert done.returncode == status, said.decode("latin-1")
    assert b"Traceback" not in said
    assert b"\x1b" not in said
    assert not any(line.startswith(b"forged") for line in said.splitlines())
    # A table may break the name over several lines.
    assert b"forged" in said


def test_helps_and_lists(place: Path) -> None:
    for words in (["run.py", "--help"], ["run.py", "predict", "--help"], ["preprocess.py", "--help"]):
        done = run_in({"PYTHONIOENCODING": "ascii:strict"}, *words, cwd=place)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.isascii()


def on_a_terminal(*words: str, cwd: Path, encoding: str) -> tuple[int, bytes]:
    """Run a command on a terminal; return its exit status and output."""
    import pty

    terminal, ours = pty.openpty()
    process = subprocess.Popen(
        words_of(*words),
        cwd=cwd,
        env=environment(PYTHONIOENCODING=encoding, TERM="xterm"),
        stdin=ours,
        stdout=ours,
        stderr=ours,
        start_new_session=True,
    )
    os.close(ours)
    sent = bytearray()
    try:
        while part := os.read(terminal, 4096):
            sent += part
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return process.wait(timeout=60), bytes(sent)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii:strict"])
@pytest.mark.parametrize(("words", "status"), COMMANDS[:5], ids=[known(words) for words, _ in COMMANDS[:5]])
def test_names_cannot_steer_a_terminal(place: Path, words: Sequence[str], status: int, encoding: str) -> None:
    found, sent = on_a_terminal(*words, cwd=place, encoding=encoding)
    assert found == status, sent.decode("latin-1")
    assert b"\x1b[31m\n" not in sent
    assert b"\x1b[31m\r\n" not in sent
    assert SHOWN.encode() in sent
    assert not any(line.startswith(b"forged") for line in sent.splitlines())
    if encoding != "utf-8":
        assert sent.isascii()


def screen(sent: bytes) -> list[str]:
    """Return the lines that a terminal shows at the end, after the control sequences that erase a bar."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", sent.decode()):
        if part == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif moved := re.fullmatch(r"\x1b\[(\d+)A", part):
            row -= int(moved[1])
        elif not part.startswith(("\x1b", "\r")):
            lines[row] += part  # what is written over was erased before
    return lines


@pytest.mark.parametrize("words", [PREDICT, EVALUATE], ids=["predict", "evaluate"])
def test_no_bar_is_left_on_the_screen(place: Path, words: Sequence[str]) -> None:
    """A bar was shown: its line characters are heavier than those of a table."""
    status, sent = on_a_terminal(*words, cwd=place, encoding="utf-8")
    assert status == (3 if words is PREDICT else 0), sent.decode()
    bar = "\u2501" * 10
    assert bar in re.sub("\x1b[^m]*m", "", sent.decode())
    left = [line for line in screen(sent) if bar in line and not set(line) & set("┏┓┡┩")]
    assert not left
    assert any(line.strip() for line in screen(sent))


def test_brackets_in_a_name_are_no_markup(place: Path) -> None:
    """The description of a bar on a terminal has the model's name."""
    shutil.copytree(place / "reference_model", place / "m[" / "x]")
    status, sent = on_a_terminal(*EVALUATE, "--model", "m[/x]", cwd=place, encoding="utf-8")
    assert status == 0, sent.decode()


def train(epochs: int) -> list[str]:
    words = ["-f", "reference", "--data", f"{HOSTILE}.h5", "--config", "network.yaml", "--out", "out"]
    return words_of("run.py", *words, "--epochs", str(epochs))


def test_training_goes_on_without_a_reader(place: Path) -> None:
    """A reader that closes the pipe (`| head -1`) changes neither the files nor the status."""
    pipe = subprocess.Popen(
        train(3), cwd=place, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert pipe.stdout is not None
    assert pipe.stderr is not None
    pipe.stdout.readline()
    pipe.stdout.close()
    said = pipe.stderr.read()
    assert (pipe.wait(timeout=60), said) == (0, b"")
    pipe.stderr.close()
    records = json.loads((place / "out" / "reference_model" / "history.json").read_text())
    assert len(records) == 3
    assert (place / "out" / "reference_model" / "thresholds.json").exists()


def test_training_goes_on_without_its_terminal(place: Path) -> None:
    """The window or the connection is closed. Only SIGHUP would end the command; `nohup` prevents that."""
    import pty

    terminal, ours = pty.openpty()
    process = subprocess.Popen(train(3), cwd=place, env=environment(), stdout=ours, stderr=ours)
    os.close(ours)
    os.read(terminal, 1)
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    records = json.loads((place / "out" / "reference_model" / "history.json").read_text())
    assert len(records) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_log_on_a_full_disk_costs_the_log_alone(place: Path) -> None:
    """The work is completed; then one error says that standard output is incomplete."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            train(2), cwd=place, env=environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "error: cannot write standard output: No space left on device"
    assert len(lines) == 2
    records = json.loads((place / "out" / "reference_model" / "history.json").read_text())
    assert len(records) == 2


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing_that_is_written(place: Path, redirect: str) -> None:
    options = ["-f", "reference", "--images", "images", "--masks", "masks", "--probabilities", "p.h5"]
    words = ["predict", *options, "--out", "s.csv"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *words_of("run.py", *words)],
        cwd=place,
        env=environment(),
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 3, done.stderr  # one file is no DICOM file
    written = [(place / "s.csv").read_bytes(), (place / "p.h5").read_bytes()]
    assert len(list((place / "masks").iterdir())) == 2
    assert run(*words, "--overwrite", cwd=place).returncode == 3
    assert written == [(place / "s.csv").read_bytes(), (place / "p.h5").read_bytes()]


NOISY = """
import sys
sys.path[:0] = [{root!r}, {folder!r}]
import noisy
from core.backend.process import BackendProcess
from core.processes.pool import map_in_order
if __name__ == "__main__":
    with BackendProcess("reference") as process:
        print(process.call(noisy.in_a_backend))
    print(*map_in_order(noisy.in_a_worker, [1, 2, 3], workers=2, on_crash=noisy.in_a_worker))
"""


def test_what_other_processes_print(tmp_path: Path) -> None:
    """A framework or a decoder may print a hostile name; the command must not fail."""
    (tmp_path / "noisy.py").write_text(
        "def in_a_backend(_):\n    print('\\u80f8 a')\n    return 'done'\n"
        "def in_a_worker(number):\n    print('\\u80f8 b', flush=True)\n    return number\n"
    )
    script = tmp_path / "script.py"
    script.write_text(NOISY.format(root=str(ROOT), folder=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment(PYTHONIOENCODING="ascii:strict"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert {"done", "1 2 3"} <= set(done.stdout.splitlines())
    assert done.stdout.count("\\u80f8 b") == 3


BROKEN = r"""
import os, sys
if sys.argv[1:2] == ["reference"]:
    os.write(2, b"\xff\xe9 \x1b[31m")
    os._exit(3)
"""


def test_a_broken_backends_words_may_be_any_bytes(tmp_path: Path) -> None:
    """`run.py backends` probes each framework in a process, and shows the last line of its output."""
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    settings = {"PYTHONPATH": str(tmp_path), "PYTHONIOENCODING": "ascii:strict"}
    done = run("backends", cwd=tmp_path, env=settings)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "exit status 3" in done.stdout
