"""`python run.py tune -f NAME`: search a model's thresholds on the images that its training held out."""

from __future__ import annotations

import argparse

from core.commands.shared.options import add_data_option, add_framework_option, add_prediction_options
from core.commands.shared.statuses import Status

HELP = "search a model's thresholds on the images that training held out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_framework_option(parser)
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="folder of a model, or of folds (default: NAME_model, or the only one there)",
    )
    add_data_option(parser)
    add_prediction_options(parser, *["no; the choice is saved with the thresholds", "1; saved too"])


def run(arguments: argparse.Namespace) -> Status:
    """Search the thresholds and write thresholds.json to the model's folder."""
    from core.commands.tune import tuning

    return tuning.run(arguments)
