"""TF32: every backend rounds as the rule says, a GPU's own rounding follows the model, files are float32."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selected import BACKENDS

from core.backend.contract import Implementation, Precision
from core.backend.process import BackendProcess
from core.base.errors import UserError
from core.base.rounding import to_tf32
from core.conformance.cases import Case, make_case

pytestmark = pytest.mark.turns(7)

ROUNDING = [name for name in BACKENDS if name in ("tf", "torch", "jax", "mxnet")]
SWITCHED = [name for name in ROUNDING if name != "mxnet"]


def numbers() -> NDArray[np.float32]:
    """Return numbers of all sizes, midpoints of two TF32 numbers, and special ones; none is subnormal."""
    rng = np.random.default_rng(4)
    bits = rng.integers(0, 2**32, 6000, dtype=np.uint64).astype(np.uint32)
    bits[:2000] = (bits[:2000] & np.uint32(0xFFFFE000)) | np.uint32(0x1000)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -(2.0**-126), 3.4e38], np.float32)
    found = np.concatenate([bits.view(np.float32), special])
    return found[~(np.abs(found) < 2.0**-126) | (found == 0)]


def rounded(implementation: Implementation, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the backend's own rounding makes of an array."""
    del implementation
    module = importlib.import_module(f"backends.{name}.framework")
    if name == "mxnet":
        mx = module.mx
        from backends.mxnet.convolutions import _to_tf32 as of_symbol

        symbol = of_symbol(mx.sym.var("x"))
        result: NDArray[np.float32] = symbol.eval(x=mx.nd.array(array))[0].asnumpy()
        return result
    operations = importlib.import_module(f"backends.{name}.operations")
    if name == "tf":
        return np.asarray(operations._to_tf32(module.tf.constant(array), True))
    if name == "torch":
        return np.asarray(operations._to_tf32(module.torch.from_numpy(array)))
    return np.asarray(module.jax.jit(operations._to_tf32, static_argnums=0)(True, array))


@pytest.mark.parametrize("name", ROUNDING)
def test_numbers_are_rounded_to_the_same_bits(name: str) -> None:
    given = numbers()
    assert len(given) > 5900
    with BackendProcess(name) as process:
        np.testing.assert_array_equal(process.call(rounded, name, given), to_tf32(given))


def switched(implementation: Implementation, name: str, case: Case) -> list[bool]:
    """Return whether a GPU would round products, after each of some calls of models in turns."""
    framework: Any = importlib.import_module(f"backends.{name}.framework")
    precisions: tuple[Precision, ...] = ("tf32", "float32")
    models = [implementation.compile(case.plan, case.rules, "cpu", precision) for precision in precisions]
    images, masks = case.batches[0]
    found = []
    for number in (0, 1, 0):
        models[number].load_state(case.state)
        for call in (lambda model: model.predict(images), lambda model: model.differentiate(images, masks)):
            call(models[number])
            if name == "tf":
                found.append(framework.tf.config.experimental.tensor_float_32_execution_enabled())
            else:
                found.append(framework.torch.backends.cudnn.allow_tf32)
    return found


@pytest.mark.parametrize("name", [name for name in SWITCHED if name != "jax"])
def test_a_gpu_rounds_for_the_models_in_tf32_alone(name: str) -> None:
    case = make_case([{"name": "mask", "kind": "output"}], 4, 5)
    with BackendProcess(name) as process:
        assert process.call(switched, name, case) == [True, True, False, False, True, True]


def precisions_of_jax(implementation: Implementation, case: Case) -> dict[str, str]:
    """Return the program of a prediction in each precision."""
    jax: Any = importlib.import_module("backends.jax.framework").jax
    precisions: tuple[Precision, ...] = ("tf32", "float32")
    programs = {}
    for precision in precisions:
        model: Any = implementation.compile(case.plan, case.rules, "cpu", precision)
        programs[precision] = str(jax.make_jaxpr(model._infer)(model._arrays, case.batches[0][0]))
    return programs


@pytest.mark.skipif("jax" not in SWITCHED, reason="jax is deselected by PNEUMOSEG_BACKENDS")
def test_jax_compiles_products_in_tf32_for_its_models_alone() -> None:
    case = make_case([{"name": "mask", "kind": "output", "stride": 1, "transposed": False}], 4, 5)
    with BackendProcess("jax") as process:
        programs = process.call(precisions_of_jax, case)
    assert "conv_general_dilated" in programs["tf32"]
    assert "HIGHEST" not in programs["tf32"]
    assert "HIGHEST" in programs["float32"]


def exported(
    implementation: Implementation, case: Case, folder: Path
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the predictions of the exported file, in float32 and in TF32."""
    images = case.batches[0][0]
    found = []
    precisions: tuple[Precision, ...] = ("float32", "tf32")
    for precision in precisions:
        model = implementation.compile(case.plan, case.rules, "cpu", precision)
        model.load_state(case.state)
        found.append(model.predict(images))
    model.export(folder, {})
    return implementation.predict_exported(folder, images), found[0], found[1]


@pytest.mark.parametrize("name", SWITCHED)
def test_an_exported_file_computes_in_float32(name: str, tmp_path: Path) -> None:
    blocks = [{"name": "down", "kind": "conv", "filters": 6}, {"name": "mask", "kind": "output"}]
    with BackendProcess(name) as process:
        file, plain, short = process.call(exported, make_case(blocks, 12, 18), tmp_path)
    assert np.abs(file - plain).max() < 2e-6
    assert 1e-5 < np.abs(file - short).max() < 1e-2


def of_cudnn(implementation: Implementation) -> str | None:
    """Return the variable by which cuDNN's own rounding is switched off."""
    del implementation
    return os.environ.get("NVIDIA_TF32_OVERRIDE")


@pytest.mark.skipif("mxnet" not in BACKENDS, reason="mxnet is deselected by PNEUMOSEG_BACKENDS")
def test_cudnn_does_not_round_below_mxnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with BackendProcess("mxnet") as process:
        assert process.call(of_cudnn) == "0"


def refused(implementation: Implementation, case: Case) -> None:
    """Compile for a GPU."""
    implementation.compile(case.plan, case.rules, "gpu:0", "tf32")


@pytest.mark.skipif("mxnet" not in BACKENDS, reason="mxnet is deselected by PNEUMOSEG_BACKENDS")
def test_mxnet_refuses_it_on_a_gpu() -> None:
    case = make_case([{"name": "mask", "kind": "output"}], 4, 5)
    with BackendProcess("mxnet") as process, pytest.raises(UserError, match=r"tf32 on gpu:0.*no switch"):
        process.call(refused, case)
