"""The options of every command: --version, -q, -v, --no-progress, and the short forms of others."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import (
    COMMANDS,
    assert_one_error,
    assert_same_run,
    content,
    hideable,
    imported,
    refused,
    run,
    run_here,
    succeed,
    train,
)

from core.backend.registry import backend_names, find_backend
from core.commands import _parser
from core.commands.shared import progress, terminal

MODEL = "reference_model"
BROKEN = "broken.dcm"
PREDICT = ("predict", "--images", "images", "-j", "1")
TABLE = "ImageId,EncodedPixels\n0,1 2\n1,-1\n"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("run.py", ["--version"]),
        ("run.py", ["predict", "--version"]),
        ("preprocess.py", ["--version"]),
        ("preprocess.py", ["verify", "--version"]),
    ],
)
def test_the_version_is_one_line(tmp_path: Path, program: str, words: list[str]) -> None:
    said = succeed(*words, cwd=tmp_path, how=run_here, program=program)
    assert said == f"pneumoseg {importlib.metadata.version('pneumoseg')}\n"


@pytest.mark.parametrize(
    "words", [["--version", "-v"], ["-v", "--version"], ["tune", "--verbose", "--version"]]
)
def test_all_versions_are_told_without_importing_a_framework(tmp_path: Path, words: list[str]) -> None:
    done = run(*words, cwd=tmp_path, before=["-X", "importtime"])
    assert done.returncode == 0
    first, *lines = done.stdout.splitlines()
    assert first.startswith("pneumoseg ")
    told = dict(line.rsplit(" ", 1) for line in lines)
    expected = {"Python": platform.python_version(), "NumPy": importlib.metadata.version("numpy")}
    for name in backend_names():
        backend = find_backend(name)
        if backend.is_available():
            expected[backend.title] = str(backend.version())
    assert told == expected
    assert not imported(done.stderr) & set(hideable())


def test_quiet_leaves_the_work_alone(place: Path) -> None:
    with_words = {
        "said": (*PREDICT, "-f", "reference", "--out", "a.csv"),
        "quiet": (*PREDICT, "-f", "reference", "--out", "b.csv", "-q"),
    }
    assert "3 images predicted" in succeed(*with_words["said"], cwd=place, how=run_here)
    assert succeed(*with_words["quiet"], cwd=place, how=run_here) == ""
    assert (place / "a.csv").read_bytes() == (place / "b.csv").read_bytes()


def test_quiet_training_says_nothing_and_is_the_same(folder: Path) -> None:
    assert train("-q", cwd=folder, how=run_here) == ""
    assert train("-o", "other", cwd=folder, how=run_here).count("epoch ") >= 2
    assert_same_run(folder / MODEL, folder / "other" / MODEL)


@pytest.mark.parametrize("before", [True, False], ids=["before the name", "after it"])
def test_quiet_keeps_errors_and_faults(place: Path, before: bool) -> None:
    (place / "images" / BROKEN).write_text("no radiograph\n")
    words = [*PREDICT, "-f", "reference"]
    words = ["-q", *words] if before else [*words, "-q"]
    said = succeed(*words, cwd=place, how=run_here, status=3)
    title = "unreadable (its row in the submission says -1, no pneumothorax)"
    assert said == f"{title}: {BROKEN}: it is no DICOM file\n"
    refused(*words, cwd=place, how=run_here, says=["submission.csv exists already"])


def test_quiet_keeps_what_was_asked_for(place: Path) -> None:
    score = ("score", "sent.csv", "--annotations", "truth.csv")
    table = succeed(*score, "-q", cwd=place, how=run_here)
    assert table == succeed(*score, cwd=place, how=run_here)
    done = run_here(*score, "-q", "--json", "-", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["images"] == 3
    (place / "bad.csv").write_text(f"{TABLE}1,-1\n")
    done = run_here("check", "bad.csv", "--json", "-", "-q", cwd=place)
    assert (done.returncode, json.loads(done.stdout)["valid"]) == (3, False)
    assert done.stderr.splitlines() == ["fault: row 4: 1: the id has come before, in row 3; one row an image"]


def test_verbose_shows_every_remark_versions_and_the_time(place: Path) -> None:
    rows = "".join(f"{number},-1\n" for number in range(9))
    (place / "bad.csv").write_text(f"ImageId,EncodedPixels\n{rows}{rows}")
    few = succeed("check", "bad.csv", cwd=place, how=run_here, status=3)
    assert few.count("the id has come before") == 5
    assert "and 4 more of this kind" in few
    done = run_here("check", "bad.csv", "-v", cwd=place)
    assert done.stdout.count("the id has come before") == 9
    assert "more of this kind" not in done.stdout
    versions, time = done.stderr.splitlines()
    assert versions.startswith(f"pneumoseg {importlib.metadata.version('pneumoseg')}, Python ")
    assert re.fullmatch(r"check: \d+\.\d s, exit status 3", time)


def test_verbose_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    words = ("score", "nowhere.csv")
    assert_one_error(run_here(*words, cwd=tmp_path), "cannot read the submission nowhere.csv")
    done = run_here(*words, "-v", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot read the submission nowhere.csv")


def test_quiet_and_verbose_exclude_each_other(tmp_path: Path) -> None:
    done = run_here("backends", "-q", "-v", cwd=tmp_path)
    assert done.returncode == 2
    assert "not allowed with" in done.stderr


def test_bars_are_hidden_when_asked(tmp_path: Path) -> None:
    words = ("phantoms", "--count", "2", "--size", "64", "-j", "1")
    options: dict[str, Any] = {"cwd": tmp_path, "how": run_here, "program": "preprocess.py"}
    assert "drawing" in succeed(*words, "-o", "one", **options)
    assert "drawing" not in succeed(*words, "-o", "two", "--no-progress", **options)
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert len(one) > 2
    assert one == two


@pytest.mark.parametrize(("quiet", "wanted"), [(False, True), (False, False), (True, True)])
def test_bars_in_a_terminal(quiet: bool, wanted: bool) -> None:
    with terminal.showing(quiet=quiet, verbose=False, progress=wanted):
        console = terminal.console()
        console._force_terminal = True
        assert progress.progress_bar(console).disable == (quiet or not wanted)
        assert progress.bar_of(console).disable == (quiet or not wanted)
    assert not terminal.hides_progress()


@pytest.mark.parametrize("program", COMMANDS)
def test_out_and_workers_have_short_forms_everywhere(program: str) -> None:
    for name in COMMANDS[program]:
        parser: argparse.ArgumentParser = _parser(program, name)
        by_long = {
            action.option_strings[-1]: action.option_strings
            for action in parser._actions
            if action.option_strings
        }
        for long, short in (("--out", "-o"), ("--workers", "-j"), ("--verbose", "-v"), ("--quiet", "-q")):
            assert by_long.get(long, [short, long]) == [short, long], name
