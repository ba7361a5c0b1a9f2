"""`python run.py parity -f A -f B`: train on several backends step by step and compare all numbers."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.base.precisions import PRECISIONS
from core.base.programs import command_line
from core.commands.shared.options import (
    NAMED_BACKEND,
    add_device_option,
    add_overwrite_option,
    check_at_least_one,
    check_plot,
)
from core.commands.shared.statuses import Status
from core.files.destinations import output_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.backend.state import ArrayKind
    from core.commands.shared.terminal import Terminal
    from core.experiment.configuration import Configuration
    from core.parity import Certificate, RunHistory

HELP = "train on several backends in step and show how much their numbers differ"

_DEFAULTS = {"batch_size": "8", "precision": "float64"}  # not the configuration's own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "-f",
        "--framework",
        action="append",
        required=True,
        metavar="NAME",
        help=f"{NAMED_BACKEND}; give two or more. With --workers one is enough, and tf+torch is a run whose "
        "workers have these backends in turn",
    )
    parser.add_argument(
        "-j",
        "--workers",
        action="append",
        type=int,
        metavar="N",
        help="compare runs by these numbers of workers bit by bit; give it once for each run",
    )
    parser.add_argument("--config", default="configs/fcn.yaml", metavar="FILE", help="network and training")
    parser.add_argument(
        "--data",
        metavar="FILE",
        help=f"data file made by {command_line('preprocess')} (default: synthetic images of 64x96)",
    )
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="number of updates")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help=f"images in a batch (default: {_DEFAULTS['batch_size']})"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="float64 has a fixed tolerance; that of the others is the rounding error of the reference "
        f"(default: {_DEFAULTS['precision']})",
    )
    parser.add_argument(
        "--relay",
        action="store_true",
        help="also continue each backend's run from half-way on every other backend",
    )
    parser.add_argument(
        "--round",
        action="store_true",
        help="also train one run that goes from backend to backend, in the given order and back to the first",
    )
    parser.add_argument("--seed", metavar="N", help="sets training.seed")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any key of the configuration; may be repeated",
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write all measurements as JSON; - prints them"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the distances: .png, .svg or .pdf")
    add_device_option(parser, "cpu")
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Compare the backends. One that exceeds its tolerance is a fault."""
    from core.backend.registry import require_training
    from core.base.errors import UserError
    from core.commands.shared.outputs import Input, claimed_reports
    from core.commands.shared.terminal import console

    # Many processes share the cores, so idle OpenMP threads should sleep, not spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in arguments.framework:
        for of_worker in name.split("+"):
            require_training(of_worker)
    check_at_least_one(arguments, "steps", "batch_size")
    if arguments.workers:
        if min(arguments.workers) < 1:
            raise UserError(f"--workers must be at least 1. Received: {min(arguments.workers)}")
        for option in ("relay", "round", "plot", "json"):
            if getattr(arguments, option):
                raise UserError(f"--{option} does not go with --workers")
        return _compare_workers(console(), arguments)
    if mixed := [name for name in arguments.framework if "+" in name]:
        raise UserError(f"-f {mixed[0]}: workers of several backends need --workers")
    if arguments.plot:
        check_plot("--plot", arguments.plot)
    reports = {"--json": arguments.json, "--plot": arguments.plot}
    inputs = [Input("the data file", Path(arguments.data))] if arguments.data else []
    with claimed_reports(reports, inputs, overwrite=arguments.overwrite):
        return _run(console(*reports.values()), arguments)


def _run(console: Terminal, arguments: argparse.Namespace) -> Status:
    import dataclasses
    import json

    from core.files.atomic import write_bytes, write_text

    certificate = _certify(arguments, console)
    _print(console, certificate)
    if arguments.json:
        content = {**dataclasses.asdict(certificate), "steps": certificate.steps, "holds": certificate.holds}
        write_text(arguments.json, json.dumps(content, indent=1) + "\n")
    if arguments.plot:
        from core.parity.plot import draw

        write_bytes(arguments.plot, draw(certificate, arguments.plot.suffix.lower()))
    return Status.of(not certificate.holds)


