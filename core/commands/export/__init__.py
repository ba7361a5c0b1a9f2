"""`python run.py export --model DIR --to FORMAT`: write a trained model in a format of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from core.commands.shared.options import add_overwrite_option
from core.commands.shared.statuses import Status

HELP = "write a trained model in a format of other programs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "-f",
        "--framework",
        metavar="NAME",
        help="the backend that writes (default: the first installed one that can); the model may be of any "
        "backend",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder of a trained model")
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="one of onnx, savedmodel, mxnet, torchscript, pt2, stablehlo, or a format of another package's "
        "backend",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="PATH",
        help="the folder to write; or a file, if the format is a single file with that suffix "
        "(default: DIR/export-FORMAT)",
    )
    parser.add_argument(
        "--white",
        type=float,
        default=1.0,
        metavar="W",
        help="value of a white pixel in the images that the export will get: 1 as in data files, "
        "255 as in 8-bit images",
    )
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Write and check the export."""
    from core.commands.export import exporting

    return exporting.run(arguments)
