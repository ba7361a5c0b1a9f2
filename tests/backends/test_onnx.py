"""Tests of ONNX files: their contents, their predictions in ONNX Runtime, free sizes, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import backends.onnx
import backends.reference
from backends.onnx import graph as graphs
from backends.onnx import sizes
from core.backend.contract import Precision
from core.backend.state import initial_state
from core.backend.training_rules import StepScalars
from core.base.errors import UserError
from core.conformance.cases import Case, case_of, make_case
from core.conformance.random_networks import random_case
from core.experiment.configuration import load_configuration, parse_configuration
from core.network.lowering import lower_blocks
from core.network.plan import Conv2D, ConvTranspose2D, Plan
from core.prediction.exports import ExportSource, with_white_level

CLOSE = 1e-5
"""Largest distance of a probability from the reference's."""

OPERATORS = {"Transpose", "Conv", "ConvTranspose", "Relu", "BatchNormalization", "Concat", "Sigmoid"}


def model_of(case: Case, precision: Precision = "float32", backend: Any = backends.onnx) -> Any:
    model = backend.backend.load().compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    return model


def exported(case: Case, folder: Path, metadata: dict[str, str] | None = None) -> bytes:
    model_of(case).export(folder, metadata or {})
    return (folder / "model.onnx").read_bytes()


