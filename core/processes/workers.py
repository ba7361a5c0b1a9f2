"""Processes that work for this one, and how they end.

Promises: one that dies breaks its pool at whatever moment it does, and none can put off the end: neither one
that is still at work, nor one whose framework does not come to its own end. If this process is killed,
they end too.
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

from core.base.standard_streams import make_streams_last

P = ParamSpec("P")
R = TypeVar("R")

_LOOK_S = 5.0  # between two looks whether all are alive; only for what Python's own watch may miss


class Workers(ProcessPoolExecutor):
    """A `ProcessPoolExecutor` that may lose a worker while it starts another.

    Python's own (seen in 3.11) watches the workers that it knew when it last looked. If one dies while
    another is being started, it waits without end for the new one, which it never told to end; and if the
    new one dies before it is known, nobody notices.
    """

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """As the base class.

        Raises:
            BrokenProcessPool: A worker died.
        """
        try:
            return super().submit(function, *args, **kwargs)
        except OSError as error:  # one died, and the pipe for the one that was to be started is closed
            if self._all_alive():
                raise
            raise BrokenProcessPool(str(error)) from error

    def result(self, future: Future[R]) -> R:
        """What a future of this pool becomes.

        Raises:
            BrokenProcessPool: A worker died.
        """
        while not wait([future], _LOOK_S).done:
            if not self._all_alive():
                raise BrokenProcessPool("a worker ended")
        return future.result()

    def kill(self) -> None:
        """End all workers at once, whatever they do, and the pool with them."""
        for process in self._known():
            process.kill()
        for process in self._known():
            process.join()
        # One may have died in the middle of a result, whose end Python's thread waits for as long as the pipe
        # has a writer: this process has one too.
        if self._result_queue is not None:
            self._result_queue._writer.close()  # type: ignore[attr-defined]  # Python's own
        self.shutdown(wait=True, cancel_futures=True)

    def _all_alive(self) -> bool:
        return all(process.is_alive() for process in self._known())

    def _known(self) -> list[BaseProcess]:
        return list((self._processes or {}).values())  # None after `shutdown`


def start_tracker() -> None:
    """Start POSIX's process that clears up what processes share, so that SIGHUP to all does not end it.

    It has to be called before any other process is started. By itself it ignores SIGINT and SIGTERM alone,
    and without it the others complain in tracebacks. This thread's SIGINT and SIGTERM are not blocked
    afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # which it inherits, and keeps
    try:
        resource_tracker.ensure_running()
    finally:
        if signal.SIGHUP not in before:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def begin_work() -> None:
    """In a worker, before anything else: end with the parent, and let nothing that is printed end the work.

    By themselves workers would outlive a parent that is killed, and wait for work for ever, as they hold both
    ends of the pipe.
    """
    make_streams_last()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
