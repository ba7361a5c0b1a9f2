"""The command lines of `pneumoseg`, `run.py` and `preprocess.py`: one file a subcommand, joined here.

Promises: a subcommand is a module with `HELP` (one line), `add_arguments(parser)` and `run(arguments) ->
int | None`. It imports at its top nothing but the standard library, so `--help` answers at once. `-f` may
stand before or after the subcommand's name; without a name the first subcommand of the list runs. Errors of
the user, and packages that are not installed, end as one message on standard error and exit status 1
(2 for a wrong command line, 130 for Ctrl-C, 128 and the signal's number for SIGTERM and SIGHUP, which end a
command as orderly; training has its own handling of the first). What cannot be shown, because of a
terminal's encoding, a reader that has gone or a full disk, ends no work; what is missing from standard
output at the end is such an error, unless nobody reads it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, ModuleType

from core.commands.parser import Parser
from core.errors import UserError
from core.programs import started_as
from core.standard_streams import lasting_streams, visible


def main(program: str, description: str, names: Sequence[str], argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        program: The name shown in usage lines ("run.py").
        description: What the program is for, one or two sentences.
        names: The subcommands, each a module of this package; the first is the default.
        argv: The words after the program's name; `sys.argv[1:]` when None.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        from core.commands.completion import complete

        complete(names, functools.partial(_parser, program), functools.partial(_subcommand, names))
    with lasting_streams() as streams, started_as(program):
        try:
            with _ended_by_signals():
                status = _run(program, description, names, list(sys.argv[1:] if argv is None else argv))
        except SystemExit as end:  # of argparse, which has shown the help or what is wrong
            if isinstance(end.code, str):
                raise
            status = end.code or 0
        except UserError as error:
            print(f"error: {_told(error)}", file=sys.stderr)
            status = 1
        except ModuleNotFoundError as error:
            from core.packages import explain_missing

            if (missing := explain_missing(error)) is None:
                raise
            print(f"error: {_told(missing)}", file=sys.stderr)
            status = 1
        except _EndedBySignalError as end:
            print(f"ended by {end.signal.name}", file=sys.stderr)
            status = 128 + end.signal
        except OSError as error:
            if error.filename is None:
                raise
            # The system refused a path: it is too long, or not ours to look at.
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


class _EndedBySignalError(KeyboardInterrupt):
    """A signal asks for an end; like Ctrl-C to whatever is under way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, as Python does with Ctrl-C, unless they are ignored (nohup).

    The second one is ignored, to the end of the process: `timeout`, for one, sends two at once, and what the
    first one has begun to clear up is to be cleared up.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))  # Windows has no SIGHUP
        before = {
            number: signal.getsignal(number)
            for number in numbers
            if number is not None and signal.getsignal(number) == signal.SIG_DFL
        }
    came = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal came
        del frame
        came = True
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise _EndedBySignalError(number)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if not came:
                signal.signal(number, handler)


def _run(program: str, description: str, names: Sequence[str], words: list[str]) -> int:
    name, words = _subcommand(names, words)
    if name is None:
        _print_overview(program, description, names)
        return 0
    module = _module(name)
    arguments = _parser(program, name).parse_args(words)
    from core.machine import respect_quota

    respect_quota()  # before NumPy is imported, which begins its threads then
    status: int | None = module.run(arguments)
    return status or 0


def _parser(program: str, name: str) -> Parser:
    module = _module(name)
    parser = Parser(
        prog=f"{program} {name}", description=module.HELP, allow_abbrev=False, formatter_class=_Formatter
    )
    module.add_arguments(parser)
    return parser


def _told(error: UserError) -> str:
    """The error's own lines (a list's are indented); a name in it that holds line breaks makes no others."""
    message = "\n  ".join(map(visible, error.message.split("\n  ")))
    return message if error.hint is None else "\n".join([message, *map(visible, error.hint.split("\n"))])


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
