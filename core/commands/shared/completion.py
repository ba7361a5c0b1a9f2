"""Completion of command lines in bash, zsh and fish, by argcomplete (docs/completion.md).

`complete` prints the completions that a shell asks for: a subcommand, an option, or the value of an option (a
backend, a configuration, a device, a format, a key of the configuration, a file or a folder). A shell starts
the program for each completion. So only the typed subcommand is imported, and no package except argcomplete,
unless a key or a format is completed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from core.base.precisions import PRECISIONS

_GROUP = "pneumoseg.backends"  # as in `core.backend.registry`, which is not imported since it needs NumPy
_DEVICES = ("auto", "cpu", "gpu", "gpu:0", "cuda", "cuda:0")
_FOLDERS, _FILES = re.compile("DIR"), re.compile("FILE|PATH")


def complete(
    names: Sequence[str],
    parser_of: Callable[[str], argparse.ArgumentParser],
    subcommand: Callable[[list[str]], tuple[str | None, list[str]]],
) -> NoReturn:
    """Write the completions where the shell expects them, and end the process.

    Args:
        names: The subcommands.
        parser_of: Returns the parser of a subcommand.
        subcommand: Splits the words after the program into the subcommand's name and the others; the name is
            None where there is none.
    """
    try:
        import argcomplete
        from argcomplete.lexers import split_line
    except ImportError:
        sys.exit(1)
    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    before = split_line(line, point)[3][int(os.environ["_ARGCOMPLETE"]) :]
    name, _ = subcommand(before)
    parser = parser_of(name or names[0])
    parser.error = _stop_parsing  # type: ignore[method-assign] # builds no message: nobody would see it
    for action in parser._actions:
        _attach(action)
    if subcommand([*before, names[-1]])[0] == names[-1] and names[-1] not in before:
        parser.add_argument("command", choices=names, nargs="?")  # a name may stand here
    elif name in before:  # the subcommand's parser does not know its own name
        parser.add_argument("command", choices=[name]).completer = _nothing  # type: ignore[attr-defined]
        parser._actions.insert(0, parser._actions.pop())
    argcomplete.autocomplete(parser, always_complete_options="long" if name in before else False)
    sys.exit(1)  # not reached: argcomplete ends the process


def _stop_parsing(message: str) -> NoReturn:
    """Stop parsing an incomplete command line; argcomplete catches the error and continues."""
    raise ValueError(message)


def _attach(action: argparse.Action) -> None:
    """Set the completer of an option's values. Options with choices need none."""
    by_name: dict[str, Callable[..., Iterable[str]]] = {
        "framework": _backends,
        "device": _from(_DEVICES),
        "precision": _from(PRECISIONS),
        "to": _formats,
        "set": _keys,
    }
    if action.choices is None:
        action.completer = by_name.get(action.dest) or _paths(action)  # type: ignore[attr-defined]


def _paths(action: argparse.Action) -> Callable[..., Iterable[str]]:
    """Return the completer of an option that is a path, by its metavar in the help."""
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    shown = str(action.metavar or "")
    if action.dest == "config" or (action.dest, shown) == ("name", "NAME"):
        return _configurations
    if _FOLDERS.search(shown):
        folders: Callable[..., Iterable[str]] = DirectoriesCompleter()
        return folders
    if _FILES.search(shown) or (not action.option_strings and action.type is not None):
        files: Callable[..., Iterable[str]] = FilesCompleter()
        return files
    return _nothing


def _from(values: Sequence[str]) -> Callable[..., Iterable[str]]:
    return lambda **_: values


def _nothing(**_: Any) -> Iterable[str]:
    """Propose nothing, for example for a number."""
    return ()


def _backends(**_: Any) -> Iterable[str]:
    from importlib.metadata import entry_points

    return sorted({entry.name for entry in entry_points(group=_GROUP)})


def _configurations(prefix: str, **_: Any) -> Iterable[str]:
    """Return the toolkit's configurations and YAML files."""
    from argcomplete.completers import FilesCompleter

    from core.experiment.shipped_configurations import shipped_configurations

    return [*shipped_configurations(), *FilesCompleter(("yaml", "yml"))(prefix)]


def _formats(**_: Any) -> Iterable[str]:
    from core.backend.registry import export_formats

    return export_formats()


def _keys(**_: Any) -> Iterable[str]:
    """Return the keys of a configuration that hold a value."""
    from core.experiment.configuration import known_keys
    from core.experiment.configuration_keys import key_path

    keys = known_keys()
    sections = {key[:length] for key in keys for length in range(1, len(key))}
    return [
        f"{key_path('[N]' if part is None else part for part in key).replace('[N]', '.0')}="
        for key in keys
        if key not in sections
    ]
