"""Find backends by name in the entry-point group `pneumoseg.backends`.

The toolkit's own backends and those of third parties are found in the same way, and finding one imports no
framework. `backend_name` also accepts the usual names of a framework. The message for an unknown name has
the nearest known name and the list; the message for a missing framework has the command that installs it.
A broken backend does not affect the others. If the user does not choose a backend, `prediction_backends`
gives the order in which backends are tried.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path

from core.backend.contract import Backend, Implementation, Precision
from core.base.errors import UserError

GROUP = "pneumoseg.backends"

_ALIASES = {"keras": "tf", "mx": "mxnet", "gluon": "mxnet", "np": "reference", "ort": "onnx"}
"""Usual names that no descriptor contains; a backend registered under one of them has precedence."""

_FIRST = ("onnx", "torch", "jax", "tf", "mxnet")
"""The order in which backends are chosen to predict: ONNX Runtime starts fastest and needs least memory."""
_LAST = ("reference",)
"""Backends that are chosen only if no other is installed: NumPy alone is slow."""


def backend_names() -> list[str]:
    """Return the names of all registered backends, sorted."""
    return sorted(_entries())


def backend_name(word: str) -> str:
    """Return the name of the backend that `word` means.

    Args:
        word: A backend's name, or its framework's title ("ONNX Runtime"), module ("tensorflow"), distribution
            ("tensorflow-cpu") or usual alias. Case and punctuation do not matter.

    Raises:
        UserError: The word means no backend, or several.
    """
    entries = _entries()
    if word in entries:
        return word
    plain = _normalised(word)
    alias = _ALIASES.get(plain, "")
    found = [name for name in entries if _normalised(name) == plain] or [
        backend.name
        for backend in _working_backends()
        if backend.name in entries and plain in _names_of(backend)
    ]
    if not found and alias in entries:
        found = [alias]
    if not found or not plain:
        guess = _nearest_backend(plain, entries)
        raise UserError(f"unknown backend {word!r}; {guess}Known: {', '.join(sorted(entries))}")
    if len(found) > 1:
        raise UserError(f"{word!r} means several backends: {', '.join(sorted(found))}", "Name one of them.")
    return found[0]


def find_backend(name: str) -> Backend:
    """Return the descriptor of the backend that `name` means, whether its framework is installed or not."""
    name, entries = backend_name(name), _entries()
    try:
        descriptor = entries[name].load()
    except Exception as error:  # another project's code may raise anything
        raise UserError(f"backend {name!r} is broken: {entries[name].value}: {_error_text(error)}") from error
    if not isinstance(descriptor, Backend):
        raise UserError(
            f"backend {name!r} is broken: {entries[name].value} is not a core.backend.contract.Backend"
        )
    return descriptor


def require_backend(name: str) -> Backend:
    """Return the descriptor of the backend `name`, without importing its framework.

    Raises:
        UserError: There is no such backend, or its framework is not installed.
    """
    backend = find_backend(name)
    if not backend.is_available():
        raise UserError(
            f"backend {name!r} needs {backend.title}, which is not installed",
            f"Run: {backend.install}",
        )
    return backend


def require_training(name: str) -> Backend:
    """Return the descriptor of a backend that is to train.

    Raises:
        UserError: The backend cannot be used, or only predicts.
    """
    backend = require_backend(name)
    if not backend.trains:
        others = ", ".join(other.name for other in _working_backends() if other.trains)
        raise UserError(
            f"backend {name!r} ({backend.title}) only predicts; it does not train",
            f"Train with one of: {others}. Any backend's model then predicts here: -f {name} --model DIR",
        )
    return backend


def export_formats() -> list[str]:
    """Return the names of all export formats, sorted."""
    return sorted({form for backend in _working_backends() for form in backend.exports})


def installed_backends() -> list[Backend]:
    """Return the backends that are installed and not broken, sorted by name; [] if none is registered."""
    with contextlib.suppress(UserError):
        return [backend for backend in _working_backends() if backend.is_available()]
    return []


def prediction_backends(precision: Precision) -> list[Backend]:
    """Return the installed backends that predict in `precision`, in the order in which to try them."""
    return sorted((each for each in installed_backends() if precision in each.precisions), key=_rank)


def find_exporter(form: str, name: str | None = None) -> Backend:
    """Return the backend that writes the export format `form`.

    Args:
        form: A format as in a descriptor's `exports`.
        name: The backend to use, whether its framework is installed or not. None chooses the first installed
            one in the order of `prediction_backends`, or the first one if none is installed.

    Raises:
        UserError: No backend writes the format, or the named one does not.
    """
    writers: dict[str, list[Backend]] = {}
    for backend in sorted(_working_backends(), key=_rank):
        for each in backend.exports:
            writers.setdefault(each, []).append(backend)
    listed = ", ".join(
        f"{each} ({' or '.join(one.name for one in several)})" for each, several in sorted(writers.items())
    )
    if form not in writers:
        raise UserError(
            f"unknown export format {form!r}; {_guess(form, writers)}Formats, and who writes them: {listed}"
        )
    if name is None:
        return next((one for one in writers[form] if one.is_available()), writers[form][0])
    backend = find_backend(name)
    if backend.name not in [one.name for one in writers[form]]:
        raise UserError(
            f"backend {backend.name!r} does not write {form!r}; it writes: "
            f"{', '.join(backend.exports) or 'none'}",
            f"Formats, and who writes them: {listed}. Leave -f out: any backend's model can be exported.",
        )
    return backend


def find_weight_reader(path: Path) -> Backend:
    """Return the backend that reads files of weights with the suffix of a path.

    Raises:
        UserError: No backend reads them, or its framework is not installed.
    """
    readers = {
        each: backend
        for backend in sorted(_working_backends(), key=_rank, reverse=True)
        if backend.weight_files is not None
        for each in backend.weight_files.suffixes
    }
    if (suffix := path.suffix.lower()) not in readers:
        known = ", ".join(
            f"{each} ({one.weight_files.title})" for each, one in sorted(readers.items()) if one.weight_files
        )
        raise UserError(
            f"{path}: no file of weights has the suffix {suffix!r}",
            f"Known: .safetensors (PyTorch), {known}.",
        )
    backend = readers[suffix]
    needs = backend.weight_files is not None and backend.weight_files.needs_framework
    return require_backend(backend.name) if needs else backend


def load_backend(name: str) -> tuple[Backend, Implementation]:
    """Import the framework of the backend `name`; return its descriptor and implementation."""
    backend = require_backend(name)
    try:
        return backend, backend.load()
    except Exception as error:
        raise UserError(
            f"backend {name!r}: {backend.title} is installed but cannot be imported: {_error_text(error)}",
            f"Install it anew: {backend.install}",
        ) from error


def _rank(backend: Backend) -> tuple[int, int, str]:
    """Return the sort key for the order in which the toolkit chooses backends."""
    place = _FIRST.index(backend.name) if backend.name in _FIRST else len(_FIRST)
    return int(backend.name in _LAST), place, backend.name


def _normalised(word: str) -> str:
    """Return only the letters and digits, in lower case."""
    return re.sub(r"[\W_]+", "", word.lower())


def _names_of(backend: Backend) -> set[str]:
    """Return the names of a backend's framework, normalised."""
    called = [backend.title, backend.module or "", *backend.distributions]
    return {_normalised(word) for word in called} - {""}


def _nearest_backend(plain: str, entries: Iterable[str]) -> str:
    """Return "did you mean NAME? " for the backend with the nearest name, or "" if none is near."""
    called = {_normalised(name): name for name in entries}
    for backend in _working_backends():
        called = {**dict.fromkeys(_names_of(backend), backend.name), **called}
    close = difflib.get_close_matches(plain, called, n=1, cutoff=0.5)
    return f"did you mean {called[close[0]]!r}? " if close else ""


def _guess(name: str, known: Iterable[str]) -> str:
    """Return "did you mean NAME? " for the nearest known name, or "" if none is near."""
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}? " if close else ""


def _working_backends() -> list[Backend]:
    """Return the descriptors of all registered backends that are not broken."""
    found = []
    for name in backend_names():
        with contextlib.suppress(UserError):
            found.append(find_backend(name))
    return found


def _error_text(error: Exception) -> str:
    return str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"


def _entries() -> dict[str, importlib.metadata.EntryPoint]:
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if not entries:
        raise UserError(
            "no backend is registered: the package 'pneumoseg' is not installed",
            "Run: pip install -e '.[tf]' -c constraints.txt    (or .[mxnet], or: make demo)",
        )
    return entries
