"""The command `train`: plan the runs, train them and show the progress on the console."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from core.backend.registry import require_training
from core.base.programs import words_of
from core.base.standard_streams import visible
from core.commands.shared import terminal
from core.commands.shared.options import overrides
from core.commands.shared.statuses import Status, of_signal
from core.commands.shared.training_console import ConsoleWatcher
from core.distribution.exchange import Exchange
from core.tasks.training import Interruption, interruptible, train
from core.tasks.training_runs import TrainingRuns, plan_runs


def run(arguments: argparse.Namespace, exchange: Exchange) -> int:
    """Train as the command line says. Of several workers this is worker 0."""
    require_training(arguments.framework)  # checked first, so a misspelt name is reported at once
    console = terminal.console(soft_wrap=True)
    watcher = ConsoleWatcher(console)
    planned = planned_runs(arguments)
    interruption = train(
        watcher,
        planned,
        arguments.framework,
        arguments.data,
        arguments.device,
        interruptible,
        exchange,
        arguments.exchange,
    )
    if interruption is not None:
        console.problem(visible(str(interruption)))
        console.problem(visible(f"Go on with: {_continuation(arguments, interruption)}"))
        return of_signal(interruption.number)
    if planned.folds > 1:
        number = planned.folds
        watcher.say(f"All {number} folds are trained; together they predict as an ensemble: {planned.folder}")
    return Status.DONE


def planned_runs(arguments: argparse.Namespace) -> TrainingRuns:
    """Return the runs that the command line asks for."""
    return plan_runs(
        arguments.framework,
        Path(arguments.out),
        None if arguments.config is None else Path(arguments.config),
        overrides(arguments),
        arguments.resume,
    )


def _continuation(arguments: argparse.Namespace, interruption: Interruption) -> str:
    """Return the command line that continues the training."""
    out = [] if arguments.out == "." else ["--out", arguments.out]
    number = interruption.run.configuration.training.fold
    only = ["--fold", str(number)] if interruption.alone and number is not None else []
    machine = [] if arguments.device == "auto" else ["--device", arguments.device]
    for name in ("workers", "threads", "exchange"):
        if (value := getattr(arguments, name)) is not None:
            machine += [f"--{name}", str(value)]
    words = [*words_of("train"), "-f", arguments.framework, "--data", arguments.data, *out, *only, *machine]
    return shlex.join([*words, "--resume"])
