"""`python run.py backends`: list the backends, with versions, devices or how to install them."""

from __future__ import annotations

import argparse

from core.commands.shared.statuses import Status

HELP = "list the backends: installed or not, version, devices, how to install them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run(arguments: argparse.Namespace) -> Status:
    """Print the list."""
    import dataclasses
    import json

    from core.backend.availability import probe_all

    found = probe_all()
    if arguments.json:
        print(json.dumps([dataclasses.asdict(backend) for backend in found], indent=1))
        return Status.DONE

    from rich.table import Table

    from core.base.standard_streams import visible
    from core.commands.shared.terminal import console

    table = Table("-f", "framework", "version", "devices", "state")
    for backend in found:
        state = "ready" if backend.error is None else backend.error
        cells = backend.name, backend.title, backend.version or "-", ", ".join(backend.devices) or "-", state
        table.add_row(*map(visible, cells))
    shown = console()
    shown.result(table)
    for backend in found:
        if not backend.installed and backend.install:
            shown.print(f"install {backend.name}: {backend.install}", soft_wrap=True)
    return Status.DONE
