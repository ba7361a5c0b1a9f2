"""The scripts in `benchmarks/` run and write a record; the measured numbers are not checked here."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from processes import wait_until_ended
from selected import BACKENDS
from turns import has_turn

from benchmarks.facts.measures import Part, Script
from benchmarks.facts.registry import FACTS
from core.backend.contract import Implementation
from core.backend.process import BackendProcess
from core.conformance.cases import Case, case_of
from core.experiment.configuration import load_configuration

pytestmark = pytest.mark.turns(7)

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
        f"training.py -f NAME {SMALL} --steps 1 --precision mixed_bfloat16 --same-precision",
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
    if script == "training.py":
        rows = gpu().training_rows(record)
        assert [row["what"].split(",")[0] for row in rows] == [f"{BY_HAND[0]} ours", f"{BY_HAND[0]} by hand"]
        assert all(row["images_per_second"] > 0 for row in rows)
        assert "of by hand" in rows[0]["result"]
        assert [row["what"] for row in gpu().graph_rows(record)] == [f"CUDA graphs, {rows[0]['what']}"]


def gpu() -> Any:
    """Return the module `benchmarks/gpu.py`."""
    sys.path.insert(0, str(SCRIPTS))
    return importlib.import_module("gpu")


def test_the_check_of_a_gpu_runs_on_the_cpu(tmp_path: Path) -> None:
    options = ["--device", "cpu", "-f", "reference", "--only", "conformance", "--minutes", "1"]
    printed, record = run("gpu.py", options, tmp_path)
    precisions = ("float64", "float32", "mixed_bfloat16", "mixed_float16", "tf32")
    assert [row["what"] for row in record["rows"]] == [f"reference, {precision}" for precision in precisions]
    for row in record["rows"]:
        assert not row["failed"]
        line = re.compile(rf"conformance +{row['what']} +{row['result']}")
        assert len(line.findall(printed)) == 2  # when it ended, and in the table
    statuses = [one["status"] for one in record["records"]["conformance of reference"]]
    assert statuses.count("passed") == 12
    assert set(statuses) == {"passed", "not run"}


NVIDIA_SMI = """#!/bin/sh
case "$*" in
*-lms*) [ "$2" = GPU-two ] && while true; do printf '40\\n[N/A]\\n60\\n'; sleep 0.05; done ;;
*name*) echo "A card, 123, 81559"; echo "Another, 123, 16000" ;;
*) exit 6 ;;
esac
"""


def test_a_card_is_watched_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu()  # finds the module
    card = importlib.import_module("card")
    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, GPU-two")
    fields = ("name", "driver_version", "memory.total")
    assert [one["memory.total"] for one in card.query(*fields)] == ["81559", "16000"]
    assert card.query("no such field") is None
    begun, deadline = time.monotonic(), time.monotonic() + 10
    with card.CardWatch("gpu:1") as watch, card.CardWatch("cpu") as nothing:
        while watch.busy([(begun, math.inf)]) is None and time.monotonic() < deadline:
            time.sleep(0.1)
    busy = watch.busy([(begun, math.inf)])
    assert busy is not None
    assert 0.4 <= busy <= 0.6
    assert watch.busy([(0.0, begun)]) is None
    assert nothing.busy([(begun, math.inf)]) is None


def test_a_task_that_fails_or_hangs_ends_no_other(tmp_path: Path) -> None:
    module, children = gpu(), tmp_path / "children"
    half = "import sys, time; open(sys.argv[1], 'w').write('[1]'); sys.stdout.flush(); "
    hangs = half + (
        "import subprocess; p = subprocess.Popen(['sleep', '100']); "
        f"open({str(children)!r}, 'w').write(str(p.pid)); time.sleep(100)"
    )
    codes = {
        "crashes": half + "import os; os.kill(os.getpid(), 11)",
        "hangs": hangs,
        "says why": "raise SystemExit('error: no memory')",
        "works": half,
        "writes nonsense": "import sys; open(sys.argv[1], 'w').write('{}')",
    }

    def rows(record: Any) -> list[dict[str, Any]]:
        return [{"what": "number", "result": str(record[0])}]

    tasks = [module.Task("training", name, ["-c", code, "JSON"], rows) for name, code in codes.items()]
    path = tmp_path / "record.json"
    report = module.Report(path, {"command": []}, time.monotonic() + 15)
    module.run_part(tasks, 15.0, 1, report, dict(os.environ))
    found = json.loads(path.read_text())["rows"]
    assert [(row["what"], row["result"]) for row in found if not row.get("failed")] == [("number", "1")] * 3
    failed = {row["what"]: row["result"] for row in found if row.get("failed")}
    assert list(failed) == ["crashes", "hangs", "says why", "writes nonsense"]
    assert failed["crashes"] == "exit status -11"
    assert failed["hangs"].startswith("stopped after ")
    assert failed["says why"] == "error: no memory"
    assert "cannot be read" in failed["writes nonsense"]
    wait_until_ended([int(children.read_text())])
    late = module.Report(None, {}, time.monotonic())
    module.run_part(tasks[:1], 15.0, 1, late, dict(os.environ))
    assert [(row["result"], row["failed"]) for row in late.rows] == [("not run: no time was left", False)]


def by_hand_and_ours(
    implementation: Implementation, module: str, network: str, case: Case, masks: NDArray[np.float32]
) -> tuple[float, float]:
    """Return the training loss of the loop written by hand and that of our model."""
    sys.path.insert(0, str(SCRIPTS))
    (images, whole), *_ = case.batches
    arrays = [case.state[parameter.name] for parameter in case.plan.parameters]
    loss = importlib.import_module(f"by_hand.{module}").loss_with(network, arrays, images, masks)
    model = implementation.compile(case.plan, case.rules, "cpu", "float32")
    model.load_state(case.state)
    return loss, model.differentiate(images, whole, {}).loss


def _by_hand() -> list[tuple[str, str]]:
    """Return half of the pairs, the others on the next day; all of them with PNEUMOSEG_CHECKS=all."""
    networks = ("unet_resnet34", "unet_efficientnet_lite0")
    return [
        (name, network)
        for place, name in enumerate(("tf", "torch", "jax", "mxnet"))
        for number, network in enumerate(networks)
        if name in BACKENDS and has_turn(place + number, 2)
    ]


@pytest.mark.parametrize(("name", "network"), _by_hand())
def test_a_network_by_hand_has_the_loss_of_ours(name: str, network: str) -> None:
    module = {"tf": "tensorflow"}.get(name, name)
    loss = ["training.loss={bce: 1.0, dice: 1.0}"]
    # Small weights: through as many layers, larger ones would make a difference of one rounding large.
    case = case_of(load_configuration(Path(network), loss), 64, 64, batches=(4,), lively=False)
    with BackendProcess(name) as process:
        masks = case.batches[0][1].astype(np.float32)
        by_hand, ours = process.call(by_hand_and_ours, module, network, case, masks)
    assert by_hand == pytest.approx(ours, rel=1e-4)


@pytest.mark.skipif(not {"tf", "torch"} <= set(BACKENDS), reason="tf or torch is deselected")
def test_the_loader_is_measured_beside_those_of_the_frameworks(tmp_path: Path) -> None:
    options = ["--count", "32", "--size", "32", "--batch-size", "4", "--steps", "1", "--repetitions", "1"]
    printed, record = run("loader.py", options, tmp_path)
    assert " torch " in printed
    assert " tf.data " in printed
    check_rows("loader.py", record, options)
