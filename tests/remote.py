"""Calls into a process that has imported one framework.

Two frameworks in one process disturb each other (OpenMP, protobuf, memory pools), and a crash of one
would take the tests with it. So the tests' own process imports none.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from core.contract import Implementation
from core.registry import load_backend

TIMEOUT_S = 300
P = ParamSpec("P")
R = TypeVar("R")


class Remote:
    """A backend's process; `call(function, ...)` runs `function(implementation, ...)` there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def call(
        self, function: Callable[Concatenate[Implementation, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """The function's result, or its exception."""
        return self._pool.submit(_call, self.name, function, args, kwargs).result(TIMEOUT_S)

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _call(name: str, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    _, implementation = load_backend(name)
    return function(implementation, *args, **kwargs)
