"""Tests that files of `export` load in the framework alone, without this project, and predict the same."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selected import BACKENDS, PREDICTORS

from core.backend.contract import Implementation, Precision
from core.backend.process import BackendProcess
from core.backend.registry import find_backend
from core.backend.state import initial_state
from core.base.errors import UserError
from core.experiment.configuration import load_configuration
from core.network.lowering import lower
from core.prediction.exports import ExportSource, read_back, write_export

pytestmark = pytest.mark.turns(7)

IMAGES = np.random.default_rng(3).random((3, 32, 48, 1), dtype=np.float32)

TF = """
import sys, numpy as np, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
np.save(sys.argv[3], serve(images=tf.constant(np.load(sys.argv[2])))["probabilities"].numpy())
"""
MXNET = """
import sys, numpy as np
gone = "bool PZERO NZERO NAN NaN PINF NINF Inf alltrue in1d mirr msort npv pmt ppmt pv rate trapz"
for name in (gone + " sometrue round_ product").split():
    vars(np).setdefault(name, bool)
import mxnet as mx
folder = sys.argv[1]
net = mx.gluon.SymbolBlock.imports(f"{folder}/model-symbol.json", ["images"], f"{folder}/model-0000.params")
by_gluon = net(mx.nd.array(np.load(sys.argv[2]))).asnumpy()
symbol, arguments, auxiliary = mx.model.load_checkpoint(f"{folder}/model", 0)
arguments["images"] = mx.nd.array(np.load(sys.argv[2]))
by_module = symbol.bind(mx.cpu(), arguments, aux_states=auxiliary).forward()[0].asnumpy()
assert np.array_equal(by_gluon, by_module)
np.save(sys.argv[3], by_gluon)
"""
TORCH = """
import sys, numpy as np, torch
kept = {"classes": ""}
predict = torch.jit.load(f"{sys.argv[1]}/model.pt", _extra_files=kept)
assert kept == {"classes": b"pneumothorax"}, kept
images = torch.from_numpy(np.load(sys.argv[2]))
with torch.inference_mode():
    np.save(sys.argv[3], torch.cat([predict(images[:1]), predict(images=images[1:])]).numpy())
"""
PT2 = """
import sys, numpy as np, torch
kept = {"classes": ""}
predict = torch.export.load(f"{sys.argv[1]}/model.pt2", extra_files=kept).module()
assert kept == {"classes": "pneumothorax"}, kept
images = torch.from_numpy(np.load(sys.argv[2]))
with torch.inference_mode():
    np.save(sys.argv[3], torch.cat([predict(images[:1]), predict(images[1:])]).numpy())
"""
JAX = """
import sys, numpy as np, jax.export
with open(f"{sys.argv[1]}/model.stablehlo", "rb") as file:
    predict = jax.export.deserialize(bytearray(file.read()))
