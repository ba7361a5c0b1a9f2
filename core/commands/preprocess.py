"""`python preprocess.py`: convert DICOM radiographs and their annotations to one HDF5 file."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.commands.shared.options import add_machines_options, add_overwrite_option
from core.commands.shared.parser import only_with
from core.commands.shared.statuses import Status
from core.files.destinations import output_file

if TYPE_CHECKING:
    from core.commands.shared.terminal import Terminal
    from core.distribution.machines import Machines
    from data.preprocessing.report import PreprocessingReport, Remark

HELP = "convert DICOM radiographs and run-length-encoded masks to one HDF5 file"

_MOST_SHOWN = 5  # remarks listed of each kind; the counts include all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--images",
        type=Path,
        default=Path("dicom-images-train"),
        metavar="DIR",
        help="folder with DICOM files at any depth",
    )
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument(
        "--annotations",
        type=Path,
        default=Path("train-rle.csv"),
        metavar="FILE",
        help="the competition's annotation file: CSV, also as gzip or zip",
    )
    labels.add_argument(
        "--no-annotations",
        dest="annotations",
        action="store_const",
        const=None,
        help="take all images, for example of a test folder; the file is for prediction only",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("pneumothorax.h5"),
        metavar="FILE",
        help="the file to write",
    )
    parser.add_argument("--size", type=int, default=384, help="height and width of the images")
    parser.add_argument("--per-dataset", type=int, default=512, help="images in each dataset")
    parser.add_argument(
        "--storage",
        choices=("float32", "uint8"),
        default="float32",
        help="type of the stored pixels; uint8 takes a quarter of the space",
    )
    parser.add_argument(
        "--clahe",
        type=float,
        metavar="LIMIT",
        help="equalise the contrast of each image (CLAHE), with this limit, such as 2 "
        "(default: leave it as it is)",
    )
    parser.add_argument(
        "--clahe-tiles", type=int, default=8, metavar="N", help="number of tiles along each side for --clahe"
    )
    only_with(parser, "--clahe-tiles", "--clahe")
    add_overwrite_option(parser)
    parser.add_argument(
        "--patient-key-file",
        type=Path,
        metavar="FILE",
        help="name patients by a hash with the key in FILE, so they have the same names in other data files",
    )
    parser.add_argument(
        "--ignore-patients",
        action="store_true",
        help="ignore patient identifiers, for files that all have the same one",
    )
    parser.add_argument(
        "--strict", action="store_true", help="write no data file if any file or annotation would be left out"
    )
    parser.add_argument(
        "--report",
        type=output_file,
        metavar="FILE",
        help="write the status of every file as JSON; - prints it",
    )
    add_machines_options(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Write the data file and show a summary of all files."""
    from core.commands.shared.team import run_over_machines

    return run_over_machines(arguments, lambda machines: _preprocess(arguments, machines))


def _preprocess(arguments: argparse.Namespace, machines: Machines | None) -> Status:
    from core.processes.pool import map_in_order, warm_up

    warm_up("data.preprocessing.conversion")  # before this process imports the same modules

    from core.base.standard_streams import visible
    from core.commands.shared.terminal import console
    from data.preprocessing.preprocessing import preprocess, staging_folder
    from data.preprocessing.settings import PreprocessingSettings

    shown = console(arguments.report)
    names = PreprocessingSettings.__annotations__
    settings = PreprocessingSettings(**{name: getattr(arguments, name) for name in names})
    mapping = map_in_order if machines is None else machines.map_in_order
    try:
        with contextlib.ExitStack() as stack:
            bar = _progress(shown)
            tasks: dict[str, Any] = {}

            def show(what: str, done: int, total: int) -> None:
                if not tasks:  # a bar without a task leaves an empty line
                    stack.enter_context(bar)
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=total)
                bar.update(tasks[what], completed=done)

            report = preprocess(settings, show, mapping)
    except KeyboardInterrupt:
        out = visible(str(settings.out))
        print(
            f"{out} was not written; the same command continues from here "
            f"(finished work is in {visible(str(staging_folder(settings.out)))}).",
            file=sys.stderr,
        )
        raise
    _show(shown, report)
    return Status.of(report.unreadable or report.bad_annotation)


