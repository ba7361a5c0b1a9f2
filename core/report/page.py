"""The report page: fills the HTML template with the records of evaluations.

The file is written completely or not at all. Its size is bounded for any number of images: the table shows at
most `TABLE_ROWS` images, those with the lowest Dice, and tells so.
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
from core.report import findings
from core.report.image_figures import existence_histogram, reliability, roc
from core.report.mask_figures import MASKS
from core.report.plots import Plot
from core.report.svg import SERIES
from core.report.threshold_figures import surface
from core.report.training_figures import TRAINING
from core.scoring.evaluation_record import CaseKind, Evaluation, ImageRow, PicturedCase
from core.scoring.groups import FEW
from core.scoring.intervals import RESAMPLES

TABLE_ROWS = 5000
"""Largest number of images in the table."""

_TEMPLATES = Path(__file__).with_name("templates")
_HEADINGS: dict[CaseKind, str] = {
    "worst positive": "Worst: a pneumothorax that was missed, or drawn badly",
    "false positive": "False alarms: something was drawn where there is nothing",
    "best positive": "Best",
}
_MORE_CASES: dict[CaseKind, int] = {"worst positive": 2, "false positive": 1}  # cases of each further model


def write_report(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write the report of one or more models.

    Args:
        path: The HTML file; it is replaced when the new one is complete.
        evaluations: The models in the order of the report; at least one.

    Raises:
        UserError: The file cannot be written.
    """
    write_text(path, render(evaluations, datetime.now().astimezone()))


def render(evaluations: Sequence[Evaluation], now: datetime) -> str:
    """Return the report's HTML."""
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
            resamples=RESAMPLES,
            few=FEW,
            same_images=all(findings.same_images(evaluations[0], other) for other in evaluations[1:]),
            comparisons=[(model, findings.compare(evaluations[0], model.record)) for model in models[1:]],
            training=_present([draw(evaluations) for draw in TRAINING]),
            training_legend=_training_legend(models),
            existence=_present(
                [
                    roc(evaluations),
                    *(
                        existence_histogram(model.record, model.number, model.name if models[1:] else None)
                        for model in models
                    ),
                ]
            ),
            calibration=[reliability(evaluations, kind) for kind in ("image", "pixel")],
            masks=_present([draw(evaluations) for draw in MASKS]),
            cases=_cases(models),
            table=_table(models),
            script=script,
            script_digest=digest,
        )
    )


@dataclass(frozen=True)
class ReportModel:
    """A model in the report.

    Args:
        number: The model's number from 0, which decides its colour.
        name: The model's name in the report, which is unique.
        record: The model's evaluation.
    """

    number: int
    name: str
    record: Evaluation

    @property
    def above_baseline(self) -> findings.Difference:
        """Difference of its Dice from the all-negative baseline."""
        return findings.above_baseline(self.record.rows)

    @functools.cached_property
    def surfaces(self) -> list[Plot]:
        """Heat maps of its thresholds."""
        return [
            surface(self.record, grid)
            for grid in self.record.surfaces
            if any(value is not None for row in grid.dice for value in row)
        ]


@dataclass(frozen=True)
class CaseResult:
    """The result of one model for an example image.

    Args:
        model: The model.
        row: The image's scores.
        outlines: Data URL of the outlines on transparent background; None if the model kept no pictures.
        probability: Data URL of the probability map, or None.
    """

    model: ReportModel
    row: ImageRow
    outlines: str | None = None
    probability: str | None = None


@dataclass(frozen=True)
class CasePicture:
    """An example image with the results of each model.

    Args:
        number: Number of the image on the page.
        row: The image's size and true mask.
        width: Width in pixels.
        height: Height in pixels.
        radiograph: Data URL of the radiograph.
        findings: One result for each model that was scored on the image.
    """

    number: int
    row: ImageRow
    width: int
    height: int
    radiograph: str
    findings: list[CaseResult]


@dataclass(frozen=True)
class ImageTable:
    """The table of images: id and true area of each image, then the scores of each model.

    Args:
        rows: For each image one row of scores for each model, or None if it was not scored on the image.
        total: Number of all images, of which `rows` may hold a part.
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
    """Return colour number and name of the curves: of models, or of the members if there is one model."""
    if len(models) > 1:
        return [(model.number, model.name) for model in models]
    return [(place, member.folder) for place, member in enumerate(models[0].record.origin.members)]


def _cases(models: list[ReportModel]) -> list[tuple[str, list[CasePicture]]]:
    """Return the example images by heading: the first model's, and the worst new ones of the others."""
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
    """Return text from outside with control characters made visible; return other values unchanged."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"  # noqa: RUF001


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"  # noqa: RUF001


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"
