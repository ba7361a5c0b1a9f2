"""The programs that start the toolkit: their commands, and how a reader types one of them.

Promises: the names of all commands stand here and nowhere else. A message that tells somebody to run a
command names it as they can type it: `python run.py predict` to whoever has started run.py, `pneumoseg
predict` to everybody else, Python programs that import `pneumoseg` included. Processes that a program starts
speak as it does. A line that installs something fits the way in which the toolkit was installed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HOME = Path(__file__).resolve().parents[2]
_VARIABLE = "PNEUMOSEG_PROGRAM"  # of the environment, which processes inherit: how the program was started


@dataclass(frozen=True)
class Program:
    """A program with commands.

    Args:
        name: As usage lines show it.
        description: What it is for, one or two sentences.
        commands: Each a module of `core.commands`; the first is the default.
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
    """Say, for the time of the block, by which program everything was started.

    Args:
        name: "run.py", "preprocess.py", or the words that come before a command: "python -m pneumoseg".
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
    """The words with which the reader of a message starts a command.

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
    """What the reader types: `command_line("tune", "-f NAME")` is "python run.py tune -f NAME", say.

    Args:
        command: As for `words_of`.
        options: What comes after it, as it is to be shown.
    """
    return " ".join([*words_of(command), *options])


def installation(extra: str = "") -> str:
    """The line that installs the toolkit with what one of its extras needs.

    It is that of a checkout where this is one. Where the toolkit is installed as a package, pip completes it.

    Args:
        extra: As setup.py calls it; "" is none.
    """
    extras = f"[{extra}]" if extra else ""
    if (_HOME / "constraints.txt").is_file():
        here = f"'.{extras}'" if extra else "."
        return f"pip install -e {here} -c constraints.txt"
    return f"pip install 'pneumoseg{extras}'" if extra else "pip install pneumoseg"