def _progress(console: Terminal) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from core.commands.shared.progress import bar_of

    return bar_of(
        console,
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def _show(console: Terminal, report: PreprocessingReport) -> None:
    """Show the table of counts, then the first remarks of each kind."""
    from rich.table import Table

    from core.base.standard_streams import visible

    table = Table(title=visible(str(report.out)), title_justify="left")
    table.add_column("what")
    table.add_column("how many", justify="right")
    for what, number in _counts(report):
        table.add_row(visible(what), number)
    console.print(table)
    _show_remarks(console.problem, "unreadable", report.unreadable)
    _show_remarks(console.problem, "bad annotation", report.bad_annotation)
    for title, remarks in (
        ("duplicate id", report.duplicates),
        ("without annotation", report.without_annotation),
        ("note", report.notes),
    ):
        _show_remarks(console.print, title, remarks)
    named = {"annotation without image": report.without_image}
    for title, places in {**named, **(report.annotations.passed_over if report.annotations else {})}.items():
        _show_lines(console.print, title, list(map(str, places)))


def _counts(report: PreprocessingReport) -> list[tuple[str, str]]:
    """Return the lines of the table. Rare lines are left out where their count is 0."""
    bits = {f"{number} bits" if number else "unknown bits": n for number, n in report.stored_bits.items()}
    counts = [
        ("DICOM files found", report.found),
        *((f"  {name}", number) for name, number in {**report.transfer_syntaxes, **bits}.items()),
        ("images written", report.written),
        *(_label_counts(report) if report.annotations else [("  none of them annotated", report.written)]),
        ("  of different patients", report.patients),
        *([("  of unknown patients", unknown)] if (unknown := report.unknown_patients) else []),
        ("skipped: unreadable", len(report.unreadable)),
        ("skipped: without annotation", len(report.without_annotation)),
        ("skipped: bad annotation", len(report.bad_annotation)),
        ("skipped: id seen before", len(report.duplicates)),
        ("annotations without image", len(report.without_image)),
        *(line for line in _rare_counts(report) if line[1]),
        ("datasets of images", report.datasets),
    ]
    size = f"{report.size_in_bytes / 1e6:,.1f} MB"
    return [*((what, f"{number:,}") for what, number in counts), ("size of the file", size)]


def _label_counts(report: PreprocessingReport) -> list[tuple[str, int]]:
    return [
        ("  with a pneumothorax", report.positives),
        *((f"  {_annotations(number)}", n) for number, n in report.annotations_per_image.items()),
        ("  with overlapping annotations", report.overlapping),
    ]


def _rare_counts(report: PreprocessingReport) -> list[tuple[str, int]]:
    rows = report.annotations
    return [
        ("masks too small for this size", report.vanished),
        ("both -1 and annotated (positive)", report.contradictory),
        ("annotation rows without id or value", len(rows.blank_rows) if rows else 0),
        ("annotation rows that are no mask", len(rows.malformed_rows) if rows else 0),
        ("annotation rows that overlap another", len(rows.overlapping_rows) if rows else 0),
        ("annotation rows that are a header again", len(rows.repeated_headers) if rows else 0),
        ("annotation ids taken without suffix", len(rows.shortened) if rows else 0),
        ("taken over from an interrupted run", report.resumed),
    ]


def _annotations(number: int) -> str:
    return f"with {number or 'no'} annotation{'' if number == 1 else 's'}"


def _show_remarks(tell: Callable[..., None], title: str, remarks: Sequence[Remark]) -> None:
    lines = [f"{remark.file}: {remark.reason}" if remark.reason else remark.file for remark in remarks]
    _show_lines(tell, title, lines)


def _show_lines(tell: Callable[..., None], title: str, lines: Sequence[str]) -> None:
    """Show the first remarks of one kind, one per line, and the number of the others."""
    from core.base.standard_streams import visible
    from core.commands.shared.terminal import most_shown

    most = most_shown(_MOST_SHOWN)
    for line in lines[:most]:
        tell(visible(f"{title}: {line}"), soft_wrap=True)
    if len(lines) > most:
        tell(f"{title}: {len(lines) - most:,} more")
