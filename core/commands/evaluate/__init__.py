"""`python run.py evaluate -f NAME`: score trained models on held-out images."""

from __future__ import annotations

import argparse
from pathlib import Path

from core.commands.shared.options import (
    CHOSEN_BACKEND,
    NAMED_BACKEND,
    add_data_option,
    add_overwrite_option,
    add_prediction_options,
    add_threshold_options,
)
from core.commands.shared.statuses import Status
from core.files.destinations import output_file

HELP = "score trained models: Dice with its all-negative baseline, AUROC, calibration, a report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "-f",
        "--framework",
        action="append",
        metavar="NAME",
        help=f"{NAMED_BACKEND}; may be repeated to compare several {CHOSEN_BACKEND}",
    )
    parser.add_argument(
        "--model",
        action="append",
        nargs="+",
        metavar="DIR",
        help="folder of a model; several after one --model are an ensemble, and each further --model is "
        "another column of the table (default: NAME_model, or the only one there)",
    )
    add_data_option(parser)
    parser.add_argument(
        "--split",
        choices=("validation", "all"),
        default="validation",
        help="validation: the images that training held out; all: every image of the data file",
    )
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="a table with a column image_id and further columns: images with the same value are a group, "
        "whose scores are told too (as are those by view, sex and age, where the data file has them)",
    )
    add_prediction_options(parser)
    add_threshold_options(parser)
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the scores as JSON; - prints them"
    )
    parser.add_argument(
        "--report", type=output_file, metavar="FILE.html", help="write one page with pictures; - prints it"
    )
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Score the models and show the table."""
    from core.commands.evaluate import evaluation

    return evaluation.run(arguments)
