"""The version of the toolkit, of Python and of the installed frameworks.

Versions come from the metadata of installed distributions; no framework is imported.
"""

from __future__ import annotations

import importlib.metadata
import platform

TOOL = "pneumoseg"
"""The distribution's name."""


def tool_version() -> str:
    """Return name and version in one line."""
    try:
        return f"{TOOL} {importlib.metadata.version(TOOL)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{TOOL} (not installed)"


def all_versions() -> dict[str, str]:
    """Return the versions of Python, NumPy and each working framework, by title."""
    from core.backend.registry import installed

    found = {"Python": platform.python_version(), "NumPy": importlib.metadata.version("numpy")}
    for backend in installed():
        if (version := backend.version()) is not None:
            found[backend.title] = version
    return found
