#!/usr/bin/env python
# PYTHON_ARGCOMPLETE_OK
"""Convert DICOM radiographs and their annotations to one HDF5 file. See `python preprocess.py --help`."""

from __future__ import annotations

import sys

from core.base.programs import PREPROCESS
from core.commands import main as run_command

COMMANDS = PREPROCESS.commands


def main() -> int:
    """Run the command line and return the exit status."""
    return run_command(PREPROCESS.name, PREPROCESS.description, PREPROCESS.commands)


if __name__ == "__main__":
    sys.exit(main())
