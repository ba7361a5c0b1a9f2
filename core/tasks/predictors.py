"""Which backend predicts where nobody names one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from core.contract import Backend
from core.errors import UserError
from core.inference import Member
from core.registry import backend_names, find_backend

_FIRST = ("onnx", "torch", "jax", "tf", "mxnet")
"""In which order backends are tried: ONNX Runtime starts fastest and needs least."""
_LAST = "reference"  # NumPy alone is slow


def choose_predictor(members: Sequence[Member]) -> Backend:
    """The first installed backend that can predict with some models.

    Raises:
        UserError: None is registered.
    """
    precisions = {member.checkpoint.configuration.training.precision for member in members}
    installed = []
    for name in backend_names():
        with contextlib.suppress(UserError):  # a broken one stands in no other's way
            backend = find_backend(name)
            if backend.is_available() and not (name == "onnx" and "float64" in precisions):
                installed.append(backend)
    return min(installed, key=_rank)


def _rank(backend: Backend) -> tuple[bool, int, str]:
    place = _FIRST.index(backend.name) if backend.name in _FIRST else len(_FIRST)
    return backend.name == _LAST, place, backend.name
