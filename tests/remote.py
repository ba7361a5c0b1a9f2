"""Calls into a process that has imported one framework.

Two frameworks in one process disturb each other (OpenMP, protobuf, memory pools), and a crash of one
would take the tests with it. So the tests' own process imports none.

The frameworks are chosen by the environment variable PNEUMOSEG_BACKENDS (default: all that the
toolkit ships). One that is named and cannot be used fails its tests; it never turns into a skip.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from core.contract import Implementation
from core.registry import load_backend

BACKENDS = [name for name in os.environ.get("PNEUMOSEG_BACKENDS", "tf,mxnet").split(",") if name]
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
