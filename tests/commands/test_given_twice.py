"""Contradictory options, or an option without effect, are wrong usage."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from command_line import content, run_here

from core.commands.shared.statuses import Status


def wrong(folder: Path, *words: str, program: str = "run.py") -> str:
    """Run a command; assert wrong usage and unchanged files; return the last line of its message."""
    before = content(folder)
    done = run_here(*words, program=program, cwd=folder)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert done.stderr.startswith(f"usage: {program}")
    assert content(folder) == before
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "option", "first", "second"),
    [
        (["-f", "onnx", "-f", "reference"], "-f/--framework", "onnx", "reference"),
        (["-f", "onnx", "train", "-f", "reference"], "-f/--framework", "onnx", "reference"),
        (["train", "--framework=tf", "-freference"], "-f/--framework", "tf", "reference"),
        (["-f", "reference", "--epochs", "3", "--seed", "1", "--epochs", "4"], "--epochs", "3", "4"),
        (["-f", "reference", "--resume", "--resume", "other"], "--resume", "", "other"),
        (["predict", "-f", "tf", "--images", "a", "--images", "b"], "--images", "a", "b"),
        (
            ["predict", "-f", "tf", "--images", "a", "--pixel", "0.25", "--pixel=0.5"],
            "--pixel",
            "0.25",
            "0.5",
        ),
        (["evaluate", "-f", "tf", "--split", "all", "--split", "validation"], "--split", "all", "validation"),
        (["parity", "-f", "tf", "--steps", "3", "--steps", "4"], "--steps", "3", "4"),
        (["tune", "-f", "tf", "--device", "cpu", "--device", "gpu"], "--device", "cpu", "gpu"),
        (["export", "--model", "a", "--to", "onnx", "--model", "b"], "--model", "a", "b"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_with_two_values(
    tmp_path: Path, words: list[str], option: str, first: str, second: str
) -> None:
    output = wrong(tmp_path, *words)
    assert f"argument {option}: " in output
    assert f"takes one value; received '{first}' and '{second}'" in output


def test_a_switch_that_is_turned_on_and_off(tmp_path: Path) -> None:
    words = ["predict", "-f", "tf", "--images", "a", "--tta", "--tta", "--no-tta"]
    assert wrong(tmp_path, *words).endswith("takes one value; received --tta and --no-tta")


@pytest.mark.parametrize(
    "words", [["--size", "64", "--size", "65"], ["verify", "--overlays", "a", "--overlays", "b"]]
)
def test_an_option_of_the_other_program(tmp_path: Path, words: list[str]) -> None:
    assert "received" in wrong(tmp_path, *words, program="preprocess.py")


def test_the_same_value_twice_is_no_contradiction(tmp_path: Path) -> None:
    done = run_here("-f", "xyz", "--epochs", "3", "-f", "xyz", "--epochs", "3", cwd=tmp_path)
    assert done.returncode == 1
    assert "unknown backend 'xyz'" in done.stderr


def test_a_number_that_does_not_equal_itself_is_one_value(tmp_path: Path) -> None:
    words = ["predict", "-f", "xyz", "--images", "a", "--pixel", "nan"]
    assert "unknown backend 'xyz'" in run_here(*words, cwd=tmp_path).stderr


def test_options_that_may_be_repeated_still_may(tmp_path: Path) -> None:
    words = ["evaluate", "-f", "xyz", "-f", "xyz2", "--model", "a", "--model", "b", "c"]
    done = run_here(*words, cwd=tmp_path)
    assert (done.returncode, "unknown backend 'xyz'" in done.stderr) == (1, True)


def test_a_key_that_is_set_to_two_values(folder: Path) -> None:
    words = ["-f", "reference", "--config", "network.yaml", "--data", "data.h5"]
    before = content(folder)
    for two in (
        ["--set", "training.epochs=3", "--set", "training.epochs=4"],
        ["--set", "training.epochs=3", "--epochs", "4"],
    ):
        done = run_here(*words, *two, cwd=folder)
        assert done.returncode == 1, done.stderr
        assert "training.epochs is set to 3 and to 4" in done.stderr
    assert content(folder) == before


@pytest.mark.parametrize(
    ("program", "words", "option", "needs"),
    [
        (
            "run.py",
            ["predict", "-f", "tf", "--images", "a", "--annotations", "b"],
            "--annotations",
            "--overlays",
        ),
        ("preprocess.py", ["verify", "a.h5", "--count", "12"], "--count", "--overlays"),
        ("preprocess.py", ["verify", "a.h5", "--seed", "0"], "--seed", "--overlays"),
    ],
)
def test_an_option_that_needs_another(
    tmp_path: Path, program: str, words: list[str], option: str, needs: str
) -> None:
    assert f"argument {option}: has no effect without {needs}" in wrong(tmp_path, *words, program=program)


def test_parity_takes_a_batch_size_and_a_precision_that_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--set` must not be replaced by parity's own defaults (a past defect)."""
    from core.commands import parity

    seen = []

    def see(_: object, arguments: argparse.Namespace) -> Status:
        seen.append(parity._configuration(arguments))
        return Status.DONE

    monkeypatch.setattr(parity, "_run", see)
    words = ["parity", "-f", "reference", "--config", "demo"]
    for more, expected in (
        ([], (8, "float64")),
        (["--set", "training.batch_size=3", "--set", "training.precision=float32"], (3, "float32")),
        (["--batch-size", "5", "--precision", "float32"], (5, "float32")),
        (["--batch-size", "5", "--set", "training.batch_size=5"], (5, "float64")),
    ):
        assert run_here(*words, *more, cwd=tmp_path).returncode == 0
        training = seen.pop().training
        assert (training.batch_size, training.precision) == expected
