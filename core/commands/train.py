"""`python run.py [train] -f NAME`: train a network, or go on with one."""

from __future__ import annotations

import argparse

from core.commands.options import add_data_option, add_device_option, add_framework_option

HELP = "train a network (the default command)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_framework_option(parser, required=True)
    parser.add_argument("--config", metavar="FILE", help="network and training (default: configs/fcn.yaml)")
    add_data_option(parser)
    parser.add_argument(
        "-o", "--out", default=".", metavar="DIR", help="where NAME_model/ and NAME_logs/ are made"
    )
    parser.add_argument("--epochs", metavar="N", help="overrides training.epochs")
    parser.add_argument("--batch-size", metavar="N", help="overrides training.batch_size")
    parser.add_argument("--learning-rate", metavar="X", help="overrides training.optimizer.learning_rate")
    parser.add_argument(
        "--precision",
        metavar="P",
        help="overrides training.precision: float32, float64, or mixed_bfloat16 for GPUs and new CPUs",
    )
    parser.add_argument("--seed", metavar="N", help="overrides training.seed")
    parser.add_argument(
        "--folds", metavar="K", help="train K networks, each with another K-th of the images held out"
    )
    parser.add_argument("--fold", metavar="I", help="only this one of the folds, from 0")
    add_device_option(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="MODEL_DIR",
        help="go on from NAME_model/, or from the given folder of any backend",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override any key of the configuration, as in training.epochs=3; may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train to the end, or until Ctrl-C or SIGTERM."""
    from core.commands import training_run

    return training_run.run(arguments)
