"""`python preprocess.py phantoms`: a synthetic data set in the competition's layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from core.commands.shared.options import add_overwrite_option, add_workers_option
from core.commands.shared.statuses import Status

HELP = "write a synthetic data set (DICOM and train-rle.csv) for trials and tests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("demo"), metavar="DIR", help="folder to write to"
    )
    parser.add_argument("--count", type=int, default=200, help="number of images")
    parser.add_argument("--size", type=int, default=1024, help="height and width in pixels")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the random generator; the same seed gives the same data set",
    )
    parser.add_argument(
        "--positive-fraction",
        type=float,
        default=0.22,
        metavar="SHARE",
        help="share of the images with a pneumothorax",
    )
    add_workers_option(parser)
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Write the data set and show the command that comes next."""
    import shlex

    from core.base.packages import require
    from core.base.programs import command_line
    from core.base.standard_streams import visible
    from core.commands.shared.progress import bar_of
    from core.commands.shared.terminal import console

    require(["cv2", "pydicom"], "phantoms")
    from data.phantoms.data_set import PhantomSettings, write_phantoms

    shown = console()
    names = PhantomSettings.__annotations__
    settings = PhantomSettings(**{name: getattr(arguments, name) for name in names})
    with bar_of(shown) as bar:
        task = bar.add_task("drawing", total=settings.count)

        def show(_what: str, done: int, _total: int) -> None:
            bar.update(task, completed=done)

        report = write_phantoms(settings, show)
    words = ["--images", str(report.images), "--annotations", str(report.annotations)]
    shown.print(
        f"{report.count} phantoms, {report.positives} with a pneumothorax, {report.several} of "
        f"them annotated in several rows, {report.without_annotation} without annotation.\n"
        f"Next: {command_line('preprocess', visible(shlex.join(words)))}",
        soft_wrap=True,
    )
    return Status.DONE
