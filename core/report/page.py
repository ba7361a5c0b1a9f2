"""The page: what the records hold, put where a reader looks for it.

Promises: the file appears whole or not at all. Its size is bounded however many images there are: the table
takes the images with the lowest Dice, `TABLE_ROWS` of them, and says so.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from core.base.standard_streams import visible
from core.files.atomic import write_text
from core.pictures.radiographs import draw_grey, draw_outlines
from core.report import figures, findings
from core.report.figures import Plot
from core.report.svg import SERIES
from core.scoring.evaluation_record import CaseKind, Evaluation, ImageRow, PicturedCase

TABLE_ROWS = 5000
"""Images in the table at most."""

_TEMPLATES = Path(__file__).with_name("templates")
_HEADINGS: dict[CaseKind, str] = {
    "worst positive": "Worst: a pneumothorax that was missed, or drawn badly",
    "false positive": "False alarms: something was drawn where there is nothing",
    "best positive": "Best",
}
_MORE_CASES: dict[CaseKind, int] = {"worst positive": 2, "false positive": 1}  # of each further model


def write_report(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write the report of one or more models.

    Args:
        path: The HTML file; replaced when the new one is whole.
        evaluations: The models, in the order in which they are to stand side by side; at least one.

    Raises:
        UserError: The file cannot be written.
    """
    write_text(path, render(evaluations, datetime.now().astimezone()))


def render(evaluations: Sequence[Evaluation], now: datetime) -> str:
    """The report's HTML."""
    if not evaluations:
        raise ValueError("a report needs at least one evaluation")
    models = [
        ReportModel(number, name, model)
        for number, (name, model) in enumerate(zip(_names(evaluations), evaluations, strict=True))
    ]
    script = Markup((_TEMPLATES / "report.js").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("report.html")
        .render(
            models=models,
            now=now,
            series=len(SERIES),
            same_images=all(findings.same_images(evaluations[0], other) for other in evaluations[1:]),
            comparisons=[(model, findings.compare(evaluations[0], model.record)) for model in models[1:]],
            training=_present([draw(evaluations) for draw in figures.TRAINING]),
            training_legend=_training_legend(models),
            existence=_present(
                [
                    figures.roc(evaluations),
                    *(
                        figures.existence_histogram(
                            model.record, model.number, model.name if models[1:] else None
                        )
                        for model in models
                    ),
                ]
            ),
            calibration=[figures.reliability(evaluations, kind) for kind in ("image", "pixel")],
            masks=_present([draw(evaluations) for draw in figures.MASKS]),
            cases=_cases(models),
            table=_table(models),
            script=script,
            script_digest=digest,
        )
    )


@dataclass(frozen=True)
class ReportModel:
    """A model with its place in the report.

    Args:
        number: From 0; decides its colour.
        name: What the reader knows it by; no two are alike.
        record: What is known of it.
    """

    number: int
    name: str
    record: Evaluation

    @property
    def above_baseline(self) -> findings.Difference:
        """Its Dice over the floor."""
        return findings.above_baseline(self.record.rows)

    @functools.cached_property
    def surfaces(self) -> list[Plot]:
        """Heat maps of its thresholds."""
        return [
            figures.surface(self.record, grid)
            for grid in self.record.surfaces
            if any(value is not None for row in grid.dice for value in row)
        ]

    @property
    def sensitivity_interval(self) -> tuple[float, float]:
        """95 %; there must be positive images."""
        summary = self.record.summary
        return findings.proportion_interval(summary.tp, summary.tp + summary.fn)

    @property
    def specificity_interval(self) -> tuple[float, float]:
        """95 %; there must be negative images."""
        summary = self.record.summary
        return findings.proportion_interval(summary.tn, summary.tn + summary.fp)


@dataclass(frozen=True)
class CaseResult:
    """What one model made of a case.

    Args:
        model: Which.
        row: Its scores of the image.
        outlines: Data URL of the outlines, transparent; None where it has no pictures of this image.
        probability: Data URL of the probability.
    """

    model: ReportModel
    row: ImageRow
    outlines: str | None = None
    probability: str | None = None


