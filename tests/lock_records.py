"""Records of lock files, as processes of this system write them."""

from __future__ import annotations

import json
import socket
import subprocess


def killed() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def record_of(process: int, **changes: object) -> str:
    """Return what a holder on this system writes into its lock file."""
    known = {
        "host": socket.gethostname(),
        "process": process,
        "since": "2026-11-28",
        "command": "run.py -f tf",
    }
    return json.dumps({**known, "shared": False, **changes})
