"""Each framework in a process of its own.

Promises: what runs here disturbs neither this process nor another framework's (OpenMP, protobuf,
memory pools), and a crash there is an error here, not the end. This process imports no framework.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from core.contract import Implementation
from core.errors import UserError
from core.registry import load_backend, require_backend

P = ParamSpec("P")
R = TypeVar("R")


class Isolated:
    """A backend's process, which lives until `close`.

    Args:
        name: The backend's registered name.
        timeout_s: Longest wait for one call.

    Raises:
        UserError: There is no such backend, or its framework is not installed.
    """

    def __init__(self, name: str, timeout_s: float = 600.0) -> None:
        require_backend(name)
        self.name, self._timeout_s = name, timeout_s
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def call(
        self, function: Callable[Concatenate[Implementation, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """The result (or the exception) of `function(implementation, ...)` called in the process."""
        return self.wait(self.start(function, *args, **kwargs))

    def start(
        self, function: Callable[Concatenate[Implementation, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """The same without waiting; calls of one process run one after another."""
        return self._pool.submit(_call, self.name, function, args, kwargs)

    def wait(self, future: Future[R]) -> R:
        """What `start` promised."""
        try:
            return future.result(self._timeout_s)
        except BrokenProcessPool as error:
            raise UserError(f"backend {self.name!r}: its process ended abruptly") from error
        except FutureTimeoutError as error:
            raise UserError(f"backend {self.name!r} did not answer within {self._timeout_s:g} s") from error

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _call(name: str, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    _, implementation = load_backend(name)
    return function(implementation, *args, **kwargs)
