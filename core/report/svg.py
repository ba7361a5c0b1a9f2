"""Conversion of matplotlib figures to SVG elements of the page.

A figure becomes one `<svg>` element. Its text is text in the page's font, and its colours are variables of
the page's style sheet, for light and dark mode, screen and paper. It refers to nothing outside itself, and no
two figures of a page share an id.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup

from core.pictures.plotting import Axes, Figure, mpl

# Placeholder colours: `_embed` replaces each by a variable of the style sheet.
INK, MUTED, LINE, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010111", "#010112", "#010113", "#010114", "#010115", "#010116")
"""One colour for each model; further models repeat the colours with dashed lines."""
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)},
}
_SETTINGS: dict[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "font.size": 8.5,
    "lines.linewidth": 1.3,
    "path.simplify": False,  # it would drop the dots of scatter plots, which are lines of length zero
    "svg.fonttype": "none",
    "svg.hashsalt": "pneumoseg",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
}
_WIDTH, _HEIGHT = 3.5, 2.6  # inches: 252 x 187 units, shown 280 to 400 pixels wide


class Drawing:
    """A figure with one plot; `svg` is set when the block of `drawing` ends."""

    svg: Markup

    def __init__(self) -> None:
        self.figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        self.axes: Axes = self.figure.subplots()


@contextmanager
def drawing(alt: str) -> Iterator[Drawing]:
    """Yield a figure of one plot to draw in; `alt` is its alternative text for screen readers."""
    with mpl.rc_context(_SETTINGS):
        result = Drawing()
        yield result
        file = io.StringIO()
        result.figure.savefig(file, format="svg", transparent=True)
    result.svg = _embed(file.getvalue(), alt)


def colour(number: int) -> str:
    """Return the colour of a model by its number in the report."""
    return SERIES[number % len(SERIES)]


def line_style(number: int) -> dict[str, Any]:
    """Return the line style of a model. The first line is wider, so that it shows below equal lines."""
    style = ("-", "--", ":")[number // len(SERIES) % 3]
    return {"color": colour(number), "linestyle": style, "linewidth": 1.1 if number else 2.0}


def _embed(text: str, alt: str) -> Markup:
    """Convert the SVG file that matplotlib wrote to an element of an HTML page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL
    )  # the style would apply to the whole page
    text = re.sub(r"font-family:[^;\"]*;?\s*", "", text)
    text = re.sub(r" transform=\"rotate\(-0 [^\"]*\"", "", text)
    text = re.sub(r"(?<=[\s\"(-])(\d+\.\d\d)\d+", r"\1", text)  # smaller differences are invisible
    prefix = f"f{hashlib.sha256(f'{alt}{text}'.encode(errors='replace')).hexdigest()[:8]}-"
    used = set(re.findall(r"(?:url\(#|xlink:href=\"#)([^)\"]+)", text))
    text = re.sub(r" id=\"([^\"]*)\"", lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"(url\(#|xlink:href=\"#)", rf"\1{prefix}", text).replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    box = re.search(r"viewBox=\"[^\"]*\"", text)
    assert box is not None
    body = re.sub(r">\s+<", "><", text[text.index(">") + 1 :]).replace(" \n", " ")
    return Markup("<svg {} role='img' aria-label='{}'>{}").format(Markup(box[0]), alt, Markup(body))
