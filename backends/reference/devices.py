"""The devices NumPy runs on."""

from __future__ import annotations


def list_devices() -> list[str]:
    """The CPU, always."""
    return ["cpu"]
