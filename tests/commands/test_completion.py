"""Completion in bash, and by the protocol that zsh and fish use too."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import argcomplete
import pytest
from command_line import COMMANDS, ROOT, environment, hideable, imported, words_of

from core.backend.registry import GROUP, backend_names, find_backend
from core.experiment.configuration import load_configuration

PLACE = str(Path(argcomplete.__file__).parents[1])
SCRIPT = Path(argcomplete.__file__).parent / "bash_completion.d" / "_python-argcomplete"
OWN = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
EXPORTS = sorted(form for name in backend_names() for form in find_backend(name).exports)


def asked(cwd: Path, line: str, *before: str, **changes: str) -> tuple[list[str], str]:
    """Return the completions of the last word of a line, and standard error."""
    program = "preprocess.py" if line.startswith("preprocess.py") else "run.py"
    reader, writer = os.pipe()
    variables = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    code = f"import os, sys; os.dup2({writer}, 8); os.execv(sys.executable, sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *words_of(program, before=before)],
        cwd=cwd,
        env=environment(PYTHONPATH=PLACE, _ARGCOMPLETE_IFS="\n", **{**variables, **changes}),
        pass_fds=(writer,),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writer)
    with os.fdopen(reader) as proposed:
        found = proposed.read()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return [word.rstrip() for word in found.split("\n") if word], done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file and a folder of each kind."""
    for name in ("data.h5", "mine.yaml", "table.csv"):
        (tmp_path / name).touch()
    for name in ("tf_model", "dicom images"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        # Subcommands, where one may stand.
        ("run.py ", list(COMMANDS["run.py"])),
        ("run.py pre", ["predict"]),
        ("run.py -f tf ", list(COMMANDS["run.py"])),
        ("run.py -ftf ev", ["evaluate"]),
        ("run.py --framework=tf ev", ["evaluate"]),
        ("preprocess.py ", list(COMMANDS["preprocess.py"])),
        ("preprocess.py v", ["verify"]),
        ("run.py predict pre", []),
        # Options: of the subcommand, else of the one that runs without a name.
        ("run.py --ep", ["--epochs"]),
        ("run.py -f tf --da", ["--data"]),
        ("run.py predict --ov", ["--overlays", "--overwrite"]),
        ("run.py -f tf predict --dic", ["--dicom-seg"]),
        ("run.py predict --ep", []),
        ("run.py predict --images d --no", ["--no-progress", "--no-tta"]),
        ("preprocess.py --no-a", ["--no-annotations"]),
        ("preprocess.py phantoms --cou", ["--count"]),
        # Names of backends, configurations, devices, formats, choices, keys.
        ("run.py -f ", backend_names()),
        ("run.py predict --framework t", [name for name in backend_names() if name.startswith("t")]),
        ("run.py parity -f tf -f mx", ["mxnet"]),
        ("run.py config f", [name for name in OWN if name.startswith("f")]),
        ("run.py -f tf --config u", [name for name in OWN if name.startswith("u")]),
        ("run.py --config m", ["mine.yaml"]),
        ("run.py predict --device g", ["gpu", "gpu:0"]),
        ("run.py export --to ", EXPORTS),
        ("run.py evaluate --split ", ["validation", "all"]),
        ("run.py --precision m", ["mixed_bfloat16", "mixed_float16"]),
        ("run.py --set training.early_stop.p", ["training.early_stop.patience="]),
        ("run.py --set network.blocks.0.stri", ["network.blocks.0.stride=", "network.blocks.0.stride_at="]),
        # Files and folders.
        ("run.py --data d", ["data.h5", "dicom\\ images/"]),
        ("run.py predict --model t", ["tf_model/"]),
        ("run.py predict --images d", ["dicom\\ images/"]),
        ("run.py check ta", ["table.csv"]),
        ("preprocess.py verify da", ["data.h5"]),
        ("run.py score --annotations ta", ["table.csv"]),
        # Numbers: nothing.
        ("run.py --epochs ", []),
        ("run.py predict --pixel ", []),
    ],
)
def test_what_is_proposed(place: Path, line: str, proposed: list[str]) -> None:
    assert sorted(asked(place, line)[0]) == sorted(proposed)