@dataclass(frozen=True)
class CasePicture:
    """An image worth looking at, and what each model made of it.

    Args:
        number: Of all pictures of the page.
        row: The image's facts.
        width: Pixels.
        height: Pixels.
        radiograph: Data URL.
        findings: One a model that was scored on the image.
    """

    number: int
    row: ImageRow
    width: int
    height: int
    radiograph: str
    findings: list[CaseResult]


@dataclass(frozen=True)
class ImageTable:
    """The table of images: first each image's facts, then what each model found.

    Args:
        rows: One an image: a row a model, None where that model was not scored on the image.
        total: Images in all, of which `rows` may be a part.
    """

    rows: list[list[ImageRow | None]]
    total: int


def _names(evaluations: Sequence[Evaluation]) -> list[str]:
    names = [model.name for model in evaluations]
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def _training_legend(models: list[ReportModel]) -> list[tuple[int, str]]:
    """Colour and name of the curves: models, or the members if there is but one model."""
    if len(models) > 1:
        return [(model.number, model.name) for model in models]
    return [(place, member.folder) for place, member in enumerate(models[0].record.origin.members)]


def _cases(models: list[ReportModel]) -> list[tuple[str, list[CasePicture]]]:
    """Under each heading its pictures: the first model's cases, and the worst of the others that it lacks."""
    first = {case.row.id: case for case in models[0].record.cases if case.kind in _HEADINGS}
    for model in models[1:]:
        for kind, count in _MORE_CASES.items():
            fresh = [case for case in model.record.cases if case.kind == kind and case.row.id not in first]
            first.update({case.row.id: case for case in fresh[:count]})
    pictured = [{case.row.id: case for case in model.record.cases} for model in models]
    rows = [{row.id: row for row in model.record.rows if row.id in first} for model in models]
    groups: dict[CaseKind, list[CasePicture]] = {kind: [] for kind in _HEADINGS}
    for number, (image_id, case) in enumerate(first.items()):
        height, width = case.sample.image.shape
        found = [
            _finding(model, row, own.get(image_id))
            for model, scored, own in zip(models, rows, pictured, strict=True)
            if (row := scored.get(image_id)) is not None
        ]
        radiograph = _data_url(draw_grey(case.sample.image))
        groups[case.kind].append(CasePicture(number, case.row, width, height, radiograph, found))
    return [(_HEADINGS[kind], pictures) for kind, pictures in groups.items() if pictures]


def _finding(model: ReportModel, row: ImageRow, case: PicturedCase | None) -> CaseResult:
    if case is None:
        return CaseResult(model, row)
    outlines = draw_outlines(case.sample.truth, case.predicted)
    return CaseResult(model, row, _data_url(outlines), _data_url(draw_grey(case.sample.probability)))


def _table(models: list[ReportModel]) -> ImageTable:
    found: dict[str, list[ImageRow | None]] = {}
    for place, model in enumerate(models):
        for row in model.record.rows:
            found.setdefault(row.id, [None] * len(models))[place] = row
    rows = list(found.values())
    if len(rows) > TABLE_ROWS:
        lowest = sorted(range(len(rows)), key=lambda place: min(row.dice for row in rows[place] if row))
        rows = [rows[place] for place in sorted(lowest[:TABLE_ROWS])]
    return ImageTable(rows, len(found))


def _present(plots: Sequence[Plot | None]) -> list[Plot]:
    return [plot for plot in plots if plot is not None]


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


# ------------------------------------------------------------------------------------------ template


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(score=_score, percent=_percent, signed=_signed, short=_short)
    environment.globals.update(asdict=dataclasses.asdict)
    return environment


def _visible(value: Any) -> Any:
    """A text from outside as it may be shown; the template's own and what is no text as they are."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"  # noqa: RUF001


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"  # noqa: RUF001


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"
