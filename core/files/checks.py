"""Checks of outputs before any work: an output is free, can be written, and replaces no input.

`check_free` is the policy of all commands about outputs that exist. `check_inputs_stay` and `check_apart`
compare real paths, also if there are several names and links for the same file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from core.base.errors import UserError
from core.files.destinations import STANDARD_OUTPUT, OutputStream, destination
from core.files.lock_files import is_lock
from core.files.system_errors import as_user_error, explain_os_errors


def entries(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted by name, without the folder's own lock file.

    Raises:
        OSError: The folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if path.name != ".lock" or not is_lock(path))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder. False if the system cannot say, for example if the path is too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_free(option: str, path: Path, *, overwrite: bool, replaced: str = "it") -> None:
    """Refuse an output that exists already, unless it is empty or a stream.

    Args:
        option: The option that names it on the command line.
        path: The output.
        overwrite: Whether it may be replaced.
        replaced: What --overwrite replaces, for the hint.

    Raises:
        UserError: It exists and must not be replaced.
    """
    if overwrite or isinstance(destination(path), OutputStream) or not path.exists():
        return
    with explain_os_errors(path, "read"):
        state = "is not empty" if path.is_dir() else "exists already"
        holds = bool(entries(path)) if path.is_dir() else path.stat().st_size > 0
    if holds:
        raise UserError(
            f"{option} {path} {state}.", f"Add --overwrite to replace {replaced}, or choose another place."
        )


def check_place(path: Path) -> None:
    """Refuse, before long work, a file that could not be written at its end.

    Raises:
        UserError: The path is a folder, or its parent folder cannot be written.
    """
    target = destination(path)
    if isinstance(target, OutputStream):
        return
    if target.is_dir():
        raise UserError(f"cannot write {path}: it is a folder", "Name a file.")
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir():
        raise UserError(f"cannot write {path}: {parent} is no folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise as_user_error(OSError(errno.EACCES, ""), path, "write")


def _holds_nothing(_path: Path) -> bool:
    return False


@dataclass(frozen=True)
class Input:
    """An input, which an output must not replace.

    Args:
        name: Its name in messages.
        path: A file or a folder.
        holds: Whether a file in the folder belongs to the input. The argument is the file's real path.
    """

    name: str
    path: Path
    holds: Callable[[Path], bool] = _holds_nothing


def check_inputs_stay(option: str, output: Path, inputs: Iterable[Input]) -> None:
    """Refuse an output that is an input, would contain one, or would replace a file of one.

    Raises:
        UserError: The output is refused. The text has the option that names the output, and the input.
    """
    for one in inputs:
        check_apart(option, output, one.name, one.path, ("is", "would contain"))
        place = place_of(output)
        if place is None or not place.is_file() or place_of(one.path) not in place.parents:
            continue
        if one.holds(place):
            raise UserError(
                f"{option} {output} would replace a file of {one.name} {one.path}.", "Choose another place."
            )


def check_apart(
    option: str,
    output: Path,
    name: str,
    other: Path,
    forbidden: Collection[str] = ("is", "would contain", "would lie in"),
) -> None:
    """Refuse an output with one of the forbidden relations to another path.

    Raises:
        UserError: The output is refused. The text has its option and the other path, called `name`.
    """
    ours, theirs = place_of(output), place_of(other)
    if ours is None or theirs is None:
        return
    relation = (
        "is"
        if ours == theirs
        else "would contain"
        if ours in theirs.parents
        else "would lie in"
        if theirs in ours.parents
        else ""
    )
    if relation in forbidden:
        what = f"{option} {output} {relation} {name}"
        raise UserError(f"{what}{'' if relation == 'is' else f' {other}'}.", "Choose another place.")


def place_of(path: Path) -> Path | None:
    """Return the real path of a path, which is the same for all its names.

    The result is None for a character device, and `STANDARD_OUTPUT` for standard output.
    """
    try:
        found = destination(path)
    except UserError:  # an input that cannot be written; reading it may raise later
        return Path(os.path.realpath(path))
    if isinstance(found, Path):
        return found
    if found.is_standard_output:
        return STANDARD_OUTPUT
    return None if path.is_char_device() else Path(os.path.realpath(path))
