"""Find the subcommand in a command line, and make the overview that `--help` shows.

`subcommand` splits the subcommand's name from the other words. For an unknown one it prints the nearest name
or the overview on standard error, and exits with status 2. `overview` returns the text of `--help`.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from core.base.standard_streams import visible
from core.commands.shared.statuses import MEANINGS, Status

_HELP = ("-h", "--help")
_SWITCHES = re.compile(r"-[vq]+|--(verbose|quiet|no-progress)")  # they may stand before a command's name
_FRAMEWORK = re.compile(r"-[vq]*f(?!-)(?P<value>.*)|--framework(?P<long_value>=.*)?", re.DOTALL)
_LEAST_LIKENESS = 0.5
_MOST_WIDTH = 110


@dataclass(frozen=True)
class CommandLine:
    """A command line with subcommands.

    Args:
        name: The program's name in usage lines.
        description: The purpose of the program.
        commands: The names of the subcommands; the first is the default.
        parser_of: Returns the parser of a subcommand.
        help_of: Returns the one-line help of a subcommand.
    """

    name: str
    description: str
    commands: Sequence[str]
    parser_of: Callable[[str], argparse.ArgumentParser]
    help_of: Callable[[str], str]

    @property
    def usage(self) -> str:
        """The first line of help and errors."""
        return f"usage: {self.name} [{'|'.join(self.commands)}] [options]\n"


def subcommand(program: CommandLine, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the subcommand and its words; the name is None if the overview is wanted.

    Raises:
        SystemExit: No subcommand was found; the reason was printed, and the status is 2.
    """
    name, others = named(program.commands, words)
    if name is not None:
        return name, others
    head, rest = _before_name(words)
    if rest and rest[0] in _HELP and not any(map(_FRAMEWORK.fullmatch, head)):
        return None, []
    if rest and rest[0] == "help":
        _refuse_help(program, rest[1:])
    if rest and not rest[0].startswith("-"):
        _refuse(program, program.usage, _unknown(program, rest[0]))
    default = program.commands[0]
    if not words and _needs_options(program.parser_of(default)):
        what = f"name a command, or -f/--framework NAME for '{default}'"
        _refuse(program, overview(program), what)
    return default, list(words)


def named(commands: Sequence[str], words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the subcommand, None if there is none, and the other words."""
    head, rest = _before_name(words)
    if rest and rest[0] in commands:
        return rest[0], [*head, *rest[1:]]
    return None, list(words)


def overview(program: CommandLine) -> str:
    """Return the text of `--help`: the commands with the names of their options, and the exit statuses."""
    width = min(shutil.get_terminal_size().columns - 2, _MOST_WIDTH)
    common = _parser_of_common()
    shared = {option for action in common._actions for option in action.option_strings}
    lines = [program.usage, program.description, "", "commands, and the options of each:"]
    for name in program.commands:
        lines.append(f"  {name:<13}{program.help_of(name)}")
        own = " ".join(
            _shown(action)
            for action in program.parser_of(name)._actions
            if not shared.intersection(action.option_strings)
        )
        indent = " " * 17
        wrap = textwrap.TextWrapper(
            width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
        lines.append(wrap.fill(own))
    lines += ["", f"'{program.name} COMMAND --help' explains a command's options."]
    lines += [f"Without a command, '{program.commands[0]}' runs.", "", "options of every command:"]
    formatter = argparse.HelpFormatter(program.name, width=width)
    formatter.add_arguments(common._actions)
    lines += [f"  {line}".rstrip() for line in formatter.format_help().splitlines()]
    lines += ["", "exit status:", *(f"  {status:<7}{meaning}" for status, meaning in MEANINGS.items())]
    return "\n".join(lines) + "\n"


def _before_name(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words into the options that may stand before a subcommand's name, and the rest."""
    head: list[str] = []
    rest = list(words)
    while rest:
        match = _FRAMEWORK.fullmatch(rest[0])
        if match is None and not _SWITCHES.fullmatch(rest[0]):
            break
        takes_next = match is not None and not (match["value"] or match["long_value"])
        head, rest = head + rest[: 1 + takes_next], rest[1 + takes_next :]
    return head, rest


def _shown(action: argparse.Action) -> str:
    """Return an option's names: joined by "/", or by a space for `--word --no-word`."""
    separator = " " if isinstance(action, argparse.BooleanOptionalAction) else "/"
    return separator.join(action.option_strings) or action.dest


def _needs_options(parser: argparse.ArgumentParser) -> bool:
    return any(action.required for action in parser._actions)


def _parser_of_common() -> argparse.ArgumentParser:
    from core.commands.shared.options import add_common_options

    parser = argparse.ArgumentParser(add_help=True)
    add_common_options(parser)
    return parser


def _unknown(program: CommandLine, word: str) -> str:
    close = difflib.get_close_matches(word.lower(), program.commands, n=1, cutoff=_LEAST_LIKENESS)
    if close:
        return f"unknown command {word!r}; did you mean {close[0]!r}?"
    return f"unknown command {word!r}; the commands are: {', '.join(program.commands)}"


def _refuse_help(program: CommandLine, words: Sequence[str]) -> NoReturn:
    """Answer `help`, as other programs have it: show the wanted help, and say that it is `--help` here."""
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None:
        _refuse(program, overview(program), f"'help' is no command; write: {program.name} --help")
    if name not in program.commands:
        _refuse(program, program.usage, _unknown(program, name))
    shown = program.parser_of(name).format_help()
    _refuse(program, shown, f"'help' is no command; write: {program.name} {name} --help")


def _refuse(program: CommandLine, shown: str, message: str) -> NoReturn:
    print(f"{shown}{program.name}: error: {visible(message)}", file=sys.stderr)
    raise SystemExit(Status.USAGE)
