"""Files written by one Python are read by another, with another Python version and NumPy major version.

PNEUMOSEG_OTHER_PYTHON is the path of the other interpreter, which has the toolkit's requirements. The files
are written and read by `exchange.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exchange
import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
PHANTOMS = ("phantoms", "--count", "7", "--size", "256", "--positive-fraction", "0.5", "--workers", "2")
Interpreter = Callable[..., str]


@pytest.fixture(scope="module")
def other() -> Path:
    """The other interpreter, which differs from this one in Python, NumPy or HDF5."""
    named = os.environ.get("PNEUMOSEG_OTHER_PYTHON")
    if not named:
        pytest.skip(
            "PNEUMOSEG_OTHER_PYTHON is not set, so no other Python has read or written any file; "
            "set it to the interpreter of an environment with another NumPy"
        )
    path = Path(named)
    assert path.is_file(), f"PNEUMOSEG_OTHER_PYTHON={named} is not an interpreter"
    theirs = json.loads(python(path, HERE / "exchange.py", "facts"))
    assert theirs != exchange.facts(), (
        f"PNEUMOSEG_OTHER_PYTHON={named} has the versions of this Python: {theirs}"
    )
    return path


def python(interpreter: Path, *words: Path | str, cwd: Path | None = None) -> str:
    """Run a Python without this environment's settings; return its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(interpreter), *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{interpreter} {words}: {done.stdout}{done.stderr}"
    return done.stdout


def differences(found: dict[str, Any], written: dict[str, Any]) -> list[str]:
    """Return the content that differs from what was written; a reader may find more than that."""
    return [
        f"{file}, {part}: {found.get(file, {}).get(part)!r} instead of {what!r}"
        for file, parts in written.items()
        for part, what in parts.items()
        if found.get(file, {}).get(part) != what
    ]


def test_what_this_python_writes_it_reads(tmp_path: Path) -> None:
    """With one Python: `exchange` reads back what it reports to have written."""
    written = exchange.write_files(tmp_path)
    assert differences(exchange.read_files(tmp_path), written) == []
    parts = [part for content in written.values() for part in content]
    assert sum(part.startswith("array optimizer/") for part in parts) > 10
    assert sum(part.startswith("truth ") for part in parts) == 2 * exchange.COUNT


def test_a_single_bit_is_told() -> None:
    """The digests detect a changed sign of zero, type, shape or last bit."""
    array = exchange.checkpoint("float32").arrays["first/kernel"]
    others = [array.astype(np.float64), array[..., None], array.copy(), array.copy()]
    others[2].ravel()[0] = 0.0  # was -0.0
    others[3].ravel().view(np.uint32)[-1] ^= 1
    assert len({exchange.digest(one) for one in (array, *others)}) == 5


def test_the_other_python_reads_what_this_one_writes(other: Path, tmp_path: Path) -> None:
    written = exchange.write_files(tmp_path)
    found = json.loads(python(other, HERE / "exchange.py", "read", tmp_path))
    assert differences(found, written) == []
    assert found == json.loads(json.dumps(exchange.read_files(tmp_path)))


def test_this_python_reads_what_the_other_one_writes(other: Path, tmp_path: Path) -> None:
    written = json.loads(python(other, HERE / "exchange.py", "write", tmp_path))
    assert differences(exchange.read_files(tmp_path), written) == []
    assert written == json.loads(json.dumps(exchange.write_files(tmp_path)))


@pytest.mark.timeout(600)  # seconds: twelve programs are started
def test_both_pythons_make_the_same_data_file_of_the_same_radiographs(other: Path, tmp_path: Path) -> None:
    """Phantoms and their data file: pixels, masks and metadata have the same bytes."""
    content = {}
    for name, interpreter in (("this", Path(sys.executable)), ("other", other)):
        folder = tmp_path / name
        folder.mkdir()
        program = HERE.parent / "preprocess.py"
        python(interpreter, program, *PHANTOMS, "--out", "demo", cwd=folder)
        made = (
            "--images",
            "demo/dicom-images-train",
            "--annotations",
            "demo/train-rle.csv",
            "--workers",
            "2",
        )
        python(interpreter, program, *made, "--size", "96", "--out", "data.h5", cwd=folder)
        content[name] = (folder / "data.h5", {path.name: path.read_bytes() for path in _dicom_files(folder)})
    assert content["this"][1] == content["other"][1]
    assert len(content["this"][1]) == 7
    for verifier, (made_by, _) in ((other, content["this"]), (Path(sys.executable), content["other"])):
        python(verifier, HERE.parent / "preprocess.py", "verify", made_by, cwd=tmp_path)
    read = [exchange.data_content(path) for path, _ in content.values()]
    assert read[0] == read[1]
    for path, _ in content.values():
        assert json.loads(python(other, HERE / "exchange.py", "data", path)) == read[0]


def _dicom_files(folder: Path) -> list[Path]:
    return sorted((folder / "demo").rglob("*.dcm"))
