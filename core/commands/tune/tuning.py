"""The command `tune`: search thresholds, with predictions from the backend's process, and show tables."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from core.backend.process import BackendProcess
from core.backend.registry import require_backend
from core.base.standard_streams import visible
from core.commands.shared import terminal
from core.commands.shared.frameworks import model_of, remark
from core.commands.shared.options import check_at_least_one
from core.commands.shared.statuses import Status
from core.commands.shared.terminal import Terminal
from core.commands.shared.training_console import ConsoleWatcher
from core.files.atomic import reserved
from core.prediction.predictor_process import BeginPrediction, RemotePredictor
from core.prediction.trained_models import Member, find_members
from core.scoring.evaluation_record import Surface
from core.scoring.threshold_search import SearchResult
from core.scoring.views import Views, checked_scales
from core.tasks.backend_choice import choose_predictor
from core.tasks.tuning import describe, tune_thresholds
from data.hdf5.store import Store
from data.radiographs.resize import resize_image


def run(arguments: argparse.Namespace) -> Status:
    """Tune as the command line says."""
    console = terminal.console(soft_wrap=True)
    watcher = ConsoleWatcher(console)
    check_at_least_one(arguments, "batch_size")
    views = Views(bool(arguments.tta))
    if arguments.scales is not None:
        views = Views(views.flip, checked_scales(arguments.scales))
    named = None if arguments.framework is None else require_backend(arguments.framework)
    folder = Path(arguments.model or model_of(arguments.framework))
    backend = named or choose_predictor(find_members([folder]), arguments.device)
    if named is None:
        console.print(remark(backend))
    with (
        Store.open(Path(arguments.data)) as store,
        _model_reserved(folder),
        BackendProcess(backend.name) as process,
    ):

        def open_models(members: Sequence[Member]) -> BeginPrediction:
            return RemotePredictor(
                process, backend.title, members, arguments.device, views=views, resize=resize_image
            ).begin

        found, shown = tune_thresholds(watcher, store, folder, open_models, arguments.batch_size, views=views)
    _print(console, found, shown)
    console.result(visible(describe(folder, found)))
    return Status.DONE


@contextlib.contextmanager
def _model_reserved(folder: Path) -> Iterator[None]:
    """Keep other processes from training in the model's folder. `tune` reports one that does not exist."""
    with reserved(folder, shared=True) if folder.is_dir() else contextlib.nullcontext():
        yield


def _print(console: Terminal, found: SearchResult, shown: Sequence[Surface]) -> None:
    """Show the surfaces on a coarse grid."""
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


def _spread(values: Sequence[float], step: int) -> range:
    """Return every `step`-th index. Of 31 levels, the last of each step is taken, so the middle is shown."""
    return range(step - 1 if len(values) == 31 else 0, len(values), step)
