#!/usr/bin/env python
# PYTHON_ARGCOMPLETE_OK
"""Train a network on any backend: `python run.py -f tf`. See `python run.py --help`."""

from __future__ import annotations

import sys

from core.base.programs import RUN
from core.commands import main as run_command

COMMANDS = RUN.commands


def main() -> int:
    """Run the command line and return the exit status."""
    return run_command(RUN.name, RUN.description, RUN.commands)


if __name__ == "__main__":
    sys.exit(main())
