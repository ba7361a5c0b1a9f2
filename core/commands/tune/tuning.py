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
from core.scoring.operating_points import OperatingPoint
from core.scoring.views import Views, checked_scales
from core.tasks.backend_choice import choose_predictor
from core.tasks.tuning import Tuned, describe, describe_gain, describe_rates, tune_thresholds
from data.hdf5.store import Store
from data.radiographs.resize import resize_image


def run(arguments: argparse.Namespace) -> Status:
    """Tune as the command line says."""
    console = terminal.console(soft_wrap=True)
    watcher = ConsoleWatcher(console)
    check_at_least_one(arguments, "batch_size")
    point = _operating_point(arguments)
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

        tuned = tune_thresholds(
            watcher, store, folder, open_models, arguments.batch_size, views=views, point=point
        )
    _print(console, tuned)
    console.result(visible(describe(folder, tuned.search)))
    console.result(describe_rates(tuned.search))
    if gain := describe_gain(tuned):
        console.result(gain)
    return Status.DONE


def _operating_point(arguments: argparse.Namespace) -> OperatingPoint | None:
    """Return the operating point of the command line; None if there is none."""
    if arguments.sensitivity is not None:
        return OperatingPoint("sensitivity", arguments.sensitivity)
    return None if arguments.specificity is None else OperatingPoint("specificity", arguments.specificity)


@contextlib.contextmanager
def _model_reserved(folder: Path) -> Iterator[None]:
    """Keep other processes from training in the model's folder. `tune` reports one that does not exist."""
    with reserved(folder, shared=True) if folder.is_dir() else contextlib.nullcontext():
        yield


def _print(console: Terminal, tuned: Tuned) -> None:
    """Show the surfaces on a coarse grid."""
    console.result(f"{tuned.search.images} held-out images, {tuned.search.positives} positive")
    for surface in tuned.surfaces:
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
