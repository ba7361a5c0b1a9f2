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
    """The versions of Python, NumPy and each installed framework by their titles; without broken backends."""
    from core.backend.registry import installed_backends

    found = {"Python": platform.python_version(), "NumPy": importlib.metadata.version("numpy")}
    for backend in installed_backends():
        if (version := backend.version()) is not None:
            found[backend.title] = version
    return found
