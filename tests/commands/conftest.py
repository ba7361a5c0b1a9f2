"""Fixtures of the tests of the commands: a folder with small data and a small network."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import prepare


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with only `data.h5` and `network.yaml`."""
    prepare(tmp_path)
    return tmp_path
