"""Names and files of the configurations that are shipped with the toolkit, in `configs/`.

This module imports the standard library only, so that command-line completion is quick.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "configs"


def shipped_configurations() -> dict[str, Path]:
    """Return the files by the names that `--config` takes, sorted by name."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.yaml"))}
