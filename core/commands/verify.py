"""`python preprocess.py verify`: check a data file against its format, and draw some of its masks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from core.base.programs import command_line
from core.commands.shared.options import add_overwrite_option, check_at_least_one
from core.commands.shared.parser import only_with
from core.commands.shared.statuses import Status

if TYPE_CHECKING:
    from core.commands.shared.terminal import Terminal

HELP = "check every value of a data file, and draw masks on radiographs to look at"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=Path("pneumothorax.h5"),
        help=f"data file made by {command_line('preprocess')}",
    )
    parser.add_argument(
        "--overlays",
        type=Path,
        metavar="DIR",
        help="draw random images, mostly positive ones, with the outlines of their masks: one PNG each",
    )
    parser.add_argument(
        "--count", type=int, default=12, metavar="N", help="number of images that --overlays draws"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the choice of images that --overlays draws"
    )
    for option in ("--count", "--seed"):
        only_with(parser, option, "--overlays")
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Check the file and show the result. Each broken rule of the format is a fault."""
    from core.commands.shared.outputs import Input, Output, OutputFolder, claimed
    from core.commands.shared.terminal import console

    check_at_least_one(arguments, "count")
    outputs: list[Output] = []
    if arguments.overlays is not None:
        outputs.append(OutputFolder("--overlays", arguments.overlays, ".png"))
    with claimed(outputs, [Input("the data file", arguments.file)], overwrite=arguments.overwrite):
        return _verify(console(), arguments)


def _verify(console: Terminal, arguments: argparse.Namespace) -> Status:
    from rich.table import Table

    from core.base.standard_streams import visible
    from core.commands.shared.progress import progress_bar
    from data.hdf5.verification import verify

    with progress_bar(console) as bar:
        task = bar.add_task("checking")
        verdict = verify(arguments.file, lambda done, total: bar.update(task, completed=done, total=total))
    table = Table(title=visible(str(arguments.file)), title_justify="left")
    table.add_column("what")
    table.add_column("found", justify="right")
    for fact in verdict.facts:
        table.add_row(*map(visible, fact))
    console.result(table)
    for fault in verdict.faults:
        console.problem(f"fault: {visible(fault)}", soft_wrap=True)
    if arguments.overlays is not None:
        _draw(console, arguments)
    faults = len(verdict.faults)
    console.result(f"{faults} fault{'' if faults == 1 else 's'}" if faults else "no faults")
    return Status.of(faults)


def _draw(console: Terminal, arguments: argparse.Namespace) -> None:
    """Draw one picture per image; draw none if the file cannot be opened."""
    import numpy as np

    from core.base.errors import UserError
    from core.base.standard_streams import visible
    from core.files.atomic import replacing
    from core.files.names import FileNames
    from core.files.system_errors import explain_os_errors
    from core.pictures.radiographs import draw_overlay
    from data.hdf5.image_choice import choose_images
    from data.hdf5.store import Store

    try:
        store = Store.open(arguments.file)
    except UserError as error:
        console.print(f"no overlays: {visible(error.message)}", soft_wrap=True)
        return
    with store, replacing(arguments.overlays) as partial:
        with explain_os_errors(arguments.overlays, "write"):
            partial.mkdir()
        chosen = choose_images(store, arguments.count, arguments.seed)
        image = np.empty((1, store.height, store.width, 1), np.float32)
        mask = np.zeros(image.shape, np.uint8)
        names = FileNames()
        for index in chosen:
            store.read(np.array([index]), image, mask if store.annotated else None)
            picture = draw_overlay(image[0, ..., 0], mask[0, ..., 0])
            with explain_os_errors(arguments.overlays, "write"):
                (partial / f"{names.take(store.ids[index])}.png").write_bytes(picture)
    console.print(visible(f"{len(chosen)} images drawn in {arguments.overlays}"), soft_wrap=True)
