"""Where backends are found: the entry-point group `pneumoseg.backends`.

Promises: the toolkit's own backends and third parties' are found in the same way, and finding one imports
no framework. A framework's usual names mean its backend (`backend_name`). Any other name is answered with the
nearest known one and the list; a known one without its framework with the command that installs it. A
backend that is broken stands in no other's way. Where the user leaves the choice to the toolkit, `predictors`
gives the order in which backends are tried.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import re
from collections.abc import Iterable

from core.backend.contract import Backend, Implementation, Precision
from core.base.errors import UserError

GROUP = "pneumoseg.backends"

_ALIASES = {"keras": "tf", "mx": "mxnet", "gluon": "mxnet", "np": "reference", "ort": "onnx"}
"""Usual names that no descriptor holds; a backend registered under one of them comes first."""

_FIRST = ("onnx", "torch", "jax", "tf", "mxnet")
"""In which order backends are taken to predict: ONNX Runtime starts fastest and needs least."""
_LAST = ("reference",)
"""What is taken when nothing else is there: NumPy alone is slow."""


def backend_names() -> list[str]:
    """The names of all registered backends, sorted."""
    return sorted(_entries())


def backend_name(word: str) -> str:
    """The name of the backend that a word means.

    Args:
        word: A backend's name, or, in any case and whatever stands between its letters, its framework's title
            ("ONNX Runtime"), module ("tensorflow"), distribution ("tensorflow-cpu") or a usual alias.

    Raises:
        UserError: It means none, or several.
    """
    entries = _entries()
    if word in entries:
        return word
    plain = _plain(word)
    alias = _ALIASES.get(plain, "")
    found = [name for name in entries if _plain(name) == plain] or [
        backend.name for backend in _sound() if backend.name in entries and plain in _names_of(backend)
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
    """The descriptor of the backend that `name` means, whether its framework is installed or not."""
    name, entries = backend_name(name), _entries()
    try:
        descriptor = entries[name].load()
    except Exception as error:  # another project's code: it may do anything
        raise UserError(f"backend {name!r} is broken: {entries[name].value}: {_told(error)}") from error
    if not isinstance(descriptor, Backend):
        raise UserError(
            f"backend {name!r} is broken: {entries[name].value} is not a core.backend.contract.Backend"
        )
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


def installed() -> list[Backend]:
    """The backends that are installed and not broken, sorted by name; none where none is registered."""
    with contextlib.suppress(UserError):
        return [backend for backend in _sound() if backend.is_available()]
    return []


def predictors(precision: Precision) -> list[Backend]:
    """The installed backends that predict in a precision, in the order in which they are to be tried."""
    return sorted((each for each in installed() if precision in each.precisions), key=_rank)


def find_exporter(form: str, name: str | None = None) -> Backend:
    """The backend that writes the export format called `form`.

    Args:
        form: The format, as a descriptor's `exports` names it.
        name: The backend to take, whether its framework is installed or not; None takes the first installed
            one, in the order of `predictors`, or the first where none is.

    Raises:
        UserError: No backend writes it, or the named one does not.
    """
    writers: dict[str, list[Backend]] = {}
    for backend in sorted(_sound(), key=_rank):
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


def _rank(backend: Backend) -> tuple[int, int, str]:
    """Where a backend stands in the order of those that the toolkit chooses from."""
    place = _FIRST.index(backend.name) if backend.name in _FIRST else len(_FIRST)
    return int(backend.name in _LAST), place, backend.name


def _plain(word: str) -> str:
    """Letters and digits alone, in lower case."""
    return re.sub(r"[\W_]+", "", word.lower())


def _names_of(backend: Backend) -> set[str]:
    """What a backend's framework is called, as `_plain` gives it."""
    called = [backend.title, backend.module or "", *backend.distributions]
    return {_plain(word) for word in called} - {""}


def _nearest_backend(plain: str, entries: Iterable[str]) -> str:
    """The question whether the backend was meant one of whose names is nearest; "" where none is near."""
    called = {_plain(name): name for name in entries}
    for backend in _sound():
        called = {**dict.fromkeys(_names_of(backend), backend.name), **called}
    close = difflib.get_close_matches(plain, called, n=1, cutoff=0.5)
    return f"did you mean {called[close[0]]!r}? " if close else ""


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
