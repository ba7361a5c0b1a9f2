"""Fixtures of the tests of the commands: folders with their inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import prepare
from tiny_model import SIZE, radiograph, write_model, write_radiograph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with only `data.h5` and `network.yaml`."""
    prepare(tmp_path)
    return tmp_path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model, data of its size, three radiographs, their annotations and a submission."""
    prepare(tmp_path, size=SIZE)
    write_model(tmp_path / "reference_model")
    for number in range(3):
        pixels = radiograph(number, 40, 36, bright=number == 0)
        write_radiograph(tmp_path / "images" / f"{number}.dcm", number, pixels)
    table = "ImageId,EncodedPixels\n0,1 2\n1,-1\n2,-1\n"
    (tmp_path / "truth.csv").write_text(table)
    (tmp_path / "sent.csv").write_text(table)
    return tmp_path
