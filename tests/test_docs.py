"""README.md and docs/: links exist, command lines parse, examples run, every option is explained.

`tests/commands/test_python_interface.py` runs docs/python.md, `tests/commands/test_export_command.py` the
examples of docs/export.md, `tests/test_facts.py` compares the measured tables. `make docs` builds the site.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from core.base.programs import INSTALLED, PREPROCESS, RUN, Program
from core.commands import _parser
from core.commands.shared.options import add_common_options
from core.commands.shared.overview import named
from core.commands.shared.parser import Parser
from core.experiment.configuration import known_keys

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *PAGES,
    *sorted((ROOT / "docs").glob("*/*.md")),
]
PROGRAMS = {"run.py": RUN, "preprocess.py": PREPROCESS, "pneumoseg": INSTALLED}

_BLOCK = re.compile(r"^ *```(?P<language>\w*)[^\n]*\n(?P<content>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_COMMAND = re.compile(
    r"^(\$ )?(\w+=\S+ )*(\S*python\S* (-m )?)?(?P<program>run\.py|preprocess\.py|pneumoseg) "
)
_SHELL = re.compile(r"[|;<>&]|\d?>.*|\|\||&&")  # the end of a command line
_SYNOPSIS = re.compile(r"(^|\s)\[|\.\.\.|…")  # a synopsis with optional parts, not a command line

PAGE_OR_DOCUMENT = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)


class Block(NamedTuple):
    """A fenced block: its language ("" if none), its text, and the number of its first line."""

    language: str
    content: str
    line: int
    runs: bool


class CommandLine(NamedTuple):
    """A command line in a document.

    Args:
        place: The document and the line.
        program: "run.py", "preprocess.py" or "pneumoseg".
        text: What stands after it.
        whole: Whether it can be typed as it stands.
    """

    place: str
    program: str
    text: str
    whole: bool


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks; those after a line `<!-- runs -->` are run."""
    return [
        Block(
            found["language"],
            found["content"],
            text.count("\n", 0, found.start()) + 2,
            text[: found.start()].endswith("<!-- runs -->\n"),
        )
        for found in _BLOCK.finditer(text)
    ]


def prose_of(text: str) -> str:
    """Return the text with empty lines for fenced blocks."""
    return _BLOCK.sub(lambda found: "\n" * found[0].count("\n"), text)


