"""Completion of command lines in bash, zsh and fish, by argcomplete (docs/completion.md).

Provides `complete`, which answers a shell that asks what may come next: a subcommand, an option, or the value
of an option: a backend, a configuration, a device, a format, a key of the configuration, a file or a folder.
A shell starts the program for each answer, so of all subcommands only the one that was typed is imported, and
no package beside argcomplete unless a key or a format is asked for.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

_GROUP = "pneumoseg.backends"  # that of `core.backend.registry`, which imports NumPy
_DEVICES = ("auto", "cpu", "gpu", "gpu:0", "cuda", "cuda:0")
_PRECISIONS = ("float32", "float64", "mixed_bfloat16")
_FOLDERS, _FILES = re.compile("DIR"), re.compile("FILE|PATH")


def complete(
    names: Sequence[str],
    parser_of: Callable[[str], argparse.ArgumentParser],
    subcommand: Callable[[list[str]], tuple[str | None, list[str]]],
) -> NoReturn:
    """Write what may come next where the shell wants it, and end the process.

    Args:
        names: The subcommands.
        parser_of: The parser of a subcommand.
        subcommand: Splits the subcommand's name from the words after the program; the first one where there
            is none.
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
    parser.error = _unseen  # type: ignore[method-assign] # its message would be made up in vain
    for action in parser._actions:
        _attach(action)
    if subcommand([*before, names[-1]])[0] == names[-1] and names[-1] not in before:
        parser.add_argument("command", choices=names, nargs="?")  # none was typed yet, and one may stand here
    elif name in before:  # which the subcommand's own parser does not know
        parser.add_argument("command", choices=[name]).completer = _nothing  # type: ignore[attr-defined]
        parser._actions.insert(0, parser._actions.pop())
    argcomplete.autocomplete(parser, always_complete_options="long" if name in before else False)
    sys.exit(1)  # not reached: argcomplete ends the process


def _unseen(message: str) -> NoReturn:
    """End the parsing of a command line that is not complete; argcomplete goes on from there."""
    raise ValueError(message)


def _attach(action: argparse.Action) -> None:
    """Give an option the completer of its values; those with choices have one."""
    by_name: dict[str, Callable[..., Iterable[str]]] = {
        "framework": _backends,
        "device": _from(_DEVICES),
        "precision": _from(_PRECISIONS),
        "to": _formats,
        "set": _keys,
    }
    if action.choices is None:
        action.completer = by_name.get(action.dest) or _paths(action)  # type: ignore[attr-defined]


def _paths(action: argparse.Action) -> Callable[..., Iterable[str]]:
    """What completes a value that is a path, by what the help calls it."""
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
    """A number, say: nothing can be proposed."""
    return ()


def _backends(**_: Any) -> Iterable[str]:
    from importlib.metadata import entry_points

    return sorted({entry.name for entry in entry_points(group=_GROUP)})


def _configurations(prefix: str, **_: Any) -> Iterable[str]:
    """The toolkit's own, and YAML files."""
    from argcomplete.completers import FilesCompleter

    from core.experiment.shipped_configurations import shipped_configurations

    return [*shipped_configurations(), *FilesCompleter(("yaml", "yml"))(prefix)]


def _formats(**_: Any) -> Iterable[str]:
    from core.backend.registry import export_formats

    return export_formats()


def _keys(**_: Any) -> Iterable[str]:
    """Keys of a configuration that hold a value."""
    from core.experiment.configuration import known_keys
    from core.experiment.configuration_keys import key_path

    keys = known_keys()
    sections = {key[:length] for key in keys for length in range(1, len(key))}
    return [
        f"{key_path('[N]' if part is None else part for part in key).replace('[N]', '.0')}="
        for key in keys
        if key not in sections
    ]
