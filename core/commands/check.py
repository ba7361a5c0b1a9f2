"""`python run.py check`: check a submission against the competition's format and its masks for errors."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from core.commands.shared.options import add_overwrite_option, check_at_least_one
from core.commands.shared.statuses import Status
from core.files.destinations import output_file

if TYPE_CHECKING:
    from core.commands.shared.terminal import Terminal
    from data.submissions.submission_check import Fault, Size

HELP = "check a submission and list every fault"

_SIZE = 1024  # height and width of the competition's images
_MOST_SHOWN = 5  # faults listed of each kind; the counts include all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "submission",
        nargs="?",
        type=Path,
        default=Path("submission.csv"),
        help="the submission: CSV, also as gzip or zip",
    )
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of DICOM files: gives the expected ids and the image sizes",
    )
    wanted.add_argument(
        "--sample", type=Path, metavar="FILE", help="sample_submission.csv: gives the expected ids"
    )
    parser.add_argument("--size", type=int, help=f"height and width of the images (default: {_SIZE})")
    parser.add_argument("--height", type=int, help="height of the images, where they are not square")
    parser.add_argument("--width", type=int, help="width of the images, where they are not square")
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write every fault and warning as JSON; - prints it"
    )
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Check the submission and show the faults and warnings."""
    from core.commands.shared.outputs import Input, claimed_reports, images
    from core.commands.shared.terminal import console

    present = [
        Input(f"the {name}", path)
        for name in ("submission", "sample")
        if (path := getattr(arguments, name)) is not None
    ]
    if arguments.images is not None:
        present.append(images(arguments.images))
    with claimed_reports({"--json": arguments.json}, present, overwrite=arguments.overwrite):
        return _check(console(arguments.json), arguments)


def _check(console: Terminal, arguments: argparse.Namespace) -> Status:
    import json

    from core.base.standard_streams import visible
    from core.commands.shared.progress import spinner
    from core.files.atomic import write_text
    from data.submissions.submission_check import check

    size = _size(arguments)
    notes: list[str] = []
    images = _images(console, arguments, size, notes.append)
    with spinner(console, "checking"):
        verdict = check(arguments.submission, images, size)
    console.result(
        f"{visible(str(arguments.submission))}: {verdict.rows:,} rows, {verdict.images:,} images, "
        f"{verdict.positives:,} masks that are not empty",
        soft_wrap=True,
    )
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)
    _show(console, verdict.faults)
    for warning in verdict.warnings:
        console.result(f"warning: {visible(warning)}", soft_wrap=True)
    if images is None:
        console.print("ids were not compared with anything: name --images or --sample for that")
    faults, warnings = len(verdict.faults), len(verdict.warnings)
    console.result(f"{_count(faults, 'fault')}, {_count(warnings, 'warning')}")
    if arguments.json:
        content = {
            "submission": str(arguments.submission),
            "valid": not verdict.faults,
            "rows": verdict.rows,
            "images": verdict.images,
            "positives": verdict.positives,
            "faults": [fault._asdict() for fault in verdict.faults],
            "warnings": verdict.warnings,
        }
        write_text(arguments.json, json.dumps(content, indent=1) + "\n")
    return Status.of(faults)


def _size(arguments: argparse.Namespace) -> Size:
    from core.base.errors import UserError

    given = {name: getattr(arguments, name) for name in ("size", "height", "width")}
    check_at_least_one(arguments, *given)
    for name, value in given.items():
        if value is not None and arguments.images is not None:
            raise UserError(f"--{name} and --images: the images' own headers say how large they are.")
    size, height, width = given.values()
    if size is not None and (height is not None or width is not None):
        raise UserError("--size is both --height and --width: give it alone, or the two.")
    return height or size or _SIZE, width or size or _SIZE


def _images(
    console: Terminal, arguments: argparse.Namespace, size: Size, tell: Callable[[str], None]
) -> dict[str, Size | None] | None:
    """Return the expected image ids with their sizes; None without --images and --sample."""
    from core.commands.shared.progress import progress_bar
    from data.submissions.submission_check import images_of, images_of_sample

    if arguments.sample is not None:
        return images_of_sample(arguments.sample, size, tell)
    if arguments.images is None:
        return None
    with progress_bar(console) as bar:
        task = bar.add_task("headers")
        return images_of(
            arguments.images, lambda done, total: bar.update(task, completed=done, total=total), tell
        )


def _show(console: Terminal, faults: tuple[Fault, ...]) -> None:
    """Show the first faults of each kind."""
    from core.base.standard_streams import visible
    from core.commands.shared.terminal import most_shown

    most = most_shown(_MOST_SHOWN)
    for kind in dict.fromkeys(fault.kind for fault in faults):
        of_kind = [fault for fault in faults if fault.kind == kind]
        for fault in of_kind[:most]:
            console.problem(f"fault: {visible(str(fault))}", soft_wrap=True)
        if len(of_kind) > most:
            console.problem(f"fault: and {len(of_kind) - most:,} more of this kind ({kind})")


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
