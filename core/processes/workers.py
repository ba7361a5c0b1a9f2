"""Worker processes, and how they end.

A worker that dies breaks its pool, whenever it dies. `WorkerPool.kill` ends all workers at once, also one
that is at work, or one whose framework hangs at exit. Workers end if their parent is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import ParamSpec, TypeVar

from core.base.standard_streams import protect_streams

P = ParamSpec("P")
R = TypeVar("R")

_POLL_S = 5.0  # between two checks that all workers are alive, for the deaths that Python's pool misses


class WorkerPool(ProcessPoolExecutor):
    """A `ProcessPoolExecutor` that notices a worker's death even while it starts another worker.

    Python's own pool (seen in 3.11) watches the workers that it knew when it last looked. If one dies while
    another is being started, the pool waits for ever for the new one, which it never told to end. If the new
    one dies before the pool knows it, nobody notices.
    """

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a call, as the base class does.

        Raises:
            BrokenProcessPool: A worker died.
        """
        try:
            return super().submit(function, *args, **kwargs)
        except OSError as error:  # a worker died, and the pipe for the one being started is closed
            if self.all_alive():
                raise
            raise BrokenProcessPool(str(error)) from error

    def result(self, future: Future[R]) -> R:
        """Wait for a future of this pool, and return its result.

        Raises:
            BrokenProcessPool: A worker died.
        """
        while not wait([future], _POLL_S).done:
            if not self.all_alive():
                raise BrokenProcessPool("a worker ended")
        return future.result()

    def all_alive(self) -> bool:
        """Return whether no worker has ended."""
        return all(process.is_alive() for process in self._started())

    def kill(self) -> None:
        """Kill all workers at once, whatever they do, and shut the pool down."""
        for process in self._started():
            process.kill()
        for process in self._started():
            process.join()
        # A worker may have died while it wrote a result. Python's thread waits for the rest as long as the
        # pipe has a writer, and this process holds one too.
        if self._result_queue is not None:
            self._result_queue._writer.close()  # type: ignore[attr-defined]  # Python's own
        self.shutdown(wait=True, cancel_futures=True)

    def _started(self) -> list[BaseProcess]:
        return list((self._processes or {}).values())  # None after `shutdown`


def start_resource_tracker() -> None:
    """Start Python's resource tracker so that SIGHUP does not end it (POSIX only).

    The tracker removes what processes share. By default it ignores SIGINT and SIGTERM only, and without it
    the other processes print tracebacks. Call this before any other process is started. This thread's SIGINT
    and SIGTERM are not blocked afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # the tracker inherits and keeps it
    try:
        resource_tracker.ensure_running()
    finally:
        if signal.SIGHUP not in before:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def set_up_worker() -> None:
    """Make this worker end with its parent, and make its printing never raise. Call it first in a worker.

    By default a worker outlives a parent that is killed. It would wait for work for ever, because it holds
    both ends of the pipe.
    """
    protect_streams()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
