"""The command `pneumoseg`, and `python -m pneumoseg`: every command of run.py and of preprocess.py."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


def main(program: str | None = None) -> int:
    """The command line; returns the exit status.

    Args:
        program: How it was started, for usage lines and messages; None is the installed command.
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
    """Take from the search path the working folder, in which `python -m` looks for modules before all else.

    A file core.py of the user's would be taken for the toolkit's.
    """
    with contextlib.suppress(OSError):  # it was removed
        here, first = Path.cwd().resolve(), Path(sys.path[0]).resolve()
        if first == here != Path(__file__).resolve().parent.parent:
            del sys.path[0]


if __name__ == "__main__":
    _leave_out_working_folder()
    sys.exit(main("python -m pneumoseg"))
