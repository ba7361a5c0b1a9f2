"""Figures of the report: colours, labels, the heat map of thresholds."""

from __future__ import annotations

import dataclasses
import re

import pytest
from report_page import Page

from core.report.svg import SERIES, colour, drawing, line_style
from core.report.threshold_figures import surface
from core.report.training_figures import auroc_curves
from core.scoring.evaluation_record import Evaluation, Surface
from core.scoring.thresholds import Thresholds


def test_figures_take_on_the_pages_colours_and_keep_their_text() -> None:
    with drawing("a <b> & 'c'") as plot:
        plot.axes.plot([0, 1], [2, 3], color="#010111")
        plot.axes.set_xlabel("$x^2$ <i>")
    assert 'aria-label="' not in plot.svg
    parsed = Page(str(plot.svg))
    assert parsed.all("svg")[0]["aria-label"] == "a <b> & 'c'"
    assert "$x^2$ <i>" in parsed.text
    assert "#0101" not in plot.svg
    assert "var(--series-0)" in plot.svg
    assert "font-family" not in plot.svg


def test_lines_of_several_models_can_be_told_apart() -> None:
    styles = {(style["color"], style["linestyle"]) for style in map(line_style, range(3 * len(SERIES)))}
    assert len(styles) == 3 * len(SERIES)
    assert [colour(number) for number in range(len(SERIES))] == list(SERIES)
    assert len(set(SERIES)) == len(SERIES) > 3
    assert colour(len(SERIES)) == colour(0)


def test_a_rate_that_falls_far_is_labelled_in_plain_numbers(both: Page) -> None:
    """Matplotlib's default labels of a logarithmic axis are TeX, which the page would show as plain text."""
    assert "mathdefault" not in both.text
    assert "0.0001" in both.text


def test_the_surface_marks_the_thresholds_in_use(first: Evaluation) -> None:
    grid = Surface(
        fixed="area",
        value=6000.0,
        row_name="pixel",
        column_name="score",
        rows=(0.2, 0.41, 0.6),
        columns=(0.3, 0.5, 0.56, 0.8),
        dice=((0.1, 0.2, 0.3, 0.4), (None, 0.5, 0.8321, 0.6), (None, None, None, 0.9123)),
    )
    marked = surface(first, grid)
    assert "Ring: in use, 0.8321. Best of this grid on these images: 0.9123 at score 0.8, pixel 0.6." in (
        marked.caption
    )
    best = dataclasses.replace(
        first, summary=dataclasses.replace(first.summary, thresholds=Thresholds(0.6, 0, 0.8))
    )
    assert "Ring: in use, 0.9123. No pair of this grid does better" in surface(best, grid).caption


@pytest.mark.parametrize(
    ("dice", "in_use"),
    [
        # The row of 5000 and the column of 0.5 are the nearest.
        (((0.11, 0.12, 0.13), (0.21, 0.22, 0.23), (0.31, 0.32, 0.33)), 0.22),
        # Without that pair: 6000 of 16000 and a tenth of the columns' range are nearer than 1000 and a half.
        (((0.11, 0.12, 0.13), (0.21, None, 0.23), (0.31, 0.32, 0.33)), 0.12),
        (((0.11, None, 0.13), (0.21, None, 0.23), (0.31, None, 0.33)), 0.23),
        (((None, None, None), (None, None, None), (0.31, 0.32, 0.33)), 0.32),
    ],
)
def test_the_pair_in_use_is_the_nearest_by_shares_of_the_ranges(
    first: Evaluation, dice: tuple[tuple[float | None, ...], ...], in_use: float
) -> None:
    grid = Surface("pixel", 0.4, "area", "score", (0.0, 5000.0, 16000.0), (0.3, 0.5, 0.8), dice)
    assert first.summary.thresholds == Thresholds(0.4, 6000, 0.55)
    assert f"Ring: in use, {in_use:.4f}." in surface(first, grid).caption


def test_the_auroc_is_drawn_where_the_history_has_it(first: Evaluation) -> None:
    plot = auroc_curves([first])
    assert plot is not None
    assert ">AUROC<" in plot.svg
    members = tuple(
        dataclasses.replace(
            member, history=tuple(dataclasses.replace(record, auroc=None) for record in member.history)
        )
        for member in first.origin.members
    )
    older = dataclasses.replace(first, origin=dataclasses.replace(first.origin, members=members))
    assert auroc_curves([older]) is None
    one, *others = first.origin.members[0].history
    assert one.auroc is None  # which leaves a gap
    assert all(record.auroc for record in others)


def test_every_text_of_a_figure_stands_inside_of_it(both: Page) -> None:
    """Check each text by its anchor point and font size."""
    box, texts = None, 0
    for number, (tag, attributes) in enumerate(both.elements):
        if tag == "svg":
            box = [float(word) for word in attributes["viewbox"].split()]
        if tag != "text":
            continue
        assert box is not None
        style = attributes.get("style", "")
        size = re.search(r"font-size: ([\d.]+)px", style)
        place = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", attributes.get("transform", ""))
        x, y = (float(place[1]), float(place[2])) if place else (float(attributes[name]) for name in "xy")
        assert size is not None
        assert box[0] - 1 <= x <= box[2] + 1, number
        assert box[1] + float(size[1]) / 2 <= y <= box[3] + 1, number
        texts += 1
    assert texts > 50
