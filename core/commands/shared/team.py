"""Run a command as one worker, as several on this machine, or as one of those that MPI has started."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable

from core.base.errors import UserError
from core.commands.shared.options import check_at_least_one
from core.commands.shared.statuses import Status
from core.distribution.exchange import ALONE, Exchange
from core.distribution.launch import connect, is_started_by_mpi, run_workers


def run_as_team(
    arguments: argparse.Namespace,
    work: Callable[[Exchange], int],
    follow: Callable[[Exchange], None],
) -> int:
    """Run a command with the options of `core.commands.shared.options.add_team_options`.

    Args:
        arguments: The command line.
        work: The command, as worker 0 runs it; returns its status.
        follow: What the other workers do.

    Raises:
        UserError: The options do not fit, or what they need is not installed.
    """
    check_at_least_one(arguments, "workers", "threads")
    if arguments.worker_timeout <= 0:
        raise UserError(f"--worker-timeout must be above 0. Received: {arguments.worker_timeout:g}")
    if not is_started_by_mpi():
        if (arguments.workers or 1) > 1:
            return run_workers(arguments.workers)
        if arguments.threads is None:
            return work(ALONE)
    exchange = connect(arguments.worker_timeout, arguments.threads)
    workers = len(exchange.hosts)
    if arguments.workers not in (None, workers) and exchange.worker == 0:
        raise UserError(f"--workers is {arguments.workers}, but mpiexec has started {workers}")
    if exchange.worker == 0:
        with exchange:
            return work(exchange)
    # Worker 0 decides when the work is interrupted, and the others follow it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with exchange:
        follow(exchange)
    return Status.DONE