def anchors_of(text: str) -> list[str]:
    """Return the anchors that GitHub and mkdocs (with mkdocs.yml) make of the headings, without numbers."""
    headings = re.findall(r"^#{1,6} +(.+?) *#*$", prose_of(text), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return [re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain]


# Links


@PAGE_OR_DOCUMENT
def test_every_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    without_code = re.sub(r"`[^`]*`", "", prose_of(text))
    wrong = []
    for found in _LINK.finditer(without_code):
        target = found["target"]
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        if not there.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors_of(there.read_text(encoding="utf-8")):
            wrong.append(f"{target}: no such heading")
        elif (ROOT / "docs") in document.parents and (ROOT / "docs") not in there.parents:
            wrong.append(f"{target}: the site has only what is in docs/")
    assert not wrong, f"{document.name}: " + "; ".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_has_no_heading_twice(page: Path) -> None:
    anchors = anchors_of(page.read_text(encoding="utf-8"))
    assert len(anchors) == len(set(anchors)), "their anchors would be numbered"


def test_the_sites_navigation_has_every_page_once() -> None:
    navigation = re.findall(r"^  - .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(navigation) == [page.name for page in PAGES]


# Examples


def test_python_examples_are_python() -> None:
    for document in DOCUMENTS:
        for block in blocks_of(document.read_text(encoding="utf-8")):
            if block.language == "python":
                ast.parse(block.content, f"{document.name}, line {block.line}")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_examples_that_are_marked_run(page: Path, tmp_path: Path) -> None:
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.runs:
            assert block.language == "python"
            code = compile("\n" * (block.line - 1) + block.content, str(page), "exec")
            with contextlib.chdir(tmp_path), contextlib.redirect_stdout(io.StringIO()):
                exec(code, {"__name__": "example"})


def test_some_examples_are_marked() -> None:
    assert sum(block.runs for page in PAGES for block in blocks_of(page.read_text(encoding="utf-8"))) >= 2


# Command lines


def _lines(content: str) -> Iterator[tuple[int, str]]:
    """Return lines with their number from 0; continued and indented lines are joined."""
    joined: list[tuple[int, str]] = []
    for number, line in enumerate(content.splitlines()):
        if joined and (joined[-1][1].endswith("\\") or re.match(r" {4,}[\[-]", line)):
            joined[-1] = (joined[-1][0], f"{joined[-1][1].rstrip(chr(92))} {line.strip()}")
        else:
            joined.append((number, line.strip()))
    yield from joined


def command_lines(document: Path) -> list[CommandLine]:
    """Return all command lines of a document, also those within a sentence."""
    text = document.read_text(encoding="utf-8")
    found = []
    for block in blocks_of(text):
        for number, line in _lines(block.content) if block.language in ("", "sh", "bash", "console") else ():
            if (start := _COMMAND.match(line)) is not None and "<TAB>" not in line:
                rest = line[start.end() :]
                whole = not _SYNOPSIS.search(rest.partition(" #")[0])
                found.append(
                    CommandLine(f"{document.name}, line {block.line + number}", start["program"], rest, whole)
                )
    for span in re.finditer(r"`([^`]+)`", prose_of(text)):
        if (start := _COMMAND.match(span[1])) is not None:
            place = f"{document.name}, line {text.count(chr(10), 0, span.start()) + 1}"
            found.append(CommandLine(place, start["program"], span[1][start.end() :], whole=False))
    return found


def _words(text: str) -> list[str]:
    """Return the words up to a comment, a pipe or a redirection."""
    words = shlex.split(text.replace("\n", " "), comments=True)
    end = next((place for place, word in enumerate(words) if _SHELL.fullmatch(word)), len(words))
    return words[:end]


def _name_and_words(program: Program, words: list[str]) -> tuple[str, list[str]]:
    name, others = named(program.commands, words)
    return name or program.commands[0], others


def _fault(line: CommandLine) -> str | None:
    """Return what is wrong with a command line; None if nothing is."""
    program = PROGRAMS[line.program]
    words = _words(line.text)
    if {"--help", "-h", "--version"} & {*words} or not words:
        return None
    first = next((word for word in words if not word.startswith("-")), None)
    if words[0] == first and first not in program.commands and line.whole:
        return f"{line.program} has no command {first}"
    name, others = _name_and_words(program, words)
    parser = _parser(line.program, name)
    for word in others:
        for option in re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", word.partition("=")[0]):
            if option not in parser._option_string_actions:
                return f"{name} has no option {option}"
    if line.whole:
        error = io.StringIO()
        try:
            with contextlib.redirect_stderr(error):
                arguments = parser.parse_args(others)
        except SystemExit:
            return error.getvalue().strip().splitlines()[-1]
        return _unknown_key([*getattr(arguments, "set", ())])
    return None


def _unknown_key(settings: list[str]) -> str | None:
    """Return the first `KEY=VALUE` whose key no configuration has."""
    keys = known_keys()
    for setting in settings:
        parts = [part for part in re.split(r"[.\[\]]+", setting.partition("=")[0]) if part]
        key = tuple(None if part.isdigit() else part for part in parts)
        if key not in keys:
            return f"--set {setting}: no such key"
    return None


@PAGE_OR_DOCUMENT
def test_every_command_line_parses(document: Path) -> None:
    faults = [f"{line.place}: {fault}" for line in command_lines(document) if (fault := _fault(line))]
    assert not faults, "\n".join(faults)


def test_command_lines_are_found_and_wrong_ones_told(tmp_path: Path) -> None:
    assert sum(line.whole for document in DOCUMENTS for line in command_lines(document)) > 60
    page = tmp_path / "page.md"
    page.write_text(
        "Run `python run.py evaluate --raport x`.\n\n```\npython run.py -f tf --epochs 3  # isn't it\n"
        "python run.py trian -f tf\npython preprocess.py --size large\npneumoseg score --missing never\n"
        "python run.py -f tf --set training.learning_rate=1\npython run.py -f tf \\\n    --epoch 3\n```\n"
    )
    told = [_fault(line) for line in command_lines(page)]
    assert [None if fault is None else re.sub(r".*error: ", "", fault)[:32] for fault in told] == [
        None,
        "run.py has no command trian",
        "argument --size: invalid int val",
        "argument --missing: invalid choi",
        "--set training.learning_rate=1: ",
        "train has no option --epoch",
        "evaluate has no option --raport",
    ]


@pytest.mark.parametrize("name", INSTALLED.commands)
def test_every_option_is_explained(name: str) -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    common = Parser()
    add_common_options(common)
    shared = set(common._option_string_actions)
    own = set(_parser("run.py", name)._option_string_actions) - shared
    assert {option for option in own if not re.search(rf"`{option}\b", section[1])} == set()
