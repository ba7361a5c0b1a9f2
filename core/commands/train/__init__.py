"""`python run.py [train] -f NAME`: train a network, or go on with one."""

from __future__ import annotations

import argparse

from core.commands.shared.options import (
    add_configuration_options,
    add_data_option,
    add_device_option,
    add_framework_option,
)

HELP = "train a network (the default command)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_framework_option(parser, required=True)
    parser.add_argument("--config", metavar="FILE", help="network and training (default: configs/fcn.yaml)")
    add_data_option(parser)
    parser.add_argument(
        "-o", "--out", default=".", metavar="DIR", help="where NAME_model/ and NAME_logs/ are made"
    )
    add_configuration_options(parser)
    add_device_option(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="MODEL_DIR",
        help="go on from NAME_model/, or from the given folder of any backend",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train to the end, or until Ctrl-C or SIGTERM."""
    from core.commands.train import training

    return training.run(arguments)
