"""`python preprocess.py verify`: is a data file what it should be, and does it look right?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from core.commands.options import add_overwrite_option, check_at_least_one
from core.commands.statuses import Status

if TYPE_CHECKING:
    from core.commands.terminal import Terminal

HELP = "check a data file in full, and draw masks on radiographs for the eye"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file", nargs="?", type=Path, default=Path("pneumothorax.h5"), help="made by preprocess.py"
    )
    parser.add_argument(
        "--overlays",
        type=Path,
        metavar="DIR",
        help="draw random images, mostly positives, with their masks' outlines: one PNG each",
    )
    parser.add_argument("--count", type=int, default=12, metavar="N", help="how many to draw")
    parser.add_argument("--seed", type=int, default=0, help="decides which are drawn")
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Look, and show what was found. Where the file breaks its contract, that is a fault."""
    from core.commands.outputs import Input, Output, OutputFolder, claimed
    from core.commands.terminal import console

    check_at_least_one(arguments, "count")
    outputs: list[Output] = []
    if arguments.overlays is not None:
        outputs.append(OutputFolder("--overlays", arguments.overlays, ".png"))
    with claimed(outputs, [Input("the data file", arguments.file)], overwrite=arguments.overwrite):
        return _verify(console(), arguments)


def _verify(console: Terminal, arguments: argparse.Namespace) -> Status:
    from rich.table import Table

    from core.commands.progress import progress_bar
    from core.standard_streams import visible
    from data.verification import verify

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
    """One picture an image; a file that cannot be read as a whole gives none."""
    import numpy as np

    from core.errors import UserError
    from core.files import FileNames, explained, replacing
    from core.pictures import draw_overlay
    from core.standard_streams import visible
    from data.store import Store
    from data.verification import choose

    try:
        store = Store.open(arguments.file)
    except UserError as error:
        console.print(f"no overlays: {visible(error.message)}", soft_wrap=True)
        return
    with store, replacing(arguments.overlays) as partial:
        with explained(arguments.overlays, "write"):
            partial.mkdir()
        chosen = choose(store, arguments.count, arguments.seed)
        image = np.empty((1, store.height, store.width, 1), np.float32)
        mask = np.zeros(image.shape, np.uint8)
        names = FileNames()
        for index in chosen:
            store.read(np.array([index]), image, mask if store.annotated else None)
            picture = draw_overlay(image[0, ..., 0], mask[0, ..., 0])
            with explained(arguments.overlays, "write"):
                (partial / f"{names.take(store.ids[index])}.png").write_bytes(picture)
    console.print(visible(f"{len(chosen)} images drawn in {arguments.overlays}"), soft_wrap=True)
