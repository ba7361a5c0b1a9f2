"""The program `pneumoseg`, also `python -m pneumoseg`: all commands of run.py and preprocess.py."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


def main(program: str | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        program: The program's name in usage lines and messages; None is that of the installed command.
    """
    from pneumoseg import check_packages

    try:
        check_packages()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from core.base.programs import INSTALLED
    from core.commands import main as run_command

    return run_command(program or INSTALLED.name, INSTALLED.description, INSTALLED.commands)


def _leave_out_working_folder() -> None:
    """Remove the working folder from the search path, where `python -m` puts it first.

    Otherwise a user's file `core.py` would hide the toolkit's package.
    """
    with contextlib.suppress(OSError):  # the working folder was deleted
        here, first = Path.cwd().resolve(), Path(sys.path[0]).resolve()
        if first == here != Path(__file__).resolve().parent.parent:
            del sys.path[0]


if __name__ == "__main__":
    _leave_out_working_folder()
    sys.exit(main("python -m pneumoseg"))
