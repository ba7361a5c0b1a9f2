"""The command lines of `run.py` and `preprocess.py`: one file a subcommand, joined here.

Promises: a subcommand is a module with `HELP` (one line), `add_arguments(parser)` and
`run(arguments) -> int | None`. It imports at its top nothing but the standard library, so `--help`
answers at once. `-f` may stand before or after the subcommand's name; without a name the first
subcommand of the list runs. Errors of the user end as one message on standard error and exit status 1
(2 for a wrong command line, 130 for Ctrl-C).
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from types import ModuleType

from core.errors import UserError


def main(program: str, description: str, names: Sequence[str], argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        program: The name shown in usage lines ("run.py").
        description: What the program is for, one or two sentences.
        names: The subcommands, each a module of this package; the first is the default.
        argv: The words after the program's name; `sys.argv[1:]` when None.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name, words = _subcommand(names, words)
    if name is None:
        _print_overview(program, description, names)
        return 0
    module = _module(name)
    parser = argparse.ArgumentParser(
        prog=f"{program} {name}", description=module.HELP, allow_abbrev=False, formatter_class=_Formatter
    )
    module.add_arguments(parser)
    arguments = parser.parse_args(words)
    try:
        return module.run(arguments) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == argparse.SUPPRESS:
            return action.help
        return super()._get_help_string(action)


def _subcommand(names: Sequence[str], words: list[str]) -> tuple[str | None, list[str]]:
    """Split the subcommand's name from the words; None asks for the overview (`--help` alone)."""
    head: list[str] = []
    rest = list(words)
    while rest and (rest[0].startswith("--framework") or re.match("-f(?!-)", rest[0])):
        takes_value = rest[0] in ("-f", "--framework")
        head, rest = head + rest[: 1 + takes_value], rest[1 + takes_value :]
    if rest and rest[0] in names:
        return rest[0], head + rest[1:]
    if not head and rest and rest[0] in ("-h", "--help"):
        return None, []
    return names[0], words


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _print_overview(program: str, description: str, names: Sequence[str]) -> None:
    default = _module(names[0])
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [{'|'.join(names)}] [options]",
        description=description,
        epilog="commands:\n"
        + "".join(f"  {name:<12} {_module(name).HELP}\n" for name in names)
        + f"\nWithout a command, '{names[0]}' runs; its options are the ones above. "
        + f"'{program} COMMAND --help' shows a command's own.",
        formatter_class=_Overview,
    )
    default.add_arguments(parser)
    parser.print_help()


class _Overview(_Formatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the list of commands."""
