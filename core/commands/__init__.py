"""The command lines of `run.py` and `preprocess.py`: one file a subcommand, joined here.

Promises: a subcommand is a module with `HELP` (one line), `add_arguments(parser)` and
`run(arguments) -> int | None`. It imports at its top nothing but the standard library, so `--help`
answers at once. `-f` may stand before or after the subcommand's name; without a name the first
subcommand of the list runs. Errors of the user end as one message on standard error and exit status 1
(2 for a wrong command line, 130 for Ctrl-C). What cannot be shown, because of a terminal's encoding, a reader
that has gone or a full disk, ends no work; what is missing from standard output at the end is such an error,
unless nobody reads it.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from core.errors import UserError
from core.standard_streams import lasting_streams, visible


def main(program: str, description: str, names: Sequence[str], argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        program: The name shown in usage lines ("run.py").
        description: What the program is for, one or two sentences.
        names: The subcommands, each a module of this package; the first is the default.
        argv: The words after the program's name; `sys.argv[1:]` when None.
    """
    with lasting_streams() as streams:
        try:
            status = _run(program, description, names, list(sys.argv[1:] if argv is None else argv))
        except SystemExit as end:  # of argparse, which has shown the help or what is wrong
            if isinstance(end.code, str):
                raise
            status = end.code or 0
        except UserError as error:
            print(f"error: {_told(error)}", file=sys.stderr)
            status = 1
        except OSError as error:
            if (
                error.filename is None
            ):  # else the system refused a path: it is too long, or not ours to look at
                raise
            from core.files import explain_os_error

            print(f"error: {_told(explain_os_error(error, str(error.filename), 'use'))}", file=sys.stderr)
            status = 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            status = 130
        if (reason := streams.lost()) is not None:
            from core.files import explain_os_error

            print(f"error: {explain_os_error(reason, 'standard output', 'write')}", file=sys.stderr)
            status = status or 1
        return status


def _run(program: str, description: str, names: Sequence[str], words: list[str]) -> int:
    name, words = _subcommand(names, words)
    if name is None:
        _print_overview(program, description, names)
        return 0
    module = _module(name)
    parser = _Parser(
        prog=f"{program} {name}", description=module.HELP, allow_abbrev=False, formatter_class=_Formatter
    )
    module.add_arguments(parser)
    arguments = parser.parse_args(words)
    from core.machine import respect_quota

    respect_quota()  # before NumPy is imported, which begins its threads then
    status: int | None = module.run(arguments)
    return status or 0


def _told(error: UserError) -> str:
    """The error's own lines (a list's are indented); a name in it that holds line breaks makes no others."""
    message = "\n  ".join(map(visible, error.message.split("\n  ")))
    return message if error.hint is None else "\n".join([message, *map(visible, error.hint.split("\n"))])


class _Parser(argparse.ArgumentParser):
    """Shows words of a wrong command line so that they cannot steer the terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(message))


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
