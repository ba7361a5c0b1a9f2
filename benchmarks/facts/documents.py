"""Tables in documents: between two marks stands what a record renders to, and nothing else.

Promises: text outside of the marks stays byte for byte. A mark without its end, an end without its mark, and
the name of a table that there is not are errors that name the document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from core.base.errors import UserError

_END = "<!-- /facts -->"
_MARKS = re.compile(rf"<!-- facts: (?P<name>[^ ]+) -->|{_END}")


def documents(root: Path) -> list[Path]:
    """README.md and docs/*.md."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def rendered(text: str, render: Callable[[str], str], document: str = "the text") -> str:
    """The text with every table made anew.

    Args:
        text: Of a document.
        render: What stands between the marks of the table of that name.
        document: For messages.

    Raises:
        UserError: Marks are not paired.
    """
    parts, place = [], 0
    for name, begin, end in _tables(text, document):
        parts += [text[place:begin], render(name)]
        place = end
    return "".join([*parts, text[place:]])


def tables_of(text: str, document: str = "the text") -> dict[str, str]:
    """By its name, what stands between the marks of each table."""
    return {name: text[begin:end] for name, begin, end in _tables(text, document)}


def _tables(text: str, document: str) -> Iterator[tuple[str, int, int]]:
    """Name, begin and end of what stands between marks."""
    opened: re.Match[str] | None = None
    for mark in _MARKS.finditer(text):
        if (mark["name"] is None) == (opened is None):
            line = text.count("\n", 0, mark.start()) + 1
            raise UserError(f"{document}, line {line}: {mark[0]} comes where the other mark is due")
        if opened is None:
            opened = mark
        else:
            yield opened["name"], opened.end(), mark.start()
            opened = None
    if opened is not None:
        raise UserError(f"{document}: {opened[0]} has no {_END} after it")