def _compare_workers(console: Terminal, arguments: argparse.Namespace) -> Status:
    from core.commands.shared.progress import progress_bar
    from core.tasks.worker_runs import compare

    names = [name.split("+") for name in arguments.framework]
    teams = [
        tuple(backends[worker % len(backends)] for worker in range(workers))
        for backends in names
        for workers in arguments.workers
        if workers >= len(backends)
    ]
    configuration = _configuration(arguments)
    data = Path(arguments.data) if arguments.data else None
    failed = False
    with progress_bar(console) as bar:
        task = bar.add_task("runs", total=len(teams))
        results = compare(
            teams, configuration, data, arguments.steps, lambda: bar.advance(task), device=arguments.device
        )
    for result in results:
        text = f"{result.run}: the same bits over {arguments.steps} steps"
        if result.first_difference is not None:
            text = (
                f"{result.run}: a bit differs from step {result.first_difference} on; losses at most "
                f"{result.loss:.1e}, arrays {result.arrays:.1e} from the first run's"
            )
        failed |= not result.holds
        (console.result if result.holds else console.problem)(text)
    return Status.of(failed)


def _certify(arguments: argparse.Namespace, console: Terminal) -> Certificate:
    from core.commands.shared.progress import progress_bar
    from core.parity import certify

    configuration = _configuration(arguments)
    with _images(arguments, configuration) as (batches, data):
        plan = configuration.training_plan(data.height, data.width)
        with progress_bar(console) as bar:
            task = bar.add_task("steps", total=arguments.steps)
            return certify(
                arguments.framework,
                plan,
                configuration,
                batches,
                data,
                arguments.steps,
                relay=arguments.relay,
                round_trip=arguments.round,
                device=arguments.device,
                after_step=lambda step: bar.update(task, completed=step),
            )


def _configuration(arguments: argparse.Namespace) -> Configuration:
    from core.experiment.configuration import load_configuration

    options = {name: getattr(arguments, name) for name in (*_DEFAULTS, "seed")}
    overrides = [
        *arguments.set,
        *(f"training.{n}={value}" for n, value in options.items() if value is not None),
    ]
    keys = {override.partition("=")[0] for override in overrides}
    defaults = [f"training.{n}={value}" for n, value in _DEFAULTS.items() if f"training.{n}" not in keys]
    return load_configuration(Path(arguments.config), [*overrides, *defaults])


@contextlib.contextmanager
def _images(arguments: argparse.Namespace, configuration: Configuration) -> Iterator[Any]:
    """Yield the batches and facts about the data: of the data file, split as for training, or synthetic."""
    from core.experiment.checkpoint import DataFacts
    from core.parity.synthetic_batches import SYNTHETIC_SIZE, SyntheticBatches
    from core.tasks.training_batches import training_batches
    from core.tasks.validation_split import facts_of, split_of, store_for
    from data.hdf5.store import Store

    settings = configuration.training

    if arguments.data is None:
        drawn = SyntheticBatches(*SYNTHETIC_SIZE, settings.batch_size, settings.seed)
        yield drawn, DataFacts(drawn.images, (drawn.images + 1) // 2, *SYNTHETIC_SIZE)
        return
    with Store.open(Path(arguments.data)) as file:
        store = store_for(file, settings)
        loader = training_batches(store, split_of(store, settings).training, settings)
        yield loader, facts_of(store)


def _print(console: Terminal, certificate: Certificate) -> None:
    from rich.table import Table

    from core.parity import KINDS

    table = Table(
        "against " + certificate.base,
        *KINDS,
        title=f"relative distances over {certificate.steps} steps in {certificate.precision}, "
        "each where it takes most of its budget",
    )
    for name, series in certificate.runs.items():
        table.add_row(name, *(_cell(series, kind) for kind in KINDS))
    console.result(table)
    for violation in certificate.violations:
        console.problem(str(violation), soft_wrap=True)
    compared = ", ".join(certificate.runs)
    if certificate.holds:
        how = "is fixed"
        if certificate.precision != "float64":
            how = "is what rounding does to the reference in float64"
        console.result(
            f"holds: {compared} cannot be told from {certificate.base} at any step. The budget {how}.",
            soft_wrap=True,
        )
    else:
        console.problem(f"DOES NOT HOLD for {', '.join(v.run for v in certificate.violations)}")


def _cell(series: RunHistory, kind: ArrayKind) -> str:
    shares = series.shares(kind)
    if not shares:
        return "-"
    step = max(range(len(shares)), key=shares.__getitem__)
    return f"{series.distances[kind][step]:.1e} ({shares[step]:.0%})"
