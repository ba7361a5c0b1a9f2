#!/usr/bin/env python
# PYTHON_ARGCOMPLETE_OK
"""Turn DICOM radiographs and their annotations into one HDF5 file. See `python preprocess.py --help`."""

from __future__ import annotations

import sys

from core.base.programs import PREPROCESS
from core.commands import main as run_command

COMMANDS = PREPROCESS.commands


def main() -> int:
    """The command line; returns the exit status."""
    return run_command(PREPROCESS.name, PREPROCESS.description, PREPROCESS.commands)


if __name__ == "__main__":
    sys.exit(main())
