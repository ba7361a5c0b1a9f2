"""Run each framework in a process of its own.

The framework cannot disturb this process or another framework (OpenMP, protobuf, memory pools), and a crash
in its process becomes a `UserError` here. This process imports no framework. Ctrl-C, which a terminal sends
to both processes, ends the framework's process without a message. That process never outlives this one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from core.backend.contract import Implementation
from core.backend.devices import OnDevice, choose_device
from core.backend.registry import load_backend, require_backend
from core.base.errors import UserError
from core.processes.workers import WorkerPool, set_up_worker, start_resource_tracker

P = ParamSpec("P")
R = TypeVar("R")


class BackendProcess:
    """A backend's process, which runs until `close`.

    Args:
        name: The backend's registered name.
        timeout_s: The longest time to wait for one call.
        device: Where all its models compute, as for `core.backend.devices.choose_device`; by default where
            the functions say.

    Raises:
        UserError: There is no such backend, or its framework is not installed.
    """

    def __init__(self, name: str, timeout_s: float = 600.0, device: str | None = None) -> None:
        require_backend(name)
        self.name, self._timeout_s, self._device = name, timeout_s, device
        context = multiprocessing.get_context("spawn")
        self._pool = WorkerPool(1, context, _prepare)

    def call(
        self, function: Callable[Concatenate[Implementation, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call `function(implementation, ...)` in the process; return its result or raise its exception."""
        return self.wait(self.start(function, *args, **kwargs))

    def start(
        self, function: Callable[Concatenate[Implementation, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Start a call without waiting for it; calls of one process run one after another."""
        with _interrupts_blocked():  # the first call starts the process, which inherits the blocked signal
            return self._pool.submit(_call, self.name, self._device, function, args, kwargs)

    def wait(self, future: Future[R]) -> R:
        """Wait for a call that `start` began; return its result or raise its exception."""
        try:
            return future.result(self._timeout_s)
        except BrokenProcessPool as error:
            raise UserError(f"backend {self.name!r}: its process ended abruptly") from error
        except FutureTimeoutError as error:
            raise UserError(f"backend {self.name!r} did not answer within {self._timeout_s:g} s") from error

    def close(self) -> None:
        """Kill the process; a framework's own shutdown is slow and may never finish."""
        self._pool.kill()

    def __enter__(self) -> BackendProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _call(
    name: str, device: str | None, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> R:
    backend, implementation = load_backend(name)
    if device is not None:
        chosen = choose_device(device, implementation.list_devices(), backend.title)
        implementation = cast(Implementation, OnDevice(implementation, chosen))
    return function(implementation, *args, **kwargs)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Delay Ctrl-C in this thread, and in processes started meanwhile until they unblock it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    start_resource_tracker()  # it unblocks SIGINT when it has started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare() -> None:
    """Make Ctrl-C end this process at once; Python's own handler would print a traceback."""
    set_up_worker()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
