"""Options that several commands share, so that they are called, explained and refused alike."""

from __future__ import annotations

import argparse

from core.errors import UserError
from core.programs import command_line


def add_framework_option(parser: argparse.ArgumentParser) -> None:
    """The backend: -f."""
    parser.add_argument(
        "-f",
        "--framework",
        required=True,
        metavar="NAME",
        help=f"a backend; `{command_line('backends')}` lists them",
    )


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """The file to work on: --data."""
    parser.add_argument(
        "--data", default="pneumothorax.h5", metavar="FILE", help=f"made by {command_line('preprocess')}"
    )


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


def given_thresholds(arguments: argparse.Namespace) -> dict[str, float | None]:
    """What those options say, by threshold; None where one was left out."""
    return {name: getattr(arguments, name) for name in ("pixel", "area", "score")}


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
