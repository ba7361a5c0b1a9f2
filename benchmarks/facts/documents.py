"""Replacement of tables in documents, between two marks.

Text outside of the marks stays byte for byte. A mark without its end, an end without its mark, and an unknown
table are errors that name the document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from core.base.errors import UserError

_END = "<!-- /facts -->"
_MARKS = re.compile(rf"<!-- facts: (?P<name>[^ ]+) -->|{_END}")


def documents(root: Path) -> list[Path]:
    """Return README.md and docs/*.md."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def rendered(text: str, render: Callable[[str], str], document: str = "the text") -> str:
    """Return the text with every table rendered again.

    Args:
        text: Of a document.
        render: A function from a table's name to the text between its marks.
        document: The document's name, for messages.

    Raises:
        UserError: Marks are not paired.
    """
    parts, place = [], 0
    for name, begin, end in _tables(text, document):
        parts += [text[place:begin], render(name)]
        place = end
    return "".join([*parts, text[place:]])


def tables_of(text: str, document: str = "the text") -> dict[str, str]:
    """Return the text between the marks of each table, by the table's name."""
    return {name: text[begin:end] for name, begin, end in _tables(text, document)}


def _tables(text: str, document: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, begin and end of the text between marks."""
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
