"""The scripts in `benchmarks/` run and leave a record; what they measure here is nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from selected import BACKENDS

SCRIPTS = Path(__file__).resolve().parents[1] / "benchmarks"
BY_HAND = [name for name in ("torch", "tf", "mxnet") if name in BACKENDS]
"""Those with a loop written by hand, the quickest to start first."""

SMALL = "--size 32 --batch-size 2 --repetitions 1"


def run(script: str, options: list[str], folder: Path) -> tuple[str, Any]:
    """What it printed, and its record; a target may be missed by so little work (exit status 1)."""
    command = [sys.executable, SCRIPTS / script, *options, "--json", folder / "record.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), done.stderr
    return done.stdout, json.loads((folder / "record.json").read_text())


@pytest.mark.skipif(not BY_HAND, reason="no backend with a loop by hand is selected by PNEUMOSEG_BACKENDS")
@pytest.mark.parametrize(
    "words",
    [
        f"training.py -f NAME {SMALL} --steps 1",
        f"prediction.py -f NAME {SMALL}",
        f"start.py -f NAME {SMALL}",
        "scaling.py -f NAME --counts 40 80 --sizes 32 64 --batch-size 2 --repetitions 1",
        "answers.py -f NAME --count 12 --batch-size 2 --repetitions 1",
        "preprocess.py --count 32 --repetitions 1",
        "augmentation.py --count 8 --size 32 --repetitions 1",
    ],
    ids=lambda words: words.split()[0],
)
def test_a_benchmark_runs_and_leaves_a_record(words: str, tmp_path: Path) -> None:
    script, *options = words.replace("NAME", BY_HAND[0]).split()
    printed, record = run(script, options, tmp_path)
    assert printed
    assert record


@pytest.mark.skipif(not {"tf", "torch"} <= set(BACKENDS), reason="tf or torch is deselected")
def test_the_loader_is_measured_beside_those_of_the_frameworks(tmp_path: Path) -> None:
    options = ["--count", "32", "--size", "32", "--batch-size", "4", "--steps", "1", "--repetitions", "1"]
    printed, record = run("loader.py", options, tmp_path)
    assert " torch " in printed
    assert " tf.data " in printed
    assert record
