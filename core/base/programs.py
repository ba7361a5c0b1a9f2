"""The programs that start the toolkit, their commands, and command lines for messages.

This is the only list of the commands. A message that tells the user to run a command shows it as the user can
type it: `python run.py predict` if run.py was started, otherwise `pneumoseg predict`, also in Python programs
that import `pneumoseg`. Processes that a program starts use the same form. The command that installs
something depends on how the toolkit was installed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HOME = Path(__file__).resolve().parents[2]
_VARIABLE = "PNEUMOSEG_PROGRAM"  # in the environment, which processes inherit: how the program was started


@dataclass(frozen=True)
class Program:
    """A program with commands.

    Args:
        name: Its name in usage lines.
        description: Its purpose, in one or two sentences.
        commands: Names of modules in `core.commands`. The first is the default.
    """

    name: str
    description: str
    commands: tuple[str, ...]


RUN = Program(
    "run.py",
    "Pneumothorax segmentation with one network specification on any framework.",
    (
        "train",
        "predict",
        "evaluate",
        "tune",
        "export",
        "weights",
        "score",
        "check",
        "config",
        "backends",
        "parity",
        "conformance",
    ),
)
PREPROCESS = Program(
    "preprocess.py",
    "DICOM radiographs and run-length-encoded masks in, one HDF5 file out.",
    ("preprocess", "phantoms", "verify"),
)
INSTALLED = Program(
    "pneumoseg",
    "Pneumothorax segmentation on chest radiographs: from DICOM files to a trained network and its answers. "
    "For research; not for clinical use.",
    RUN.commands + PREPROCESS.commands,
)


@contextlib.contextmanager
def started_as(name: str) -> Iterator[None]:
    """Set the program that is shown in messages, for the duration of the block.

    Args:
        name: "run.py", "preprocess.py", or the words before a command: "python -m pneumoseg".
    """
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before


def words_of(command: str) -> list[str]:
    """Return the words with which the user starts a command.

    Args:
        command: One of `INSTALLED.commands`.

    Raises:
        ValueError: There is no such command.
    """
    if command not in INSTALLED.commands:
        raise ValueError(f"no command {command!r}")
    started = os.environ.get(_VARIABLE) or INSTALLED.name
    if started not in (RUN.name, PREPROCESS.name):
        return [*shlex.split(started), command]
    script = RUN if command in RUN.commands else PREPROCESS
    return ["python", script.name, *([] if command == script.commands[0] else [command])]


def command_line(command: str, *options: str) -> str:
    """Return what the user types. `command_line("tune", "-f NAME")` may be "python run.py tune -f NAME".

    Args:
        command: As for `words_of`.
        options: What follows the command, as it is to be shown.
    """
    return " ".join([*words_of(command), *options])


def installation(extra: str = "") -> str:
    """Return the command that installs the toolkit with one of its extras, from a checkout or as a package.

    Args:
        extra: A name in setup.py; "" is none.
    """
    extras = f"[{extra}]" if extra else ""
    if (_HOME / "constraints.txt").is_file():
        here = f"'.{extras}'" if extra else "."
        return f"pip install -e {here} -c constraints.txt"
    return f"pip install 'pneumoseg{extras}'" if extra else "pip install pneumoseg"
