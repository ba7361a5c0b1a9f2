"""Options that several commands share, so that they are called, explained and refused alike."""

from __future__ import annotations

import argparse

from core.base.errors import UserError
from core.base.programs import command_line
from core.commands.shared.parser import Switch

NAMED_BACKEND = "a backend; the command 'backends' lists them"
CHOSEN_BACKEND = "(default: the first that is installed and can, ONNX Runtime before others)"


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What every command takes: --version, -v, -q, --no-progress; see `core.commands.shared.terminal`."""
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
    """What may be replaced: --overwrite; see `core.commands.shared.outputs`."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace outputs that exist; without it they are refused"
    )


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """The file to work on: --data."""
    parser.add_argument(
        "--data", default="pneumothorax.h5", metavar="FILE", help=f"made by {command_line('preprocess')}"
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Where to compute: --device."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="auto|cpu|gpu|gpu:N",
        help="where to compute; cuda and cuda:N mean the same as gpu and gpu:N",
    )


def add_configuration_options(parser: argparse.ArgumentParser) -> None:
    """What changes a configuration: --set and the options that stand for keys often set; see `overrides`."""
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
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override any key of the configuration, as in training.epochs=3; may be repeated",
    )


def overrides(arguments: argparse.Namespace) -> list[str]:
    """What those options change, as `core.experiment.configuration` takes it."""
    options = {
        "training.epochs": arguments.epochs,
        "training.batch_size": arguments.batch_size,
        "training.precision": arguments.precision,
        "training.optimizer.learning_rate": arguments.learning_rate,
        "training.seed": arguments.seed,
        "training.folds": arguments.folds,
        "training.fold": arguments.fold,
    }
    return [*arguments.set, *(f"{key}={value}" for key, value in options.items() if value is not None)]


def add_prediction_options(parser: argparse.ArgumentParser) -> None:
    """How a model predicts: --tta, --no-tta, --batch-size, --device. Without the first two `tta` is None."""
    parser.add_argument(
        "--tta",
        action=Switch,
        help="predict mirror images too and take the mean (test-time augmentation)",
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="images at a time")
    add_device_option(parser)


def add_threshold_options(parser: argparse.ArgumentParser) -> None:
    """What makes a mask of probabilities: --pixel, --area, --score; see `core.scoring.thresholds`."""
    group = parser.add_argument_group(
        "thresholds", "each overrides the model's own (thresholds.json; without such a file 0.5, 0, 0.5)"
    )
    group.add_argument("--pixel", type=float, metavar="P", help="least probability of a pixel in the mask")
    group.add_argument(
        "--area",
        type=float,
        metavar="A",
        help="least number of pixels, counted at 1024x1024, that must have probability S in a positive image",
    )
    group.add_argument(
        "--score", type=float, metavar="S", help="least probability of those A pixels of a positive image"
    )


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
