"""docs/architecture.md is true of the code: its drawing, its map, and the modules that any page names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmarks.facts import imports

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_DOTTED = re.compile(r"`(?:::: )?((?:core|data|backends|pneumoseg)(?:\.\w+)+)(?:\(\))?`")
_PATH = re.compile(r"`((?:core|data|backends|tests|benchmarks|configs|pneumoseg)/[\w./-]*)`")
_ROW = re.compile(r"^\| `(?P<folder>(?:core|data)/\w+/)` ", re.MULTILINE)


def test_the_drawing_shows_the_imports_of_the_code() -> None:
    drawing = (ROOT / imports.PLACE).read_text("utf-8")
    assert drawing == imports.draw(imports.graph()), "run: python -m benchmarks.facts write lines"


def test_an_arrow_is_left_out_only_where_others_lead_the_same_way() -> None:
    parts = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": {"e"}, "e": set[str]()}
    assert imports.reduced(parts) == {"a": ["b", "d"], "b": ["c"], "c": [], "d": ["e"], "e": []}
    assert imports.rows_of(parts) == [["a"], ["b", "d"], ["c", "e"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_of_the_code_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    missing = [name for name in _DOTTED.findall(text) if not is_there(name)]
    missing += [path for path in _PATH.findall(text) if "<" not in path and not (ROOT / path).exists()]
    assert not missing


def is_there(name: str) -> bool:
    """Whether a module has that dotted name, or a module before its last words defines what they name."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        place = ROOT.joinpath(*words[:count])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.is_file():
            return all(re.search(rf"\b{word}\b", file.read_text("utf-8")) for word in words[count:])
    return False


def test_the_map_has_each_folder_of_core_and_data_once() -> None:
    found = sorted(_ROW.findall((ROOT / "docs" / "architecture.md").read_text("utf-8")))
    assert found == sorted(
        f"{folder}/{path.parent.name}/"
        for folder in ("core", "data")
        for path in ROOT.glob(f"{folder}/*/__init__.py")
    )


def test_each_folder_says_what_lives_there() -> None:
    for folder in ("core", "data"):
        for file in ROOT.glob(f"{folder}/**/__init__.py"):
            assert ast.get_docstring(ast.parse(file.read_text("utf-8"))), file
