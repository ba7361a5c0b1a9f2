"""Find out what each backend can do on this machine, without importing its framework in this process.

Each framework is imported in a process of its own. If one crashes, hangs or prints, neither this process nor
another framework is affected.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core.backend.registry import backend_names, find_backend, load_backend
from core.base.errors import UserError

TIMEOUT_S = 120
_MARK = "pneumoseg probe: "
# The process gets the caller's paths, so it imports neither another installed copy nor the current folder.
_CODE = (
    "import sys; _, name, *sys.path[:] = sys.argv; "
    "from core.backend.availability import print_devices; print_devices(name)"
)


@dataclass(frozen=True)
class Probe:
    """The state of a backend on this machine.

    Args:
        name: The name given to `-f`.
        title: The framework's name.
        installed: Whether the framework can be found.
        version: The framework's version; None if it is not installed.
        devices: The devices that the framework sees.
        install: The command that installs it; empty if the backend itself is broken.
        error: Why the backend cannot be used; None if it can.
    """

    name: str
    title: str
    installed: bool
    version: str | None
    devices: list[str]
    install: str
    error: str | None


def probe_all() -> list[Probe]:
    """Probe all registered backends at the same time."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(probe, backend_names()))


def probe(name: str) -> Probe:
    """Find out whether a backend is installed, its version and its devices."""
    try:
        backend = find_backend(name)
    except UserError as broken:
        return Probe(name, name, False, None, [], "", broken.message)
    installed = backend.is_available()
    devices, error = _list_devices(name) if installed else ([], "not installed")
    return Probe(name, backend.title, installed, backend.version(), devices, backend.install, error)


def print_devices(name: str) -> None:
    """Import the framework and print its devices; this runs in the probe's process."""
    try:
        devices, error = load_backend(name)[1].list_devices(), None
    except UserError as broken:
        devices, error = [], broken.message
    print(_MARK + json.dumps([devices, error]))


def _list_devices(name: str) -> tuple[list[str], str | None]:
    command = [sys.executable, "-c", _CODE, name, *sys.path]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",  # a framework may print anything
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [], f"did not answer within {TIMEOUT_S} s"
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            devices, error = json.loads(line[len(_MARK) :])
            return devices, error
    lines = done.stderr.strip().splitlines() or ["no message"]
    return [], f"failed (exit status {done.returncode}): {lines[-1]}"
