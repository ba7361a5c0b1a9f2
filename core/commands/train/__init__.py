"""`python run.py [train] -f NAME`: train a network, or continue a training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from core.commands.shared.options import (
    add_configuration_options,
    add_data_option,
    add_device_option,
    add_framework_option,
    add_overwrite_option,
    add_team_options,
)

if TYPE_CHECKING:
    from core.distribution.exchange import Exchange

HELP = "train a network (the default command)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_framework_option(parser, required=True)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration: a name of the toolkit's own, or a YAML file (default: configs/fcn.yaml)",
    )
    add_data_option(parser)
    parser.add_argument(
        "-o", "--out", default=".", metavar="DIR", help="folder for NAME_model/ and NAME_logs/"
    )
    add_configuration_options(parser)
    add_device_option(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="MODEL_DIR",
        help="continue NAME_model/, or the model in MODEL_DIR, of any backend",
    )
    group = parser.add_argument_group("trials", "they train some batches and write no model")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--dry-run",
        action="store_true",
        help="try some batches of each stage; show memory and how long the whole will take",
    )
    either.add_argument(
        "--rate-test",
        type=Path,
        metavar="FILE",
        help="train while the learning rate grows, and draw the loss over it: .png, .svg or .pdf",
    )
    add_overwrite_option(group)
    add_team_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train to the end, or until Ctrl-C or SIGTERM."""
    if arguments.dry_run or arguments.rate_test is not None:
        from core.commands.train import trials

        return trials.run(arguments)

    from core.commands.shared.team import run_as_team

    def work(exchange: Exchange) -> int:
        from core.commands.train import training

        return training.run(arguments, exchange)

    def follow(exchange: Exchange) -> None:
        from core.tasks.followers import follow

        follow(exchange, arguments.framework, arguments.data, arguments.device)

    return run_as_team(arguments, work, follow)
