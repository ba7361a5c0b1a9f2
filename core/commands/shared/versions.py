"""The version of the toolkit, of Python and of the installed_backends frameworks.

Versions come from the metadata of installed_backends distributions; no framework is imported.
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
        return f"{TOOL} (not installed_backends)"


def all_versions() -> dict[str, str]:
    """Return the versions of Python, NumPy and each working framework, by title."""
    from core.backend.registry import installed_backends

    found = {"Python": platform.python_version(), "NumPy": importlib.metadata.version("numpy")}
    for backend in installed_backends():
        if (version := backend.version()) is not None:
            found[backend.title] = version
    return found
