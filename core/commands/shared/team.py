"""Run a command as one worker, as several on this machine, or as one of those that MPI has started.

`run_as_team` is for workers that compute the same together, `run_over_machines` for work that consists of
many independent files.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.base.errors import UserError
from core.base.system import available_cores
from core.commands.shared.options import check_at_least_one
from core.commands.shared.statuses import Status
from core.distribution.exchange import ALONE, Exchange
from core.distribution.launch import connect, has_started_several, is_started_by_mpi, run_workers

if TYPE_CHECKING:
    from core.distribution.machines import Machines
    from core.distribution.mpi import MPIExchange


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
    _check_timeout(arguments)
    if not is_started_by_mpi():
        if (arguments.workers or 1) > 1:
            return run_workers(arguments.workers)
        if arguments.threads is None:
            return work(ALONE)
    exchange = connect(arguments.worker_timeout, arguments.threads)
    workers = len(exchange.hosts)
    if exchange.worker == 0:
        with exchange:
            if arguments.workers not in (None, workers):
                raise UserError(f"--workers is {arguments.workers}, but mpiexec has started {workers}")
            return work(exchange)
    _follow(exchange, follow)
    return Status.DONE


def run_over_machines(arguments: argparse.Namespace, work: Callable[[Machines | None], Status]) -> Status:
    """Run a command with the options of `core.commands.shared.options.add_machines_options`.

    Args:
        arguments: The command line.
        work: The command, as worker 0 runs it, with the machines of all workers; None if there is one worker.

    Raises:
        UserError: A bad option, or what several workers need is not installed.
    """
    check_at_least_one(arguments, "workers")
    _check_timeout(arguments)
    if not has_started_several():
        return work(None)
    exchange = connect(arguments.worker_timeout, survive=True)
    from core.distribution.machines import Machines, serve

    own = arguments.workers or available_cores()
    if exchange.worker == 0:
        with exchange, Machines(exchange, exchange.collect(own)) as machines:
            return work(machines)

    def follow(exchange: MPIExchange) -> None:
        exchange.collect(own)
        serve(exchange, own)

    _follow(exchange, follow)
    return Status.DONE


def _check_timeout(arguments: argparse.Namespace) -> None:
    if arguments.worker_timeout <= 0:
        raise UserError(f"--worker-timeout must be above 0. Received: {arguments.worker_timeout:g}")


def _follow(exchange: MPIExchange, follow: Callable[[MPIExchange], None]) -> None:
    # Worker 0 decides when the work is interrupted, and the others follow it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with exchange:
        follow(exchange)
