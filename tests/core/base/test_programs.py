"""Commands as messages show them to the user."""

from __future__ import annotations

import ast
import multiprocessing
import pkgutil
import re
from pathlib import Path

import pytest

import core.commands
from core.base.programs import INSTALLED, PREPROCESS, RUN, command_line, installation, started_as, words_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("program", "command", "words"),
    [
        ("run.py", "train", "python run.py"),
        ("run.py", "tune", "python run.py tune"),
        ("run.py", "preprocess", "python preprocess.py"),
        ("run.py", "phantoms", "python preprocess.py phantoms"),
        ("preprocess.py", "verify", "python preprocess.py verify"),
        ("preprocess.py", "check", "python run.py check"),
        ("preprocess.py", "train", "python run.py"),
        ("pneumoseg", "train", "pneumoseg train"),
        ("pneumoseg", "preprocess", "pneumoseg preprocess"),
        ("python -m pneumoseg", "phantoms", "python -m pneumoseg phantoms"),
    ],
)
def test_a_command_as_the_reader_types_it(program: str, command: str, words: str) -> None:
    with started_as(program):
        assert words_of(command) == words.split()
        assert command_line(command, "-f NAME") == f"{words} -f NAME"
        with started_as("preprocess.py"):
            assert command_line("train") == "python run.py"
        assert command_line(command) == words
    assert command_line(command) == f"pneumoseg {command}"
    with pytest.raises(ValueError, match="no command 'trian'"):
        words_of("trian")


def test_processes_that_are_started_use_the_same_form() -> None:
    with started_as("run.py"), multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(command_line, ("check", "x.csv")) == "python run.py check x.csv"


def test_every_command_is_a_module_and_belongs_to_one_script() -> None:
    assert not set(RUN.commands) & set(PREPROCESS.commands)
    assert set(INSTALLED.commands) == {*RUN.commands, *PREPROCESS.commands}
    modules = {module.name for module in pkgutil.iter_modules(core.commands.__path__)}
    assert set(INSTALLED.commands) <= modules


def test_a_line_that_installs_is_for_this_checkout() -> None:
    """tests/test_package.py tests the command for an installed package."""
    assert installation("torch") == "pip install -e '.[torch]' -c constraints.txt"
    assert installation() == "pip install -e . -c constraints.txt"


def test_no_message_names_a_program_by_itself() -> None:
    """Messages must use `core.base.programs`. Comments and docstrings may name a program."""
    named = re.compile(r"\b(run|preprocess)\.py\b")
    found = []
    for package in ("core", "data", "backends", "pneumoseg"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path == ROOT / "core" / "base" / "programs.py":
                continue
            for number, text in shown_texts(path):
                if named.search(text):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {text[:60]!r}")
    assert not found


def shown_texts(path: Path) -> list[tuple[int, str]]:
    """Return the strings of a module that are no docstrings, with their line numbers."""
    tree = ast.parse(path.read_text())
    told = {
        id(node.value)
        for parent in ast.walk(tree)
        if isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for node in parent.body
        if isinstance(node, ast.Expr)
    }
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told
    ]
