"""Options that several commands share, so that they are called, explained and refused alike."""

from __future__ import annotations

import argparse

from core.errors import UserError

NAMED_BACKEND = "a backend; the command 'backends' lists them"
CHOSEN_BACKEND = "(default: the first that is installed and can, ONNX Runtime before others)"


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What every command takes: --version, -v, -q, --no-progress; see `core.commands.terminal`."""
    group = parser.add_argument_group("on the terminal")
    group.add_argument(
        "--version", action="store_true", help="show the version and end; with -v the frameworks' too"
    )
    amount = group.add_mutually_exclusive_group()
    amount.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show more: versions, the time taken, every remark, where an error comes from",
    )
    amount.add_argument(
        "-q", "--quiet", action="store_true", help="show errors, faults and what was asked for, nothing else"
    )
    group.add_argument("--no-progress", action="store_true", help="show no progress bars")


def add_framework_option(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """The backend: -f."""
    explained = NAMED_BACKEND if required else f"{NAMED_BACKEND} {CHOSEN_BACKEND}"
    parser.add_argument("-f", "--framework", required=required, metavar="NAME", help=explained)


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """How many processes share the work: -j."""
    parser.add_argument(
        "-j", "--workers", type=int, metavar="N", help="processes (default: one for each core)"
    )


def add_overwrite_option(parser: argparse.ArgumentParser) -> None:
    """What may be replaced: --overwrite; see `core.commands.outputs`."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace outputs that exist; without it they are refused"
    )


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """The file to work on: --data."""
    parser.add_argument("--data", default="pneumothorax.h5", metavar="FILE", help="made by preprocess.py")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Where to compute: --device."""
    parser.add_argument("--device", default="auto", metavar="auto|cpu|gpu|gpu:N", help="where to compute")


def add_prediction_options(parser: argparse.ArgumentParser) -> None:
    """How a model predicts: --tta, --batch-size, --device."""
    parser.add_argument(
        "--tta",
        action="store_true",
        help="predict mirror images too and take the mean (test-time augmentation)",
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="images at a time")
    add_device_option(parser)


def add_threshold_options(parser: argparse.ArgumentParser) -> None:
    """What makes a mask of probabilities: --pixel, --area, --score; see `core.thresholds`."""
    group = parser.add_argument_group(
        "thresholds", "each overrides the model's own (thresholds.json; without such a file 0.5, 0, 0.5)"
    )
    group.add_argument(
        "--pixel", type=float, metavar="P", help="probability from which a pixel is in the mask"
    )
    group.add_argument(
        "--area", type=float, metavar="A", help="pixels, of a 1024x1024 image, that must reach the score"
    )
    group.add_argument("--score", type=float, metavar="S", help="the probability that they must reach")


def check_at_least_one(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse a number below 1 where one was given.

    Args:
        arguments: The command line.
        names: The attributes: "batch_size" for --batch-size.

    Raises:
        UserError: With the option and the number.
    """
    for name in names:
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1. Received: {number}")
