"""The devices NumPy runs on."""

from __future__ import annotations


def list_devices() -> list[str]:
    """Return the CPU, the only device."""
    return ["cpu"]
