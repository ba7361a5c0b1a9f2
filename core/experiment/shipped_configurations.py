"""The configurations that the toolkit brings: `configs/`, found wherever the toolkit is installed.

Provides their names and files, and imports nothing but the standard library, so that completing a command
line is quick.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "configs"


def own_configurations() -> dict[str, Path]:
    """The files by the names that `--config` takes, in the order of the names."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.yaml"))}
