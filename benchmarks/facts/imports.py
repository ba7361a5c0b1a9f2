"""The drawing of which part of the toolkit imports which, made from the code.

`graph` reads the imports with grimp, the library below import-linter. `draw` gives an SVG file, the same text
for the same code. An arrow from A to B says that A imports B; it is left out where others lead from A to B.
`python -m benchmarks.facts` writes the drawing to `docs/imports.svg`, and a test compares it with the code.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Set
from html import escape
from pathlib import Path
from typing import TypeAlias

Graph: TypeAlias = Mapping[str, Set[str]]
"""For each part, the parts that it imports."""

PLACE = "docs/imports.svg"
ROOTS = ("backends", "core", "data", "pneumoseg")
_PARTED = ("core", "data")  # drawn folder by folder

_WIDTH, _HEIGHT = 124, 34  # pixels of a box
_COLUMN, _ROW = 148, 74  # from one box to the next
_MARGIN = 16
_COLOURS = {"core": "#dbe7f5", "data": "#e2f0dc", "backends": "#f7e3d0", "pneumoseg": "#eee6f6"}


def part_of(module: str) -> str:
    """The part that a module belongs to: a folder of core or data, or a whole package."""
    words = module.split(".")
    return ".".join(words[:2]) if words[0] in _PARTED else words[0]


def graph() -> dict[str, set[str]]:
    """The parts and what each imports, from the modules that can be imported here."""
    import grimp

    imports = grimp.build_graph(*ROOTS, cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in sorted(imports.modules - set(_PARTED)):
        part = part_of(module)
        found.setdefault(part, set())
        for other in imports.find_modules_directly_imported_by(module):
            if other not in _PARTED and part_of(other) != part:
                found[part].add(part_of(other))
    return found


def reduced(parts: Graph) -> dict[str, list[str]]:
    """The arrows that are drawn: those that no longer way replaces (the transitive reduction)."""
    below: dict[str, set[str]] = {}

    def reach(part: str) -> set[str]:
        if part not in below:
            below[part] = set(parts[part]).union(*(reach(other) for other in parts[part]))
        return below[part]

    return {
        part: sorted(one for one in others if not any(one in reach(other) for other in others - {one}))
        for part, others in parts.items()
    }


def rows_of(parts: Graph) -> list[list[str]]:
    """The parts from top to bottom: each above all that it imports, as low as that allows."""
    heights: dict[str, int] = {}

    def height(part: str) -> int:
        if part not in heights:
            heights[part] = 1 + max((height(other) for other in parts[part]), default=-1)
        return heights[part]

    ordered = sorted(parts, key=lambda part: (-height(part), part))
    return [list(row) for _, row in itertools.groupby(ordered, key=height)]


def draw(parts: Graph) -> str:
    """The drawing, SVG."""
    rows = rows_of(parts)
    columns = max(map(len, rows))
    places = {
        part: (
            _MARGIN + _WIDTH / 2 + (index + (columns - len(row)) / 2) * _COLUMN,
            _MARGIN + _HEIGHT / 2 + number * _ROW,
        )
        for number, row in enumerate(rows)
        for index, part in enumerate(row)
    }
    width = 2 * _MARGIN + (columns - 1) * _COLUMN + _WIDTH
    height = 2 * _MARGIN + (len(rows) - 1) * _ROW + _HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'font-family="sans-serif" font-size="13">',
        "<title>Which part imports which</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#777"/></marker></defs>',
    ]
    for part, others in reduced(parts).items():
        x, y = places[part]
        for other in others:
            to_x, to_y = places[other]
            start, end = y + _HEIGHT / 2, to_y - _HEIGHT / 2
            middle = (start + end) / 2
            curve = f"M{x:g} {start:g} C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {end:g}"
            lines.append(f'<path d="{curve}" fill="none" stroke="#777" marker-end="url(#head)"/>')
    for part, (x, y) in places.items():
        colour = _COLOURS[part.split(".")[0]]
        lines += [
            f'<rect x="{x - _WIDTH / 2:g}" y="{y - _HEIGHT / 2:g}" width="{_WIDTH}" height="{_HEIGHT}" '
            f'rx="5" fill="{colour}" stroke="#777"/>',
            f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle">{escape(part.replace(".", "/"))}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def write(root: Path) -> None:
    """Write the drawing into a checkout."""
    (root / PLACE).write_text(draw(graph()), "utf-8")