def test_after_a_subcommand_its_options_are_proposed(place: Path) -> None:
    found, _ = asked(place, "run.py tune ")
    assert {"--model", "--data", "--tta", "--device"} <= set(found)
    assert not {"tune", "train", "--epochs"} & set(found)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_answered(place: Path, shell: str) -> None:
    answer = place / "answer"
    dfs = {"_ARGCOMPLETE_DFS": "\t"} if shell == "fish" else {}
    asked(place, "run.py ex", _ARGCOMPLETE_SHELL=shell, _ARGCOMPLETE_STDOUT_FILENAME=str(answer), **dfs)
    assert answer.read_text().startswith("export")


@pytest.mark.parametrize("line", ["run.py pre", "run.py predict --o", "run.py -f t", "run.py config d"])
def test_it_is_quick_for_it_imports_next_to_nothing(place: Path, line: str) -> None:
    found, trace = asked(place, line, "-X", "importtime")
    assert found
    modules = imported(trace)
    assert "argcomplete" in modules
    heavy = modules & {
        *hideable(),
        "numpy",
        "pydantic",
        "yaml",
        "rich",
        "h5py",
        "pydicom",
        "backends",
        "data",
    }
    assert not heavy


def test_every_key_that_is_proposed_is_one(place: Path) -> None:
    keys, _ = asked(place, "run.py --set ")
    assert len(keys) > 50
    assert all(key.endswith("=") for key in keys)
    from core.commands.shared.completion import _GROUP

    assert _GROUP == GROUP
    assert "training.optimizer.learning_rate=" in keys
    assert not {"training=", "training.optimizer=", "network.blocks="} & set(keys)
    changes = ["training.epochs=3", "training.augmentation.rotate=5", "network.blocks.0.filters=7"]
    assert {f"{change.split('=')[0]}=" for change in changes} <= set(keys)
    load_configuration(Path("demo"), changes)


def in_bash(cwd: Path, setup: str, words: list[str], call: str) -> list[str]:
    """Return the completions of the last word in bash."""
    line = shlex.join(words)
    script = (
        f"{setup}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE={shlex.quote(line)}\n"
        f"COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9; COMPREPLY=()\n"
        f"{call} {words[0]} {shlex.quote(words[-1])} {shlex.quote(words[-2])}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{cwd / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=cwd,
        env=environment(PYTHONPATH=PLACE, PATH=path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split()


def test_bash_completes_a_command_that_was_registered(place: Path) -> None:
    command = place / "bin" / "pneumoseg"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(words_of("run.py"))} "$@"\n')
    command.chmod(0o755)
    register = "-m argcomplete.scripts.register_python_argcomplete pneumoseg"
    setup = f'eval "$({shlex.quote(sys.executable)} {register})"'
    words = ["pneumoseg", "predict", "-f", "tf", "--ov"]
    assert in_bash(place, setup, words, "_python_argcomplete") == ["--overlays", "--overwrite"]
    assert in_bash(place, setup, ["pneumoseg", "conf"], "_python_argcomplete") == ["config", "conformance"]


def test_bash_completes_python_and_a_program(place: Path) -> None:
    """`activate-global-python-argcomplete` works; its script looks for a mark in the program."""
    for program in COMMANDS:
        (place / program).symlink_to(ROOT / program)
    setup = f"source {shlex.quote(str(SCRIPT))}"
    words = ["python", "run.py", "evaluate", "--spl"]
    assert in_bash(place, setup, words, "_python_argcomplete_global") == ["--split"]
    words = ["python", "preprocess.py", "pha"]
    assert in_bash(place, setup, words, "_python_argcomplete_global") == ["phantoms"]


def test_without_the_package_nothing_is_proposed_and_nothing_is_run(place: Path) -> None:
    hidden = place / "hidden"
    hidden.mkdir()
    (hidden / "argcomplete.py").write_text("raise ImportError('hidden')\n")
    done = subprocess.run(
        words_of("run.py", "backends"),
        cwd=place,
        env=environment(PYTHONPATH=str(hidden), _ARGCOMPLETE="1", COMP_LINE="run.py b", COMP_POINT="8"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
