"""`python run.py conformance -f NAME`: run the conformance tests of the backend interface."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from core.base.precisions import PRECISIONS
from core.commands.shared.options import NAMED_BACKEND, add_device_option, add_overwrite_option
from core.commands.shared.statuses import Status
from core.files.destinations import output_file

if TYPE_CHECKING:
    from core.backend.contract import Implementation
    from core.commands.shared.terminal import Terminal
    from core.conformance import CheckOutcome

    Table = Mapping[str, Mapping[str, Mapping[str, str]]]

HELP = "test a backend against the contract and show what it supports"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "-f",
        "--framework",
        action="append",
        required=True,
        metavar="NAME",
        help=f"{NAMED_BACKEND}; may be repeated",
    )
    parser.add_argument(
        "--large",
        action="store_true",
        help="also test networks on images of up to 384x384; some take minutes",
    )
    parser.add_argument("--only", metavar="SUBJECT", help="run only the checks whose name contains this")
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write every outcome as JSON; - prints it"
    )
    parser.add_argument(
        "--markdown", type=output_file, metavar="FILE", help="write the table as Markdown; - prints it"
    )
    add_device_option(parser, "cpu")
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Run the checks. A failed check is a fault. An unsupported feature is not; the table shows it."""
    from core.commands.shared.outputs import claimed_reports
    from core.commands.shared.terminal import console

    reports = {"--json": arguments.json, "--markdown": arguments.markdown}
    with claimed_reports(reports, [], overwrite=arguments.overwrite):
        return _run(console(*reports.values()), arguments)


def _run(console: Terminal, arguments: argparse.Namespace) -> Status:
    import json

    from core.base.programs import command_line
    from core.conformance import capabilities
    from core.files.atomic import write_text

    names = list(dict.fromkeys(arguments.framework))
    outcomes = {name: _examine(console, name, arguments) for name in names}
    table = {name: capabilities(of_one) for name, of_one in outcomes.items()}
    _print(console, table)
    for name, of_one in outcomes.items():
        _print_failures(console, name, of_one)
    if arguments.json:
        rows = [
            {
                "backend": name,
                "subject": outcome.check.subject,
                "name": outcome.check.name,
                "precision": outcome.check.precision,
                "status": outcome.status,
                "detail": outcome.detail,
            }
            for name, of_one in outcomes.items()
            for outcome in of_one
        ]
        write_text(arguments.json, json.dumps(rows, indent=1) + "\n")
    if arguments.markdown:
        command = command_line("conformance", *(f"-f {name}" for name in names), "--markdown FILE")
        write_text(arguments.markdown, as_markdown(table, command))
    return Status.of(any(outcome.status == "failed" for of_one in outcomes.values() for outcome in of_one))


def _examine(console: Terminal, name: str, arguments: argparse.Namespace) -> list[CheckOutcome]:
    from core.backend.process import BackendProcess
    from core.base.errors import UserError
    from core.commands.shared.progress import bar_of
    from core.conformance import all_checks, examine

    only = arguments.only
    checks = [check for check in all_checks(large=arguments.large) if only is None or only in str(check)]
    if not checks:
        raise UserError(f"--only {only}: no check's name contains that")
    with BackendProcess(name, device=arguments.device) as backend, bar_of(console, transient=True) as bar:
        backend.call(_begun)
        return [examine(check, backend) for check in bar.track(checks, description=name)]


def _begun(implementation: Implementation) -> None:
    """Do nothing: if the backend does not see the device, this call raises the error before all checks."""
    del implementation


def _print(console: Terminal, table: Table) -> None:
    from rich.table import Table as RichTable

    shown = RichTable("", *table)
    for precision in PRECISIONS:
        rows = [(subject, cells[precision]) for subject, cells in _rows(table) if any(cells[precision])]
        if rows:
            shown.add_row(f"in {precision}", style="bold")
            for subject, cells in rows:
                shown.add_row(f"  {subject}", *cells)
            shown.add_section()
    console.result(shown)


def _rows(table: Table) -> list[tuple[str, Mapping[str, list[str]]]]:
    """Return each subject with the cells of all backends, by precision."""
    subjects = dict.fromkeys(subject for row in table.values() for subject in row)
    return [
        (subject, {p: [row.get(subject, {}).get(p, "") for row in table.values()] for p in PRECISIONS})
        for subject in subjects
    ]


def _print_failures(console: Terminal, name: str, outcomes: list[CheckOutcome]) -> None:
    """Show failures and refusals; checks with the same reason share a line."""
    for status, tell in (("failed", console.problem), ("refused", console.print)):
        by_reason: dict[str, list[str]] = {}
        for outcome in outcomes:
            if outcome.status == status:
                by_reason.setdefault(outcome.detail, []).append(str(outcome.check))
        for detail, checks in by_reason.items():
            more = f" and {len(checks) - 1} more" if len(checks) > 1 else ""
            tell(f"{name} {status}: {checks[0]}{more}: {detail}", soft_wrap=True)
    passed = sum(outcome.status == "passed" for outcome in outcomes)
    console.result(f"{name}: {passed} of {len(outcomes)} checks passed")


def as_markdown(table: Table, command: str) -> str:
    """Return a Markdown document with the table of capabilities; it names the `command` that writes it."""
    names = list(table)
    lines = [
        "# What each backend can do",
        "",
        f"Written by `{command}`.",
        f"Each cell sums up the checks of `core/conformance` on that subject, {' / '.join(PRECISIONS)}:",
        "`yes` where all pass, `no` where the backend refuses, `partly` where it refuses some, `-` where",
        "there is none.",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for subject, cells in _rows(table):
        by_backend = zip(*cells.values(), strict=True)
        shown = [" / ".join(cell or "-" for cell in of_one) for of_one in by_backend]
        lines.append(f"| {subject} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"
