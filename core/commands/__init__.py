"""The command lines of `pneumoseg`, `run.py` and `preprocess.py`: one file a subcommand, joined here.

Promises: a subcommand is a module with `HELP` (one line), `add_arguments(parser)` and `run(arguments)`,
which gives a `Status` (training also that of a signal). It imports at its top nothing but the standard
library, so `--help` answers at once. `-f`, `-v`, `-q` and `--no-progress` may stand before or after the
subcommand's name; without a name the first subcommand of the list runs (`core.commands.shared.overview`).
Errors of the user, and packages that are not installed, end as one message on standard error;
`core.commands.shared.statuses` has the exit statuses. SIGTERM and SIGHUP end a command as orderly as Ctrl-C;
training has its own handling of the first. What cannot be shown, because of a terminal's encoding, a reader
that has gone or a full disk, ends no work; what is missing from standard output at the end is an error,
unless nobody reads it.
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
        description: What the program is for, one or two sentences.
        names: The subcommands, each a module of this package; the first is the default.
        argv: The words after the program's name; `sys.argv[1:]` when None.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        from core.commands.shared.completion import complete

        complete(names, functools.partial(_parser, program), functools.partial(named, names))
    words = list(sys.argv[1:] if argv is None else argv)
    with protected_streams() as streams, started_as(program):
        try:
            with _ended_by_signals():
                status = int(_run(program, description, names, words))
        except SystemExit as end:  # of argparse, which has shown the help or what is wrong
            if isinstance(end.code, str):
                raise
            status = int(end.code or 0)
        except UserError as error:
            _tell(error, words)
            status = Status.ERROR
        except ModuleNotFoundError as error:
            from core.base.packages import explain_missing

            if (missing := explain_missing(error)) is None:
                raise
            _tell(missing, words)
            status = Status.ERROR
        except _EndedBySignalError as end:
            print(f"ended by {end.signal.name}", file=sys.stderr)
            status = of_signal(end.signal)
        except OSError as error:
            if error.filename is None:
                raise
            # The system refused a path: it is too long, or not ours to look at.
            from core.files.system_errors import as_user_error

            _tell(as_user_error(error, str(error.filename), "use"), words)
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

    limit_threads_to_quota()  # before NumPy is imported, which begins its threads then
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
    """Whether -v is among the words of a command line that need not be parsable."""
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


def _tell(error: UserError, words: Sequence[str]) -> None:
    """The message; with -v what led to it before."""
    if _is_verbose(words):
        traceback.print_exception(error)
    print(f"error: {_told(error)}", file=sys.stderr)


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


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
