"""The trials of the command `train`: `--dry-run` and `--rate-test`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from core.backend.registry import require_training
from core.base.errors import UserError
from core.commands.shared import terminal
from core.commands.shared.options import check_plot
from core.commands.shared.outputs import Input, claimed_reports
from core.commands.shared.statuses import Status
from core.commands.shared.training_console import ConsoleWatcher
from core.commands.train.training import planned_runs
from core.files.atomic import write_bytes
from core.tasks.trials import StageRehearsal, rehearse, try_rates
from core.training.rate_range import draw_rates


def run(arguments: argparse.Namespace) -> Status:
    """Make the trial that the command line asks for."""
    require_training(arguments.framework)
    if (arguments.workers or 1) > 1:
        raise UserError("--dry-run and --rate-test run one worker", "Leave --workers out.")
    if arguments.resume is not None:
        raise UserError("--dry-run and --rate-test begin anew", "Leave --resume out.")
    plot: Path | None = arguments.rate_test
    if plot is not None:
        check_plot("--rate-test", plot)
    inputs = [Input("the data file", Path(arguments.data))]
    with claimed_reports({"--rate-test": plot}, inputs, overwrite=arguments.overwrite):
        return _run(arguments, plot)


def _run(arguments: argparse.Namespace, plot: Path | None) -> Status:
    console = terminal.console(soft_wrap=True)
    planned = planned_runs(arguments)
    given = ConsoleWatcher(console), planned, arguments.framework, arguments.data, arguments.device
    if plot is None:
        console.result(_table(found := rehearse(*given)))
        console.result(_total(found, planned.folds))
        return Status.DONE
    rates = try_rates(*given)
    write_bytes(plot, draw_rates(rates, plot.suffix.lower()))
    steepest = "never" if rates.steepest is None else f"at {rates.steepest:.1e}"
    console.result(
        f"The loss falls most steeply {steepest}; it is lowest at {rates.lowest:.1e}, of which a tenth is "
        f"{rates.lowest / 10:.1e}. Written: {plot}"
    )
    return Status.DONE


def _table(found: Sequence[StageRehearsal]) -> Table:
    table = Table("", *(one.name or "training" for one in found))
    rows = {
        "images": [f"{one.height}x{one.width}" for one in found],
        "batch": [str(one.batch_size) for one in found],
        "updates": [f"{one.epochs} epochs of {one.batches}" for one in found],
        "first loss": [f"{one.loss:.4f}" for one in found],
        "memory, estimated *": [f"{one.estimated_bytes / 1e9:.1f} GB" for one in found],
        "memory, measured *": [
            "-" if one.peak_bytes is None else f"{one.peak_bytes / 1e9:.1f} GB" for one in found
        ],
        "speed": [f"{one.images_per_second:.1f} images/s" for one in found],
        "scoring an epoch": [_duration(one.seconds_of_scoring) for one in found],
        "all epochs": [_duration(one.seconds) for one in found],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _total(found: Sequence[StageRehearsal], folds: int) -> str:
    seconds = sum(one.seconds for one in found)
    whole = f"The whole takes about {_duration(seconds)}"
    if folds > 1:
        whole += f" for each of {folds} folds, {_duration(folds * seconds)} together"
    return (
        f"{whole}; less if it stops early. No model was written.\n"
        "* The estimate is for a CPU, without the memory of the framework, which the measured process has."
    )


def _duration(seconds: float) -> str:
    """Return a time in its two largest units: "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"
