"""A parser of the report page, for tests."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

NOW = datetime(2021, 3, 4, 5, 6, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>'\"&amp;\u202egnp.\ud800\n{{ 7 * 7 }}"
VOID = {"img", "meta", "br", "hr", "link", "input"}
OPTIONAL_END = {"td", "th", "tr", "li", "p", "dt", "dd"}


class Page(HTMLParser):
    """The parsed page: its elements, their texts, and the rows of every table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag in OPTIONAL_END:
            self._close_optional(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        while self._open[-1] != tag and self._open[-1] in OPTIONAL_END:
            self._open.pop()
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))
        if ("td" in self._open or "th" in self._open) and data.strip():
            self.tables[-1][-1][-1] += data.strip() + " "

    def _close_optional(self, tag: str) -> None:
        """Close elements with optional end tags: a cell ends the cell before it, a row the row before it."""
        ends = {"td": {"td", "th"}, "th": {"td", "th"}, "tr": {"td", "th", "tr"}}.get(tag, {tag})
        while self._open[-1] in ends:
            self._open.pop()

    @property
    def text(self) -> str:
        return re.sub(
            r"\s+", " ", " ".join(text for tag, text in self.texts if tag not in ("style", "script"))
        )

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def scores(self) -> dict[str, list[str]]:
        """Return the table of scores: the name of each row, and its cells without the meaning."""
        table = next(rows for rows in self.tables if rows[0][0].startswith("Measure"))
        return {row[0].strip(): [cell.strip() for cell in row[1:-1]] for row in table[1:]}
