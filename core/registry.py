"""Where backends are found: the entry-point group `pneumoseg.backends`.

Promises: the toolkit's own backends and third parties' are found in the same way, none is preferred
and finding one imports no framework. An unknown name is answered with the nearest known one and the
list; a known one without its framework with the command that installs it. A backend that is broken
stands in no other's way.
"""

from __future__ import annotations

import difflib
import importlib.metadata

from core.contract import Backend, Implementation
from core.errors import UserError

GROUP = "pneumoseg.backends"


def backend_names() -> list[str]:
    """The names of all registered backends, sorted."""
    return sorted(_entries())


def find_backend(name: str) -> Backend:
    """The descriptor of the backend called `name`, whether its framework is installed or not."""
    entries = _entries()
    if name not in entries:
        close = difflib.get_close_matches(name.lower(), entries, n=1, cutoff=0.4)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"unknown backend {name!r}; {guess}Known: {', '.join(sorted(entries))}")
    try:
        descriptor = entries[name].load()
    except Exception as error:  # another project's code: it may do anything
        raise UserError(f"backend {name!r} is broken: {entries[name].value}: {_told(error)}") from error
    if not isinstance(descriptor, Backend):
        raise UserError(f"backend {name!r} is broken: {entries[name].value} is not a core.contract.Backend")
    return descriptor


def require_backend(name: str) -> Backend:
    """The descriptor of the backend called `name`, whose framework is installed; imports nothing of it."""
    backend = find_backend(name)
    if not backend.is_available():
        raise UserError(
            f"backend {name!r} needs {backend.title}, which is not installed",
            f"Run: {backend.install}",
        )
    return backend


def load_backend(name: str) -> tuple[Backend, Implementation]:
    """The backend called `name` with its framework imported."""
    backend = require_backend(name)
    try:
        return backend, backend.load()
    except Exception as error:
        raise UserError(
            f"backend {name!r}: {backend.title} is installed but cannot be imported: {_told(error)}",
            f"Install it anew: {backend.install}",
        ) from error


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"


def _entries() -> dict[str, importlib.metadata.EntryPoint]:
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if not entries:
        raise UserError(
            "no backend is registered: the package 'pneumoseg' is not installed",
            "Run: pip install -e '.[tf]' -c constraints.txt    (or .[mxnet], or: make demo)",
        )
    return entries
