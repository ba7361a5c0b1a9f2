"""The scripts in `benchmarks/` run and write a record; the measured numbers are not checked here."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from selected import BACKENDS

from benchmarks.facts.measures import Part, Script
from benchmarks.facts.registry import FACTS

SCRIPTS = Path(__file__).resolve().parents[1] / "benchmarks"
BY_HAND = [name for name in ("torch", "tf", "mxnet") if name in BACKENDS]
"""The backends with a hand-written loop, the fastest to start first."""

SMALL = "--size 32 --batch-size 2 --repetitions 1"


def run(script: str, options: list[str], folder: Path) -> tuple[str, Any]:
    """Run a script; return its output and record. Status 1 is allowed: so little work may miss a target."""
    command = [sys.executable, SCRIPTS / script, *options, "--json", folder / "record.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), done.stderr
    return done.stdout, json.loads((folder / "record.json").read_text())


def check_rows(script: str, record: Any, options: list[str]) -> None:
    """The fact of this script turns its record into rows with finite numbers."""
    measures = [fact.measure for fact in FACTS.values() if isinstance(fact.measure, Script)]
    kept = [one for one in measures if one.command == f"benchmarks/{script}"]
    assert len(kept) == (script != "augmentation.py")
    for measure in kept:
        rows = measure.rows_of(record, Part(tuple(BY_HAND[:1]), " ".join(options)))
        assert rows
        for number in itertools.chain.from_iterable(map(numbers, rows)):
            assert math.isfinite(number)


def numbers(row: Mapping[str, Any]) -> Iterator[float]:
    """Return the numbers of a row, with those of ranges; there is at least one."""
    values = [
        one for value in row.values() for one in (value if isinstance(value, (list, tuple)) else [value])
    ]
    found = [one for one in values if isinstance(one, (int, float))]
    assert found, row
    yield from found


@pytest.mark.skipif(not BY_HAND, reason="no backend with a loop by hand is selected by PNEUMOSEG_BACKENDS")
@pytest.mark.parametrize(
    "words",
    [
        f"training.py -f NAME {SMALL} --steps 1",
        f"prediction.py -f NAME {SMALL}",
        f"start.py -f NAME {SMALL}",
        "scaling.py -f NAME --counts 40 80 --sizes 32 64 --batch-size 2 --repetitions 1",
        "predict_command.py -f NAME --count 12 --batch-size 2 --repetitions 1",
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
    check_rows(script, record, options)


@pytest.mark.skipif(not {"tf", "torch"} <= set(BACKENDS), reason="tf or torch is deselected")
def test_the_loader_is_measured_beside_those_of_the_frameworks(tmp_path: Path) -> None:
    options = ["--count", "32", "--size", "32", "--batch-size", "4", "--steps", "1", "--repetitions", "1"]
    printed, record = run("loader.py", options, tmp_path)
    assert " torch " in printed
    assert " tf.data " in printed
    check_rows("loader.py", record, options)