def ran(file: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the predictions of ONNX Runtime, without this project's backend."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(["probabilities"], {"images": images})[0]
    return found


def expected(case: Case, images: NDArray[np.float32]) -> NDArray[Any]:
    found: NDArray[Any] = model_of(case, "float64", backends.reference).predict(images)
    return found


def geometries() -> list[tuple[str, Case]]:
    cases = []
    for kernel in range(1, 8):
        for stride in (1, 2, 3):
            for kind, height, width in (
                ("conv", 11, 14),
                ("conv", 12, 9),
                ("transpose", 4, 5),
                ("transpose", 5, 2),
            ):
                block = {"name": "there", "kind": kind, "filters": 3, "kernel": kernel, "stride": stride}
                mask = {"name": "mask", "kind": "output", "kernel": kernel, "stride": stride}
                case = make_case([block, mask], height, width, batch_norm=kernel % 2 == 0)
                cases.append((f"{kind} of kernel {kernel}, stride {stride}, {height}x{width}", case))
    return cases


def networks() -> list[tuple[str, Case]]:
    small = [(f"random network {seed}", random_case(seed)) for seed in range(24)]
    names = ("fcn", "fcn_skip", "unet", "siim")
    return small + [(name, network(name, 32, 48, 2)) for name in names]


def network(name: str, height: int, width: int, count: int = 3) -> Case:
    """Return a case of a whole network with initial weights, so that its logits are small.

    Statistics and biases are not 0 or 1.
    """
    case = case_of(load_configuration(Path(name)), height, width, batches=(count,))
    state = initial_state(case.plan, case.rules, 5)
    for number, array in enumerate(state.values()):
        if array.ndim == 1:
            array += np.float32(0.02) * (number % 5)
    return replace(case, state=state)


@pytest.mark.parametrize("cases", [geometries, networks])
def test_bare_onnx_runtime_predicts_what_the_reference_does(cases: Any, tmp_path: Path) -> None:
    for name, case in cases():
        images = case.batches[0][0]
        received, wanted = (
            ran(exported(case, tmp_path / name.replace(" ", "_")), images),
            expected(case, images),
        )
        assert received.dtype == np.float32
        np.testing.assert_allclose(received, wanted, rtol=0, atol=CLOSE, err_msg=name)
        assert wanted.std() > 1e-4, name


def test_the_file_holds_plain_operators_and_explicit_pads(tmp_path: Path) -> None:
    case = network("unet", 32, 48)
    path = tmp_path / "model.onnx"
    path.write_bytes(exported(case, tmp_path, {"purpose": "a test"}))
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert {node.op_type for node in model.graph.node} == OPERATORS  # biases belong to the products
    for node in model.graph.node:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        assert "auto_pad" not in attributes
        if node.op_type in ("Conv", "ConvTranspose"):
            assert len(attributes["pads"]) == 4
            assert len(node.input) == 3
    assert {one.key: one.value for one in model.metadata_props} == {
        "purpose": "a test",
        "height_multiple": "16",
        "width_multiple": "16",
    }
    assert [one.name for one in model.graph.input] == ["images"]
    assert [one.name for one in model.graph.output] == ["probabilities"]


@pytest.mark.parametrize("name", ["fcn_skip", "unet"])
def test_one_file_takes_any_batch_and_any_size_its_strides_divide(name: str, tmp_path: Path) -> None:
    file = exported(network(name, 32, 48), tmp_path)
    for count, height, width in ((1, 32, 48), (3, 64, 16), (2, 16, 80)):
        there = network(name, height, width, count)
        images = there.batches[0][0]
        received = ran(file, images)
        assert received.shape == (count, height, width, 1)
        np.testing.assert_allclose(received, expected(there, images), rtol=0, atol=CLOSE)


def test_a_size_is_fixed_where_other_sizes_would_have_other_pads(tmp_path: Path) -> None:
    blocks = [
        {"name": "down", "kind": "conv", "filters": 3, "kernel": 3, "stride": 2},
        {"name": "mask", "kind": "output", "kernel": 3, "stride": 2},
    ]
    case = make_case(blocks, 7, 10)
    assert (sizes.step(case.plan, "height"), sizes.step(case.plan, "width")) == (None, 2)
    model = onnx.load_from_string(exported(case, tmp_path))
    (given,) = model.graph.input
    assert [one.dim_param or one.dim_value for one in given.type.tensor_type.shape.dim] == ["N", 7, "W", 1]
    assert {one.key for one in model.metadata_props} == {"width_multiple"}


def geometry(plan: Plan, axis: int) -> list[Any]:
    """Return the pads and crops along one axis."""
    found = []
    for op in plan.operations:
        if isinstance(op, Conv2D):
            found.append((op.name, op.pads[axis]))
        elif isinstance(op, ConvTranspose2D):
            found.append((op.name, op.crops[axis]))
    return found


def test_free_sizes_are_those_that_lower_to_the_same_pads() -> None:
    free = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        blocks: list[dict[str, Any]] = [
            {
                "name": f"block{number}",
                "kind": str(rng.choice(["conv", "transpose"])),
                "filters": 1,
                "kernel": int(rng.integers(1, 8)),
                "stride": int(rng.integers(1, 4)),
            }
            for number in range(3)
        ]
        drawn = parse_configuration(
            {"network": {"blocks": [*blocks, {"name": "mask", "kind": "output"}]}}
        ).network
        size = int(rng.integers(1, 5)) * int(rng.choice([1, 2, 6, 36]))
        plan = lower_blocks(drawn, size, 5)
        step = sizes.step(plan, "height")
        if step is None:
            continue
        free += 1
        assert size % step == 0
        for times in range(1, 8):
            assert geometry(lower_blocks(drawn, times * step, 5), 0) == geometry(plan, 0)
        for less in range(1, step):  # and no smaller step would do
            if step % less == 0:
                other = sizes.step(lower_blocks(drawn, less, 5), "height")
                assert other is None or less % other == 0
    assert free > 20


def test_grey_values_are_divided_by_their_white_exactly(tmp_path: Path) -> None:
    case = network("fcn_skip", 16, 24)
    values = np.random.default_rng(1).integers(0, 256, (3, 16, 24, 1)).astype(np.float32)
    source = with_white_level(ExportSource(case.plan, case.rules, "float32", case.state), 255)
    model = backends.onnx.backend.load().compile(source.plan, source.rules, "cpu", "float32")
    model.load_state(source.state)
    model.export(tmp_path, {})
    file = (tmp_path / "model.onnx").read_bytes()
    assert "Div" in {node.op_type for node in onnx.load_from_string(file).graph.node}
    np.testing.assert_array_equal(
        ran(file, values), ran(exported(case, tmp_path / "1"), values / np.float32(255))
    )


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the nearest numbers with 8 bits, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def to_float16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize(
    ("precision", "rounded"), [("mixed_bfloat16", to_bfloat16), ("mixed_float16", to_float16)]
)
def test_mixed_precision_rounds_operands_and_results_of_products(
    precision: Precision, rounded: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> None:
    blocks = [
        {"name": "one", "kind": "conv", "filters": 5, "kernel": 1, "stride": 1, "batch_norm": False},
        {"name": "mask", "kind": "output", "kernel": 1, "stride": 1},
    ]
    case = make_case(blocks, 9, 11)
    x, arrays = case.batches[0][0], case.state
    for block, turned in (("one", False), ("mask", True)):
        kernel = rounded(arrays[f"{block}/kernel"])[0, 0]
        x = rounded(rounded(x) @ (kernel.T if turned else kernel)) + arrays[f"{block}/bias"]
        x = x if turned else np.maximum(x, 0)
    wanted = 1 / (1 + np.exp(-x.astype(np.float64)))
    received = model_of(case, precision).predict(case.batches[0][0])
    np.testing.assert_allclose(received, wanted, rtol=0, atol=1e-6)
    assert np.abs(received - model_of(case).predict(case.batches[0][0])).max() > 5e-5


def test_training_and_float64_are_refused_with_the_reason() -> None:
    case = make_case([{"name": "mask", "kind": "output"}], 4, 6)
    model = model_of(case)
    before = model.state()
    for ask in (
        lambda: model.train_step(*case.batches[0], StepScalars(1, 0.1)),
        lambda: model.differentiate(*case.batches[0]),
    ):
        with pytest.raises(UserError, match="predicts only") as refusal:
            ask()
        assert "another backend" in (refusal.value.hint or "")
    assert all(np.array_equal(array, before[name]) for name, array in model.state().items())
    with pytest.raises(UserError, match="float64"):
        model_of(case, "float64")


def test_weights_beyond_the_formats_limit_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = make_case([{"name": "mask", "kind": "output"}], 4, 6)
    monkeypatch.setattr(graphs, "LARGEST", 20)
    with pytest.raises(UserError, match="2 GiB"):
        model_of(case).export(tmp_path / "export", {})
    assert not (tmp_path / "export").exists()