images = np.load(sys.argv[2])
few, more = (predict.call(images=some)["probabilities"] for some in (images[:1], images[1:]))
assert few.dtype == more.dtype == np.float32, (few.dtype, more.dtype)
np.save(sys.argv[3], np.concatenate([few, more]))
"""
NUMPY = """
import sys, numpy as np
weights = np.load(f"{sys.argv[1]}/weights.npz", allow_pickle=False)
assert weights["mask/kernel"].shape == (3, 3, 1, 64), weights["mask/kernel"].shape
"""
BARE = {"savedmodel": TF, "mxnet": MXNET, "torchscript": TORCH, "pt2": PT2, "stablehlo": JAX}
FORMATS = [(name, form) for name in BACKENDS for form in find_backend(name).exports if form in BARE]


def export(
    implementation: Implementation, folder: Path, precision: Precision = "float32", form: str | None = None
) -> NDArray[Any]:
    """Write a network by `core.prediction.exports.write_export`; return its predictions of `IMAGES`."""
    configuration = load_configuration(Path("fcn_skip"))
    plan, rules = lower(configuration.network, 32, 48), configuration.training.rules()
    state = initial_state(plan, rules, 1)
    for name, array in state.items():
        if name.endswith("moving_mean"):
            array += 0.1  # so that lost statistics show
    write_export(
        implementation, ExportSource(plan, rules, precision, state), folder, {"classes": "pneumothorax"}, form
    )
    model = implementation.compile(plan, rules, "cpu", precision)
    model.load_state(state)
    return model.predict(IMAGES)


def bare_predicts_the_same(name: str, form: str, folder: Path, precision: Precision) -> None:
    """Check that the file predicts, in a process without this project, what its model does."""
    several = len(find_backend(name).exports) > 1
    with BackendProcess(name) as process:
        predicted = process.call(export, folder / "export", precision, form if several else None)
    np.save(folder / "images.npy", IMAGES)
    command = [sys.executable, "-P", "-c", BARE[form], "export", "images.npy", "bare.npy"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(folder / "bare.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, predicted, rtol=1e-5, atol=1e-7)
    assert predicted.std() > 1e-3


@pytest.mark.parametrize(("name", "form"), FORMATS)
def test_the_bare_framework_predicts_the_same(name: str, form: str, tmp_path: Path) -> None:
    bare_predicts_the_same(name, form, tmp_path, "mixed_bfloat16")  # float32: test_export_command.py


@pytest.mark.parametrize(("name", "form"), FORMATS)
def test_files_of_float64_take_and_give_float32(name: str, form: str, tmp_path: Path) -> None:
    bare_predicts_the_same(name, form, tmp_path, "float64")


def export_scaled_without_a_warning(implementation: Implementation, folder: Path) -> None:
    """Export a network that scales its input, as those of the zoos do."""
    scaled = ["network.input={channels: 3, mean: [0.4], std: [0.3]}"]
    configuration = load_configuration(Path("fcn_skip"), scaled)
    plan, rules = lower(configuration.network, 32, 48), configuration.training.rules()
    source = ExportSource(plan, rules, "float32", initial_state(plan, rules, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_export(implementation, source, folder, {})


@pytest.mark.skipif("torch" not in BACKENDS, reason="torch is deselected by PNEUMOSEG_BACKENDS")
def test_pytorch_exports_a_scaled_input_without_a_warning(tmp_path: Path) -> None:
    with BackendProcess("torch") as process:
        process.call(export_scaled_without_a_warning, tmp_path / "export")


def export_by_itself(implementation: Implementation, folder: Path) -> None:
    """Export as training does, and check that both files predict the same."""
    predicted = export(implementation, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["model.pt", "model.pt2"]
    for other in ("model.pt", "model.pt2"):
        (folder / other).rename(folder / "aside")
        again = read_back(implementation, folder, IMAGES)
        assert again is not None
        np.testing.assert_allclose(again.masks, predicted, rtol=1e-5, atol=1e-7)
        (folder / "aside").rename(folder / other)


@pytest.mark.skipif("torch" not in BACKENDS, reason="torch is deselected by PNEUMOSEG_BACKENDS")
def test_pytorch_writes_the_successor_and_torchscript_unless_asked_for_one(tmp_path: Path) -> None:
    with BackendProcess("torch") as process:
        process.call(export_by_itself, tmp_path / "export")


def refuse_torchscript(implementation: Implementation, folder: Path) -> tuple[str, str]:
    """Remove TorchScript; return the message to a request for it, and the files written without one."""
    from backends.torch.framework import torch

    del torch.jit.trace
    with pytest.raises(UserError) as refused:
        export(implementation, folder / "asked", form="torchscript")
    export(implementation, folder / "by itself")
    return str(refused.value), " ".join(path.name for path in folder.rglob("*"))


@pytest.mark.skipif("torch" not in BACKENDS, reason="torch is deselected by PNEUMOSEG_BACKENDS")
def test_a_pytorch_without_torchscript_says_so_and_writes_the_successor(tmp_path: Path) -> None:
    with BackendProcess("torch") as process:
        said, written = process.call(refuse_torchscript, tmp_path)
    assert "no longer writes TorchScript" in said
    assert "--to pt2" in said
    assert written == "by itself model.pt2"


def test_the_reference_writes_its_arrays(tmp_path: Path) -> None:
    from backends.reference import model as reference

    export(reference, tmp_path / "export")
    subprocess.run([sys.executable, "-c", NUMPY, str(tmp_path / "export")], check=True, timeout=60)


@pytest.mark.skipif(os.name == "nt", reason="there all names are Unicode")
@pytest.mark.parametrize("name", PREDICTORS)
def test_a_folder_whose_name_is_no_unicode(name: str, tmp_path: Path) -> None:
    """TensorFlow, MXNet, PyTorch and ONNX take all names for UTF-8."""
    folder = tmp_path / os.fsdecode(b"\xe9\xff") / "export"
    with BackendProcess(name) as process:
        predicted = process.call(export, folder)
        again = process.call(read_back, folder, IMAGES)
    assert list(folder.iterdir())
    if name != "reference":  # it has no loader
        assert again is not None
        np.testing.assert_allclose(again.masks, predicted, rtol=1e-5, atol=1e-7)


FRAMEWORKS = {"tensorflow", "mxnet", "torch", "jax", "onnx", "onnxruntime"}


@pytest.mark.parametrize("name", ["reference", "tf", "mxnet", "torch", "jax", "onnx"])
def test_describing_a_backend_imports_no_framework(name: str) -> None:
    code = f"import sys, backends.{name}; assert not {FRAMEWORKS | {'h5py', 'cv2'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
