"""Options that several commands share, so that they have the same names, help and errors."""

from __future__ import annotations

import argparse
from pathlib import Path

from core.base.errors import UserError
from core.base.packages import require
from core.base.programs import command_line
from core.commands.shared.parser import Switch

NAMED_BACKEND = "a backend; the command 'backends' lists them"
CHOSEN_BACKEND = "(default: the first installed one that can, ONNX Runtime before others)"


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add --version, -v, -q and --no-progress, which every command has."""
    group = parser.add_argument_group("on the terminal")
    group.add_argument(
        "--version",
        action="store_true",
        help="show the version and exit; with -v also the versions of the frameworks",
    )
    amount = group.add_mutually_exclusive_group()
    amount.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show more: versions, the time taken, every remark, the traceback of an error",
    )
    amount.add_argument(
        "-q", "--quiet", action="store_true", help="show only errors, faults and the requested result"
    )
    group.add_argument("--no-progress", action="store_true", help="show no progress bars")


def add_framework_option(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add -f, the backend."""
    explained = NAMED_BACKEND if required else f"{NAMED_BACKEND} {CHOSEN_BACKEND}"
    parser.add_argument("-f", "--framework", required=required, metavar="NAME", help=explained)


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """Add -j, the number of processes."""
    parser.add_argument(
        "-j", "--workers", type=int, metavar="N", help="number of processes (default: one per core)"
    )


def add_team_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of several workers that compute together; see `core.commands.shared.team`."""
    group = parser.add_argument_group("several workers")
    group.add_argument(
        "-j",
        "--workers",
        type=int,
        metavar="N",
        help="number of workers on this machine; N must divide training.shards (default: 1, or those that "
        "mpiexec or srun has started)",
    )
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="cores of each worker (default: the workers of a machine share its cores equally)",
    )
    _add_timeout(group)
    group.add_argument(
        "--exchange",
        choices=["mpi", "backend"],
        help="what exchanges the gradients: mpi on the hosts, for any backends, or the backend itself on the "
        "devices, in the same order of addition (default: backend where it can, on GPUs, else mpi)",
    )


def add_machines_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of work that several machines share; see `core.commands.shared.team`."""
    group = parser.add_argument_group("processes and machines")
    group.add_argument(
        "-j",
        "--workers",
        type=int,
        metavar="N",
        help="number of processes, of each worker that mpiexec or srun has started (default: one per core)",
    )
    _add_timeout(group)


def _add_timeout(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--worker-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds without a sign of life of a worker, after which all end",
    )


def add_overwrite_option(parser: argparse._ActionsContainer) -> None:
    """Add --overwrite; see `core.commands.shared.outputs`."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace outputs that exist; without it they are an error"
    )


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Add --data, the data file."""
    parser.add_argument(
        "--data",
        default="pneumothorax.h5",
        metavar="FILE",
        help=f"data file made by {command_line('preprocess')}",
    )


def add_device_option(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add --device."""
    parser.add_argument(
        "--device",
        default=default,
        metavar="auto|cpu|gpu|gpu:N",
        help="the device that computes; cuda and cuda:N mean the same as gpu and gpu:N",
    )


def add_configuration_options(parser: argparse.ArgumentParser) -> None:
    """Add --set and the options for keys that are often set; `overrides` reads them."""
    parser.add_argument("--epochs", metavar="N", help="sets training.epochs")
    parser.add_argument("--batch-size", metavar="N", help="sets training.batch_size")
    parser.add_argument("--learning-rate", metavar="X", help="sets training.optimizer.learning_rate")
    parser.add_argument(
        "--precision",
        metavar="P",
        help="sets training.precision: float32, float64, tf32 (GPUs), mixed_bfloat16 (GPUs and new CPUs), "
        "mixed_float16 (older GPUs)",
    )
    parser.add_argument("--seed", metavar="N", help="sets training.seed")
    parser.add_argument(
        "--folds",
        metavar="K",
        help="train K networks (cross-validation); each holds out another K-th of the images",
    )
    parser.add_argument("--fold", metavar="I", help="train only this fold, counted from 0")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any key of the configuration, as in training.epochs=3; may be repeated",
    )


def overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the changes of these options as KEY=VALUE, for `core.experiment.configuration`."""
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


def add_prediction_options(
    parser: argparse.ArgumentParser,
    tta_default: str = "as when the thresholds were searched",
    scales_default: str = "as when the thresholds were searched",
) -> None:
    """Add --tta, --no-tta, --scales, --batch-size and --device. Without the first three, both are None.

    Args:
        parser: The parser of the subcommand.
        tta_default: What the help says of None.
        scales_default: What it says of None for the scales.
    """
    parser.add_argument(
        "--tta",
        action=Switch,
        help="predict the mirror image too and take the mean (test-time augmentation; default: "
        f"{tta_default})",
    )
    parser.add_argument(
        "--scales",
        type=_scales,
        metavar="S,S,...",
        help="predict at these multiples of the images' size and take the mean, as in 0.75,1,1.25 "
        f"(default: {scales_default})",
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="number of images at a time")
    add_device_option(parser)


def _scales(text: str) -> tuple[float, ...]:
    """Read the value of --scales. Which numbers are allowed is checked by `core.scoring.views`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected numbers with commas between them, as in 0.75,1,1.25. Received: {text!r}"
        ) from error


def add_threshold_options(parser: argparse.ArgumentParser) -> None:
    """Add the thresholds --pixel, --area, --score and --existence; see `core.scoring.thresholds`."""
    group = parser.add_argument_group(
        "thresholds", "each replaces the model's own (thresholds.json; without that file 0.5, 0, 0.5)"
    )
    group.add_argument(
        "--pixel", type=float, metavar="P", help="mask threshold: minimum probability of a pixel in the mask"
    )
    group.add_argument(
        "--area",
        type=float,
        metavar="A",
        help="minimum area: minimum number of pixels (at 1024x1024) at or above the image threshold",
    )
    group.add_argument(
        "--score",
        type=float,
        metavar="S",
        help="image threshold: minimum probability of A pixels of a positive image",
    )
    group.add_argument(
        "--existence",
        type=float,
        metavar="E",
        help="existence threshold: minimum existence probability of a positive image, for a network with "
        "the existence head (without the file 0.5)",
    )


def given_thresholds(arguments: argparse.Namespace) -> dict[str, float | None]:
    """Return the thresholds that were given, by name; None where one was left out."""
    return {name: getattr(arguments, name) for name in ("pixel", "area", "score", "existence")}


PLOTS = (".png", ".svg", ".pdf")


def check_plot(option: str, path: Path) -> None:
    """Raise if a plot cannot be written: another ending than `PLOTS`, or no matplotlib.

    Raises:
        UserError: The message has the option and the path.
    """
    if path.suffix.lower() not in PLOTS:
        raise UserError(f"{option} {path}: the name must end in one of {', '.join(PLOTS)}")
    require(["matplotlib"], option)


def check_at_least_one(arguments: argparse.Namespace, *names: str) -> None:
    """Raise if an option that was given is below 1.

    Args:
        arguments: The command line.
        names: The attributes: "batch_size" for --batch-size.

    Raises:
        UserError: The message has the option and the number.
    """
    for name in names:
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1. Received: {number}")
