"""`python run.py predict -f NAME`: find pneumothoraces in DICOM files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from core.commands.shared.options import (
    add_framework_option,
    add_machines_options,
    add_overwrite_option,
    add_prediction_options,
    add_threshold_options,
)
from core.commands.shared.parser import only_with
from core.commands.shared.statuses import Status
from core.files.destinations import output_file

if TYPE_CHECKING:
    from core.distribution.machines import Machines

HELP = "predict for DICOM files: submission, masks, pictures, DICOM Segmentation objects, JSON"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_framework_option(parser)
    parser.add_argument(
        "--model",
        type=Path,
        nargs="+",
        action="extend",
        metavar="DIR",
        help="trained model, or several as an ensemble; a folder with fold0/, fold1/, ... is one "
        "(default: NAME_model, or the only one there)",
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder with DICOM files at any depth"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=output_file,
        default=Path("submission.csv"),
        metavar="FILE",
        help="the submission to write (CSV); - prints it",
    )
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="write a PNG of each mask, with values 0 and 255"
    )
    parser.add_argument(
        "--overlays", type=Path, metavar="DIR", help="write a picture of each image with its mask"
    )
    parser.add_argument(
        "--dicom-seg",
        type=Path,
        metavar="DIR",
        help="write a DICOM Segmentation object of each positive image",
    )
    parser.add_argument(
        "--probabilities",
        type=Path,
        metavar="FILE.h5",
        help="write the probability maps, at the network's size",
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write all results as JSON; - prints them"
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="the ground truth (CSV), drawn in --overlays with the prediction; needs --overlays",
    )
    only_with(parser, "--annotations", "--overlays")
    add_prediction_options(parser)
    add_threshold_options(parser)
    add_overwrite_option(parser)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="treat an unreadable image as an error: exit status 1 instead of 3",
    )
    add_machines_options(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Predict. An unreadable image is a fault, or with --strict an error."""
    from core.commands.shared.team import run_over_machines

    def work(machines: Machines | None) -> Status:
        from core.commands.predict import prediction

        return prediction.run(arguments, machines)

    return run_over_machines(arguments, work)
