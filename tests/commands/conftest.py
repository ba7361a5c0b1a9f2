"""What the tests of the commands share: a folder with small data and a small network."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import prepare


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `data.h5` and `network.yaml` and nothing else."""
    prepare(tmp_path)
    return tmp_path
