#!/usr/bin/env python
# PYTHON_ARGCOMPLETE_OK
"""Train a network on any backend: `python run.py -f tf`. See `python run.py --help`."""

from __future__ import annotations

import sys

from core.commands import main as run_command

COMMANDS = (
    "train",
    "predict",
    "evaluate",
    "tune",
    "export",
    "score",
    "check",
    "config",
    "backends",
    "parity",
    "conformance",
)


def main() -> int:
    """The command line; returns the exit status."""
    return run_command(
        "run.py",
        "Pneumothorax segmentation with one network specification on any framework.",
        COMMANDS,
    )


if __name__ == "__main__":
    sys.exit(main())
