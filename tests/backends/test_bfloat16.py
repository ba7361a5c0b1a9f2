"""Tests of bfloat16 products on a CPU: by bfloat16 kernels, or in float32 of rounded operands.

In other tests the processor decides between the two. These tests choose one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hidden_packages import hide
from selected import BACKENDS

from core.backend.contract import Implementation
from core.backend.process import BackendProcess
from core.conformance.cases import Case, make_case
from core.conformance.mixed import mixed_checks
from core.conformance.suite import Check, examine

ROOT = Path(__file__).resolve().parents[2]

HERE = [name for name in BACKENDS if name in ("tf", "torch")]
pytestmark = [
    pytest.mark.turns(7),
    pytest.mark.skipif(not HERE, reason="tf and torch are deselected by PNEUMOSEG_BACKENDS"),
]
BLOCKS: list[dict[str, Any]] = [
    {"name": "down", "kind": "conv", "filters": 4, "kernel": 3, "stride": 1},
    {"name": "up", "kind": "transpose", "filters": 5},
    {"name": "mask", "kind": "output", "stride": 1},
]
CHECKS = [
    check
    for check in mixed_checks()
    if check.precision == "mixed_bfloat16" and ("convolution" in check.subject or "network" in check.subject)
]


def pretend(implementation: Implementation, multiplies: bool) -> None:
    """Make the backend in this process believe that the CPU multiplies bfloat16, or does not."""
    implementation.multiplies = lambda *_: multiplies  # type: ignore[attr-defined]


def operands(implementation: Implementation, name: str, case: Case, folder: Path) -> set[str]:
    """Return the types of the operands of an exported model's convolutions."""
    model = implementation.compile(case.plan, case.rules, "cpu", "mixed_bfloat16")
    model.load_state(case.state)
    model.export(folder, {})
    if name == "tf":
        from backends.tf.framework import tf

        graph = tf.saved_model.load(str(folder)).signatures["serving_default"].graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        return {tf.as_dtype(node.attr["T"].type).name for node in nodes if "Conv2D" in node.op}
    from backends.torch.framework import torch

    graph = torch.jit.load(folder / "model.pt").inlined_graph
    casts = [product.inputsAt(1).node() for product in graph.findAllNodes("aten::_convolution")]  # of kernels
    assert {cast.kind() for cast in casts} == {"aten::to"}
    return {{6: "float32", 15: "bfloat16"}[cast.inputsAt(1).toIValue()] for cast in casts}


@pytest.fixture(scope="module", params=HERE)
def without(request: pytest.FixtureRequest) -> Iterator[BackendProcess]:
    with BackendProcess(request.param) as process:
        process.call(pretend, False)
        yield process


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_without_such_kernels_the_rule_is_the_same(without: BackendProcess, check: Check) -> None:
    outcome = examine(check, without)
    assert outcome.status == "passed", outcome.detail


@pytest.mark.parametrize("name", HERE)
def test_a_file_for_other_processors_does_without_such_kernels(name: str, tmp_path: Path) -> None:
    case = make_case(BLOCKS, 12, 18, batch_norm=False)
    with BackendProcess(name) as process:
        process.call(pretend, True)
        assert process.call(operands, name, case, tmp_path) == {"float32"}


def asked(_: Implementation) -> bool:
    from backends.tf import devices

    devices.system.multiplies_bfloat16 = lambda: True  # type: ignore[assignment]
    return devices.multiplies("bfloat16", "cpu")


@pytest.mark.skipif("tf" not in BACKENDS, reason="tf is deselected by PNEUMOSEG_BACKENDS")
def test_kernels_that_add_in_bfloat16_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")  # only Eigen's kernels remain
    with BackendProcess("tf") as tf:
        assert tf.call(asked) is False


def multiplied(implementation: Implementation, name: str, case: Case) -> dict[str, set[str]]:
    """Return the types of the operands of convolutions, not transposed ones, in training and predicting."""
    if name == "tf":
        from backends.tf.framework import tf

        functions = tf.nn
    else:
        from backends.torch.framework import torch

        functions = torch.nn.functional
    own, seen = functions.conv2d, set()

    def watched(x: Any, kernel: Any, *others: Any) -> Any:
        seen.update({str(kernel.dtype)})
        return own(x, kernel, *others)

    functions.conv2d = watched
    model = implementation.compile(case.plan, case.rules, "cpu", "mixed_bfloat16")
    model.load_state(case.state)
    images, masks = case.batches[0]
    found = {}
    for what, call in (
        ("training", lambda: model.differentiate(images, masks)),
        ("predicting", lambda: model.predict(images)),
    ):
        seen.clear()
        call()
        found[what] = {"bfloat16" if "bfloat16" in each else "float32" for each in seen}
    functions.conv2d = own
    return found


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("multiplies", [True, False])
def test_such_kernels_train_where_there_are_any(name: str, multiplies: bool) -> None:
    case = make_case(BLOCKS, 12, 18, batch_norm=False)
    with BackendProcess(name) as process:
        process.call(pretend, multiplies)
        found = process.call(multiplied, name, case)
    assert ("bfloat16" in found["training"]) is multiplies
    assert found["predicting"] == {"float32"}


@pytest.mark.skipif("mxnet" not in BACKENDS, reason="mxnet is deselected by PNEUMOSEG_BACKENDS")
def test_mxnet_needs_nobody_who_tells_numpy_of_bfloat16(tmp_path: Path) -> None:
    """MXNet imports ONNX if it is installed, and ONNX imports ml_dtypes, which tells NumPy of bfloat16."""
    hidden = hide(tmp_path / "hidden", ["ml_dtypes", "onnx"])
    words = ["conformance", "-f", "mxnet", "--only", "operands and result, to even"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *words],
        cwd=tmp_path,
        env=os.environ | hidden,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 checks passed" in done.stdout
