"""`python run.py score`: compute the competition's score of a submission."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.commands.shared.options import add_overwrite_option
from core.commands.shared.statuses import Status
from core.files.destinations import output_file

if TYPE_CHECKING:
    from core.commands.shared.terminal import Terminal
    from data.submissions.submission_comparison import SubmissionComparison

HELP = "score a submission against annotations, as the competition does"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "submission",
        nargs="?",
        type=Path,
        default=Path("submission.csv"),
        help="the submission: CSV, also as gzip or zip",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        default=Path("train-rle.csv"),
        metavar="FILE",
        help="the ground truth (CSV, also as gzip or zip); its images are scored",
    )
    parser.add_argument(
        "--missing",
        choices=("error", "empty", "skip"),
        default="error",
        help="annotated images without a row: error refuses them, empty counts them as predicted "
        "negative, skip leaves them out",
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the scores as JSON; - prints them"
    )
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Compute the scores, show and write them."""
    from core.commands.shared.outputs import Input, claimed_reports
    from core.commands.shared.terminal import console

    inputs = [
        Input("the submission", arguments.submission),
        Input("the annotations", arguments.annotations),
    ]
    with claimed_reports({"--json": arguments.json}, inputs, overwrite=arguments.overwrite):
        return _score(console(arguments.json), arguments)


def _score(console: Terminal, arguments: argparse.Namespace) -> Status:
    import json

    from rich.table import Table

    from core.base.standard_streams import visible
    from core.commands.shared.progress import spinner
    from core.files.atomic import write_text
    from data.annotations.annotation_file import read_annotations
    from data.submissions.submission_comparison import compare
    from data.submissions.submission_file import abbreviated, read_submission

    with spinner(console, "comparing"):
        submission = read_submission(arguments.submission)
        annotations = read_annotations(arguments.annotations, {cells.image_id for cells in submission.rows})
        comparison = compare(arguments.submission, annotations, arguments.missing, submission)
    scores = _scores(comparison)
    console.result(visible(f"{arguments.submission} against {arguments.annotations}"), soft_wrap=True)
    table = Table()
    table.add_column("what")
    table.add_column("score", justify="right")
    for what, key in _LINES:
        table.add_row(what, _shown(scores[key]))
    console.result(table)
    for what, ids in _remarks(comparison, arguments.missing):
        if ids:
            console.print(visible(f"{len(ids):,} {what}: {abbreviated(ids)}"), soft_wrap=True)
    faults = {what: ids for what, ids in _faults(comparison) if ids}
    for what, ids in faults.items():
        console.problem(visible(f"{len(ids):,} {what}: {abbreviated(ids)}"), soft_wrap=True)
    for what, where in {**comparison.passed_over, **annotations.passed_over}.items():
        console.print(visible(f"{what}: {len(where):,} ({abbreviated([*map(str, where)])})"), soft_wrap=True)
    if arguments.json:
        said = {what: str(getattr(arguments, what)) for what in ("submission", "annotations")}
        write_text(arguments.json, json.dumps({**said, **scores}, indent=1) + "\n")
    return Status.of(faults)


_LINES = (
    ("Dice, all images", "dice"),
    ("  of an all-empty submission", "dice_all_empty"),
    ("Dice, positives alone", "dice_positive"),
    ("IoU, all images", "iou"),
    ("IoU, positives alone", "iou_positive"),
    ("images", "images"),
    ("  positive", "positives"),
    ("  found (TP)", "tp"),
    ("  missed (FN)", "fn"),
    ("  false alarms (FP)", "fp"),
    ("  rightly empty (TN)", "tn"),
)


def _scores(comparison: SubmissionComparison) -> dict[str, Any]:
    """Return all values that are shown or written, by key."""
    import dataclasses

    from core.scoring.metrics import Confusion, dice_of_counts, iou_of_counts, summarise

    counts = comparison.overlap, comparison.predicted, comparison.truth
    positive, predicted_positive = comparison.truth > 0, comparison.predicted > 0
    dice = summarise(dice_of_counts(*counts), positive)
    iou = summarise(iou_of_counts(*counts), positive)
    return {
        "dice": dice.dice,
        "dice_all_empty": dice.dice_all_empty,
        "dice_positive": dice.dice_positive,
        "iou": iou.dice,
        "iou_positive": iou.dice_positive,
        "images": dice.images,
        "positives": dice.positives,
        **dataclasses.asdict(Confusion.count(predicted_positive, positive)),
        "missing": len(comparison.missing),
        "unknown": len(comparison.unknown),
        "several_rows": len(comparison.several),
        "unusable": len(comparison.unusable),
    }


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _remarks(comparison: SubmissionComparison, missing: str) -> list[tuple[str, tuple[str, ...]]]:
    treated = {"empty": "taken for empty", "skip": "left out"}.get(missing, "")
    return [
        (f"annotated without a row, {treated}", comparison.missing),
        ("without an annotation, left out", comparison.unknown),
    ]


def _faults(comparison: SubmissionComparison) -> list[tuple[str, tuple[str, ...]]]:
    """Return the faults of submission and annotations, with the image ids of each."""
    return [
        ("with several rows, joined; a submission must have one", comparison.several),
        ("left out, for a row of the annotations is no mask", comparison.unusable),
    ]
