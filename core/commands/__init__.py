"""The command lines of `pneumoseg`, `run.py` and `preprocess.py`. Each subcommand is a module here.

`main` runs a command line. A subcommand that is more than one file is a folder (`predict/`, `train/`, …);
`shared/` has the options, outputs and terminal code that several of them use. The work itself is in
`core.tasks` and `data`.

- A subcommand has `HELP` (one line), `add_arguments(parser)` and `run(arguments)`, which returns a `Status`
  (training may also return the status of a signal). Its top imports only the standard library and light
  modules, so `--help` is fast.
- `-f`, `-v`, `-q` and `--no-progress` may stand before or after the subcommand's name. Without a name the
  first subcommand runs (`core.commands.shared.overview`).
- User errors and missing packages end as one message on standard error. The exit statuses are in
  `core.commands.shared.statuses`.
- SIGTERM and SIGHUP end a command as Ctrl-C does. Training handles SIGTERM itself.
- Output that cannot be shown (a terminal's encoding, a closed pipe, a full disk) does not stop the work. If
  standard output is incomplete at the end, that is an error, unless its reader has closed it.
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
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType, ModuleType

from core.base.errors import UserError
from core.base.programs import started_as
from core.base.standard_streams import protected_streams, visible
from core.commands.shared.options import add_common_options
from core.commands.shared.overview import CommandLine, named, overview, subcommand
from core.commands.shared.parser import Parser
from core.commands.shared.statuses import Status, of_signal


def main(program: str, description: str, names: Sequence[str], argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        program: The name shown in usage lines ("run.py").
        description: The purpose of the program in one or two sentences.
        names: The subcommands, each a module of this package; the first is the default.
        argv: The words after the program's name; `sys.argv[1:]` when None.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        from core.commands.shared.completion import complete

        complete(names, functools.partial(_parser, program), functools.partial(named, names))
    words = list(sys.argv[1:] if argv is None else argv)
    with protected_streams() as streams, started_as(program):
        try:
            with _ended_by_signals():
                status = int(_run(program, description, names, words))
        except SystemExit as end:  # from argparse, which has printed the help or the error
            if isinstance(end.code, str):
                raise
            status = int(end.code or 0)
        except UserError as error:
            _show_error(error, words)
            status = Status.ERROR
        except ModuleNotFoundError as error:
            from core.base.packages import explain_missing

            if (missing := explain_missing(error)) is None:
                raise
            _show_error(missing, words)
            status = Status.ERROR
        except _EndedBySignalError as end:
            print(f"ended by {end.signal.name}", file=sys.stderr)
            status = of_signal(end.signal)
        except OSError as error:
            if error.filename is None:
                raise
            # The operating system refused a path: it is too long, or access is denied.
            from core.files.system_errors import as_user_error

            _show_error(as_user_error(error, str(error.filename), "use"), words)
            status = Status.ERROR
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            status = Status.INTERRUPTED
        if (reason := streams.write_failure()) is not None:
            from core.files.system_errors import as_user_error

            print(f"error: {as_user_error(reason, 'standard output', 'write')}", file=sys.stderr)
            status = Status.ERROR if status in (Status.DONE, Status.FAULTS) else status
        return int(status)


class _EndedBySignalError(KeyboardInterrupt):
    """A signal ended the command. Code that handles Ctrl-C handles this too."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, as Python does with Ctrl-C, unless they are ignored (nohup).

    A second signal is ignored until the process ends. `timeout`, for example, sends two at once, and the
    second must not interrupt the clean-up that the first one started.
    """
    original = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))  # Windows has no SIGHUP
        original = {
            number: signal.getsignal(number)
            for number in numbers
            if number is not None and signal.getsignal(number) == signal.SIG_DFL
        }
    received = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal received
        del frame
        received = True
        for each in original:
            signal.signal(each, signal.SIG_IGN)
        raise _EndedBySignalError(number)

    for number in original:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in original.items():
            if not received:
                signal.signal(number, handler)


def _run(program: str, description: str, names: Sequence[str], words: list[str]) -> int:
    if "--version" in words:
        _print_versions(verbose=_is_verbose(words))
        return Status.DONE
    described = _described(program, description, names)
    name, words = subcommand(described, words)
    if name is None:
        print(overview(described), end="")
        return Status.DONE
    arguments = _parser(program, name).parse_args(words)
    from core.base.system import limit_threads_to_quota

    limit_threads_to_quota()  # before NumPy is imported, which starts its threads then
    from core.commands.shared import frameworks, terminal

    frameworks.settle(arguments)
    began = time.perf_counter()
    with terminal.showing(
        quiet=arguments.quiet, verbose=arguments.verbose, progress=not arguments.no_progress
    ):
        if arguments.verbose:
            _print_line_of_versions()
        status: int = _module(name).run(arguments)
    if arguments.verbose:
        print(f"{name}: {time.perf_counter() - began:.1f} s, exit status {status:d}", file=sys.stderr)
    return status


def _described(program: str, description: str, names: Sequence[str]) -> CommandLine:
    return CommandLine(
        program, description, names, functools.partial(_parser, program), lambda name: str(_module(name).HELP)
    )


def _parser(program: str, name: str) -> Parser:
    module = _module(name)
    parser = Parser(
        prog=f"{program} {name}", description=module.HELP, allow_abbrev=False, formatter_class=_Formatter
    )
    module.add_arguments(parser)
    add_common_options(parser)
    return parser


def _is_verbose(words: Sequence[str]) -> bool:
    """Return whether -v is among the words, even if the command line cannot be parsed."""
    return any(word == "--verbose" or re.fullmatch("-v+(f.*)?", word) for word in words)


def _print_versions(*, verbose: bool) -> None:
    from core.commands.shared.versions import all_versions, tool_version

    print(tool_version())
    for title, version in all_versions().items() if verbose else ():
        print(f"{title} {version}")


def _print_line_of_versions() -> None:
    from core.commands.shared.versions import all_versions, tool_version

    listed = [tool_version(), *(f"{title} {version}" for title, version in all_versions().items())]
    print(", ".join(listed), file=sys.stderr)


def _show_error(error: UserError, words: Sequence[str]) -> None:
    """Print the error's message; with -v the traceback comes first."""
    if _is_verbose(words):
        traceback.print_exception(error)
    print(f"error: {_message(error)}", file=sys.stderr)


def _message(error: UserError) -> str:
    """Return message and hint. Line breaks inside file names are escaped; the lines of a list are kept."""
    message = "\n  ".join(map(visible, error.message.split("\n  ")))
    return message if error.hint is None else "\n".join([message, *map(visible, error.hint.split("\n"))])


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of an option only if there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, [], argparse.SUPPRESS) or action.default is False:
            return action.help
        return super()._get_help_string(action)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
