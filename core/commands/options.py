"""Options that several commands share, so that they are called and explained alike."""

from __future__ import annotations

import argparse


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """The file to work on: --data."""
    parser.add_argument("--data", default="pneumothorax.h5", metavar="FILE", help="made by preprocess.py")


def add_prediction_options(parser: argparse.ArgumentParser, batch_size: int = 16) -> None:
    """How a model predicts: --tta, --batch-size, --device."""
    parser.add_argument(
        "--tta",
        action="store_true",
        help="predict mirror images too and take the mean (test-time augmentation)",
    )
    parser.add_argument("--batch-size", type=int, default=batch_size, metavar="N", help="images at a time")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|gpu|gpu:N", help="where to compute")


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
