"""Unknown and missing commands, `help`, and the overview of all commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import COMMANDS, hide_frameworks, run, run_here, succeed

from core.commands import _parser
from core.commands.shared.statuses import MEANINGS


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        ("run.py", ["trian"], "unknown command 'trian'; did you mean 'train'?"),
        ("run.py", ["eval"], "did you mean 'evaluate'?"),
        ("run.py", ["Predict", "--images", "x"], "did you mean 'predict'?"),
        ("run.py", ["-f", "tf", "trian"], "did you mean 'train'?"),
        ("run.py", ["-q", "-ftf", "conformence"], "did you mean 'conformance'?"),
        ("run.py", ["zzz\x1b[31m"], r"unknown command 'zzz\x1b[31m'; the commands are: train, predict, "),
        ("run.py", ["help", "trian"], "did you mean 'train'?"),
        ("preprocess.py", ["verfy"], "did you mean 'verify'?"),
    ],
)
def test_an_unknown_command_gets_the_nearest(
    tmp_path: Path, program: str, words: list[str], says: str
) -> None:
    done = run_here(*words, cwd=tmp_path, program=program)
    assert (done.returncode, done.stdout) == (2, "")
    usage, error = done.stderr.splitlines()
    assert usage.startswith(f"usage: {program} [{'|'.join(COMMANDS[program])}]")
    assert error.startswith(f"{program}: error: ")
    assert says in error


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        ("run.py", [], "-f/--framework NAME for 'train'"),
        ("run.py", ["help"], "write: run.py --help"),
        ("preprocess.py", ["help"], "write: preprocess.py --help"),
    ],
)
def test_who_names_no_command_gets_the_overview(
    tmp_path: Path, program: str, words: list[str], says: str
) -> None:
    done = run_here(*words, cwd=tmp_path, program=program)
    assert (done.returncode, done.stdout) == (2, "")
    overview = succeed("--help", cwd=tmp_path, how=run_here, program=program)
    assert done.stderr.startswith(overview)
    assert says in done.stderr.removeprefix(overview)


def test_help_on_a_command_written_as_elsewhere(tmp_path: Path) -> None:
    done = run_here("help", "predict", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    shown = succeed("predict", "--help", cwd=tmp_path, how=run_here)
    assert done.stderr == f"{shown}run.py: error: 'help' is no command; write: run.py predict --help\n"


@pytest.mark.parametrize("program", COMMANDS)
def test_the_overview_has_each_option_under_its_command(tmp_path: Path, program: str) -> None:
    said = succeed("--help", cwd=tmp_path, how=run_here, program=program)
    body, common = said.split("options of every command:")
    for name in COMMANDS[program]:
        (part,) = re.findall(rf"^  {name} .*\n((?:    .*\n)*)", body, re.MULTILINE)
        long = [word.split("/")[-1] for word in part.split()]
        parser = _parser(program, name)
        options = {option for action in parser._actions for option in action.option_strings}
        shared = {"--help", "--version", "--verbose", "--quiet", "--no-progress"}
        assert {word for word in long if word.startswith("--")} == {
            option for option in options if option.startswith("--")
        } - shared
        assert all(option in common for option in shared)
    for status, meaning in MEANINGS.items():
        assert re.search(rf"^  {re.escape(status)} +{re.escape(meaning)}$", said, re.MULTILINE)


def test_train_without_a_backend_lists_those_that_are_installed(tmp_path: Path) -> None:
    hide_frameworks(tmp_path, "torch")
    done = run("train", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    last = "the following arguments are required: -f/--framework; installed: reference"
    assert done.stderr.splitlines()[-1].startswith(f"run.py train: error: {last}")
    assert "tf" not in done.stderr.splitlines()[-1].split("installed: ")[1]
