"""A sentence is one line at any width of the terminal, so its paths and commands can be copied and searched.

Only tables follow the width. For a log or a pipe, which has no width, it is `COLUMNS`, or 80.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import prepare, run_here, train
from tiny_model import SIZE, radiograph, write_radiograph

MODEL = ["-f", "reference", "--model", "a long name of a folder/reference_model"]
TRAIN = ["run.py", "-f", "reference", "--data", "data.h5", "--config", "network.yaml", "--out"]
COMMANDS: list[tuple[Sequence[str], int]] = [
    ([*TRAIN, "averaged", "--set", "training.average_best=2"], 0),
    ([*TRAIN, "folds", "--folds", "2"], 0),
    (["run.py", "tune", *MODEL, "--data", "data.h5"], 0),
    (
        [
            "run.py",
            "evaluate",
            *MODEL,
            "--data",
            "data.h5",
            "--report",
            "a long name of a report.html",
            "--json",
            "a.json",
        ],
        0,
    ),
    (
        [
            "run.py",
            "predict",
            *MODEL,
            "--images",
            "images",
            "--out",
            "a long name of a table.csv",
            "--json",
            "a.json",
        ],
        3,
    ),
    (["run.py", "export", *MODEL[2:], "--to", "onnx", "--out", "a long name of an export.onnx"], 0),
    (["run.py", "score", "given.csv", "--annotations", "truth.csv", "--missing", "skip"], 0),
    (["run.py", "check", "given.csv", "--images", "images"], 3),
    (["preprocess.py", "--images", "images", "--annotations", "truth.csv", "--out", "a long name.h5"], 3),
    (["preprocess.py", "verify", "data.h5", "--overlays", "a long name of a folder for overlays"], 0),
    (["preprocess.py", "phantoms", "--out", "a long name of phantoms", "--count", "3", "--size", "64"], 0),
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, radiographs, an unreadable file, and tables that lack and add an image."""
    folder = tmp_path_factory.mktemp("original")
    prepare(folder, size=SIZE)
    train("--out", "a long name of a folder", "--epochs", "1", cwd=folder, how=run_here)
    for number in range(2):
        pixels = radiograph(number, 40, 36, bright=number == 0)
        write_radiograph(folder / "images" / f"{number}.dcm", number, pixels)
    (folder / "images" / "one that is no radiograph.dcm").write_bytes(b"no radiograph")
    table = "ImageId,EncodedPixels\n0,1 2\n1,-1\n{},1 2\n"
    (folder / "truth.csv").write_text(table.format("an image that is not there"))
    (folder / "given.csv").write_text(table.format("an image that is somewhere else"))
    return folder


def sentences(output: str) -> list[str]:
    """Return the lines of an output without tables, their titles, times and rates."""
    no_titles = re.sub(r"^.*\n(?=\u250f)", "", output, flags=re.MULTILINE)
    lines = [line for line in no_titles.splitlines() if not re.search("[\u2500-\u257f]|^ |^$", line)]
    return [re.sub(r"[\d.,]+ (images/s|s\b|ms\b)", "", line) for line in lines]


@pytest.mark.parametrize(("words", "status"), COMMANDS, ids=[" ".join(words[:2]) for words, _ in COMMANDS])
def test_a_sentence_is_one_line_at_any_width(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Sequence[str], status: int
) -> None:
    found = []
    for width in ("30", "1000"):
        shutil.copytree(original, tmp_path / width)
        monkeypatch.setenv("COLUMNS", width)
        done = run_here(*words[1:], program=words[0], cwd=tmp_path / width)
        assert done.returncode == status, done.stdout + done.stderr
        found.append(sentences(done.stdout + done.stderr))
    assert found[0] == found[1]
    assert max(map(len, found[0])) > 30
