"""The name and version of this toolkit, and those of what it runs with.

Reads the metadata of installed distributions; imports no framework.
"""

from __future__ import annotations

import importlib.metadata
import platform

TOOL = "pneumoseg"
"""The distribution's name."""


def tool_version() -> str:
    """Name and version in one line."""
    try:
        return f"{TOOL} {importlib.metadata.version(TOOL)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{TOOL} (not installed)"


def all_versions() -> dict[str, str]:
    """The versions of Python and of each installed framework by their titles, NumPy among them."""
    from core.errors import UserError
    from core.registry import backend_names, find_backend

    found = {"Python": platform.python_version()}
    for name in backend_names():
        try:
            backend = find_backend(name)
        except UserError:  # a broken backend; `backends` tells why
            continue
        if backend.is_available() and (version := backend.version()) is not None:
            found[backend.title] = version
    return found
