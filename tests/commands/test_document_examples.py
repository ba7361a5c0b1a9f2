"""The Python examples of README.md and docs/data.md run, and docs/troubleshooting.md quotes real messages."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from command_line import ROOT, succeed
from numpy.typing import NDArray
from PIL import Image
from tiny_model import radiograph, write_model, write_radiograph

SHAPES = {"a": (60, 45), "CR.0001": (33, 70), "c": (41, 41)}
SOURCES = ("core", "data", "backends", "pneumoseg")
LEAST_LETTERS = 8


def examples(document: str) -> list[str]:
    """Return the Python blocks of a document, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_example(folder: Path, content: str) -> dict[str, Any]:
    """Run a block in a folder; return its global names."""
    names: dict[str, Any] = {}
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        exec(content, names)
    return names


@pytest.fixture
def masks(tmp_path: Path) -> dict[str, NDArray[np.uint8]]:
    """Masks by image id; `tmp_path` has their pictures and radiographs."""
    found = {}
    for folder in ("masks", "radiographs"):
        (tmp_path / folder).mkdir()
    for number, (name, (height, width)) in enumerate(SHAPES.items()):
        mask = np.zeros((height, width), dtype=np.uint8)
        if name != "c":
            mask[height // 5 : height // 2, width // 4 :] = 1
        pixels = radiograph(number, height, width, bright=False)
        Image.fromarray(mask * 255).save(tmp_path / "masks" / f"{name}.png")
        Image.fromarray(pixels).save(tmp_path / "radiographs" / f"{name}.png")
        write_radiograph(tmp_path / "dicom" / f"{name}.dcm", number, pixels)
        found[name] = mask
    return found


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    write_model(tmp_path / "tf_model")
    pixels = radiograph(3, 60, 45, bright=True)
    write_radiograph(tmp_path / "image.dcm", 3, pixels, PixelSpacing=[0.5, 0.25])
    (example,) = examples("README.md")
    found = run_example(tmp_path, example)["found"]
    assert found.positive
    assert found.area_mm2 == found.pixels * 0.5 * 0.25


def test_masks_as_pictures_become_the_same_data_file(
    tmp_path: Path, masks: dict[str, NDArray[np.uint8]]
) -> None:
    as_table, as_file = examples("docs/data.md")
    run_example(tmp_path, as_table)
    words = ("--images", "dicom", "--annotations", "annotations.csv", "--size", "384")
    succeed("preprocess", *words, "--out", "made.h5", cwd=tmp_path, program="preprocess.py")
    run_example(tmp_path, as_file)
    succeed("verify", "own.h5", cwd=tmp_path, program="preprocess.py")
    with h5py.File(tmp_path / "made.h5") as made, h5py.File(tmp_path / "own.h5") as own:
        places = [[name.decode() for name in made["ids_0"]].index(name) for name in sorted(masks)]
        assert np.array_equal(made["ann_0"][...][places], own["ann_0"][...])
        assert np.allclose(made["images_0"][...][places], own["images_0"][...], atol=1e-6)
        positive = [name for name in sorted(masks) if masks[name].any()]
        assert [
            name for name, mask in zip(sorted(masks), own["ann_0"], strict=True) if mask.any()
        ] == positive


# Messages


def quoted() -> list[str]:
    """Return the messages in docs/troubleshooting.md: the code in the first column of its tables."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


@functools.cache
def texts() -> tuple[re.Pattern[str], ...]:
    """Return a pattern for every text in the sources, with wildcards for formatted values."""
    found = {
        pattern
        for folder in SOURCES
        for path in sorted((ROOT / folder).rglob("*.py"))
        for pattern in _patterns(ast.parse(path.read_text(encoding="utf-8")))
    }
    return tuple(re.compile(pattern, re.DOTALL) for pattern in found)


def _patterns(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        parts: list[ast.expr] = node.values if isinstance(node, ast.JoinedStr) else []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = [node]
        fixed = [part.value if isinstance(part, ast.Constant) else None for part in parts]
        if sum(len(re.findall("[A-Za-z]", str(text))) for text in fixed if text) >= LEAST_LETTERS:
            yield "".join(".*" if text is None else re.escape(str(text)) for text in fixed)


def test_messages_that_are_quoted_are_those_of_the_code() -> None:
    assert len(quoted()) > 30
    unknown = [message for message in quoted() if not any(text.fullmatch(message) for text in texts())]
    assert not unknown
