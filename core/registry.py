"""Where backends are found: the entry-point group `pneumoseg.backends`.

Promises: the toolkit's own backends and third parties' are found in the same way, none is preferred
and finding one imports no framework. An unknown name is answered with the nearest known one and the
list; a known one without its framework with the command that installs it. A backend that is broken
stands in no other's way.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
from collections.abc import Iterable

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
        raise UserError(
            f"unknown backend {name!r}; {_guess(name, entries)}Known: {', '.join(sorted(entries))}"
        )
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


def require_training(name: str) -> Backend:
    """The same for a backend that is to train.

    Raises:
        UserError: It cannot be used, or only predicts.
    """
    backend = require_backend(name)
    if not backend.trains:
        others = ", ".join(other.name for other in _sound() if other.trains)
        raise UserError(
            f"backend {name!r} ({backend.title}) only predicts; it does not train",
            f"Train with one of: {others}. Any backend's model then predicts here: -f {name} --model DIR",
        )
    return backend


def export_formats() -> list[str]:
    """The names of all export formats, sorted."""
    return sorted({form for backend in _sound() for form in backend.exports})


def find_exporter(form: str, name: str | None = None) -> Backend:
    """The backend that writes the export format called `form`, whether its framework is installed or not.

    Args:
        form: The format, as a descriptor's `exports` names it.
        name: The backend to take; None where there is but one.

    Raises:
        UserError: No backend writes it, the named one does not, or several do and none is named.
    """
    writers: dict[str, list[str]] = {}
    for backend in _sound():
        for each in backend.exports:
            writers.setdefault(each, []).append(backend.name)
    listed = ", ".join(f"{each} ({' or '.join(names)})" for each, names in sorted(writers.items()))
    if form not in writers:
        raise UserError(
            f"unknown export format {form!r}; {_guess(form, writers)}Formats, and who writes them: {listed}"
        )
    if name is not None and name not in writers[form]:
        backend = find_backend(name)
        raise UserError(
            f"backend {name!r} does not write {form!r}; it writes: {', '.join(backend.exports) or 'none'}",
            f"Formats, and who writes them: {listed}. Leave -f out: any backend's model can be exported.",
        )
    if name is None and len(writers[form]) > 1:
        raise UserError(f"several backends write {form!r}: {', '.join(writers[form])}", "Choose one with -f.")
    return find_backend(name or writers[form][0])


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


def _guess(name: str, known: Iterable[str]) -> str:
    """The question whether the nearest known name was meant; "" where none is near."""
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}? " if close else ""


def _sound() -> list[Backend]:
    """The descriptors of all registered backends but for broken ones."""
    found = []
    for name in backend_names():
        with contextlib.suppress(UserError):
            found.append(find_backend(name))
    return found


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
