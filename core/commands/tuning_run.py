"""What `tune` and the end of `train` do: predict the held-out images, search, write thresholds.json."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from core.commands import terminal
from core.commands.answers import remark_on_folds
from core.commands.frameworks import choose_predictor, model_of, remark
from core.commands.held_out import shares
from core.commands.options import check_at_least_one
from core.commands.scoring_run import Open, score
from core.commands.statuses import Status
from core.commands.terminal import Terminal
from core.contract import Implementation
from core.errors import UserError
from core.evaluation import Surface
from core.exports import EXPORT, renew_thresholds
from core.files import reserved
from core.inference import Member, Predictor, find_members
from core.isolation import Isolated
from core.registry import require_backend
from core.remote_prediction import Begin, RemotePredictor
from core.standard_streams import visible
from core.thresholds import FILE, Thresholds, save_thresholds
from core.tuning import Search, search, surfaces
from data.store import Store


def run(arguments: argparse.Namespace) -> Status:
    """Tune as the command line says."""
    console = terminal.console(soft_wrap=True)
    check_at_least_one(arguments, "batch_size")
    named = None if arguments.framework is None else require_backend(arguments.framework)
    folder = Path(arguments.model or model_of(arguments.framework))
    backend = named or choose_predictor(find_members([folder]), arguments.device)
    if named is None:
        console.print(remark(backend))
    with (
        Store.open(Path(arguments.data)) as store,
        _model_kept(folder),
        Isolated(backend.name) as process,
    ):

        def open_models(members: Sequence[Member]) -> Begin:
            return RemotePredictor(
                process, backend.title, members, arguments.device, flip=arguments.tta
            ).begin

        found, shown = tune(console, store, folder, open_models, arguments.batch_size, flip=arguments.tta)
    _print(console, folder, found, shown)
    return Status.DONE


@contextlib.contextmanager
def _model_kept(folder: Path) -> Iterator[None]:
    """Keep trainings away from a model; one that is not there is for `tune` to tell."""
    with reserved(folder, shared=True) if folder.is_dir() else contextlib.nullcontext():
        yield


def tune_trained(
    console: Console,
    store: Store,
    folder: Path,
    implementation: Implementation,
    device: str,
    batch_size: int,
) -> None:
    """Tune at the end of a training, in its process; where that cannot be done, one line says why."""

    def open_models(members: Sequence[Member]) -> Begin:
        predictor = Predictor(members, implementation, device)

        def begin(images: Any) -> Any:
            found = predictor.predict(images)
            return lambda: found

        return begin

    try:
        found, _ = tune(console, store, folder, open_models, batch_size)
    except UserError as error:
        console.print(visible(f"Thresholds were not searched, so the defaults hold: {error.message}"))
        return
    console.print(_line(folder, found))


def tune(
    console: Console, store: Store, folder: Path, open_models: Open, batch_size: int, *, flip: bool = False
) -> tuple[Search, tuple[Surface, ...]]:
    """Search the thresholds of the model (or the folds) in a folder on what was held out, and write them.

    Raises:
        UserError: There is no model, nothing was held out, or no positive image was.
    """
    members = find_members([folder])
    if note := remark_on_folds([folder], members):
        console.print(visible(note))
    parts = shares(store, members, "validation")
    scored = score(console, store, parts, open_models, Thresholds(), batch_size, "thresholds")
    histograms = scored.scorer.histograms()
    began = time.perf_counter()
    found = search(histograms)
    if found is None:
        raise UserError(f"none of the {len(histograms)} held-out images is positive: nothing to search on.")
    facts = {
        "dice": found.dice,
        "dice_default": found.dice_default,
        "dice_cross_fitted": found.dice_cross_fitted,
        "dice_all_empty": found.dice_all_empty,
        "images": found.images,
        "positives": found.positives,
        "reach": found.reach,
        "flip": flip,
        "checkpoints": [str(member.path.relative_to(folder)) for member in members],
        "seconds": round(time.perf_counter() - began, 3),
    }
    save_thresholds(folder, found.thresholds, facts)
    renew_thresholds(folder / EXPORT, found.thresholds)
    return found, surfaces(histograms, found.thresholds)


def _line(folder: Path, found: Search) -> str:
    expected = "" if found.dice_cross_fitted is None else f", cross-fitted {found.dice_cross_fitted:.4f}"
    file = visible(str(folder / FILE))
    return (
        f"Thresholds: {found.thresholds} in {file}; Dice at the original size {found.dice:.4f} with "
        f"them{expected}, with the defaults {found.dice_default:.4f} (all-empty floor "
        f"{found.dice_all_empty:.4f})"
    )


def _print(console: Terminal, folder: Path, found: Search, shown: Sequence[Surface]) -> None:
    """The surfaces on a coarse grid, and what was found."""
    console.result(f"{found.images} held-out images, {found.positives} positive")
    for surface in shown:
        rows = _spread(surface.rows, 4 if surface.row_name == "score" else 3)
        columns = _spread(surface.columns, 4)
        table = Table(
            f"{surface.row_name} \\ {surface.column_name}",
            *(f"{surface.columns[column]:.3g}" for column in columns),
            title=f"mean Dice at {surface.fixed} {surface.value:.6g}",
        )
        for row in rows:
            cells = (surface.dice[row][column] for column in columns)
            table.add_row(
                f"{surface.rows[row]:.6g}", *("" if cell is None else f"{cell:.4f}" for cell in cells)
            )
        console.result(table)
    console.result(_line(folder, found))


def _spread(values: Sequence[float], step: int) -> range:
    """Every `step`-th place; the last of each step, which has the middle of 31 levels among them."""
    return range(step - 1 if len(values) == 31 else 0, len(values), step)
