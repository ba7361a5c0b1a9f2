"""Invalid input of `train` gives one clear error, and nothing is written.

The exit status is 1. Standard error has one message that begins with `error: ` and names the file or key and
the received value, and no traceback. No file changes. Some of the commands run as programs, others in this
process.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from command_line import (
    LAST,
    NETWORK,
    changed,
    launcher,
    name_patients,
    prepare,
    refused,
    run_here,
    train,
    write_data,
)
from safetensors import safe_open
from safetensors.numpy import save_file

OPTIONS = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data", "nowhere.h5"], ["the data file nowhere.h5 does not exist", "python preprocess.py"]),
        (["--device", "gpu"], ["--device gpu: NumPy sees no such device; it sees: cpu"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_a_mistake_is_one_clear_error(folder: Path, words: list[str], says: list[str]) -> None:
    refused(*changed(OPTIONS, *words), cwd=folder, says=says)


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere.h5", "does not exist"), (".", "is a folder"), ("network.yaml", "not a whole HDF5 file")],
)
def test_data_that_are_no_data_file(folder: Path, name: str, says: str) -> None:
    refused(
        *changed(OPTIONS, "--data", name), cwd=folder, how=run_here, says=[name, says, "python preprocess.py"]
    )


def test_a_data_file_that_is_cut_off(folder: Path) -> None:
    whole = (folder / "data.h5").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (folder / "data.h5").write_bytes(whole[: int(len(whole) * share)])
        refused(*OPTIONS, cwd=folder, how=run_here, says=["data.h5", "not a whole HDF5 file"])


@pytest.mark.parametrize("words", [[], ["parity", "-f", "reference"]], ids=["train", "parity"])
def test_images_that_are_all_of_one_patient(folder: Path, words: list[str]) -> None:
    name_patients(folder / "data.h5", ["anonymous"] * 24)
    says = ["data.h5", "no image can be held out", "--ignore-patients", "training.validation_fraction=0"]
    refused(*words, *OPTIONS, cwd=folder, how=run_here, says=says)


def replace(name: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return change


def forget(file: h5py.File) -> None:
    for name in list(file):
        del file[name]
    file["pixels"] = np.arange(4)


def without_positives(file: h5py.File) -> None:
    """Without that attribute, positive images are found by reading the masks."""
    for name in list(file):
        if name.startswith("positive"):
            del file[name]
    file["ann_0"][2] = 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (forget, ["images_0", "pixels"]),
        (lambda file: file.__delitem__("ann_1"), ["ann_1", "no such dataset"]),
        (replace("images_1", np.random.default_rng(1).random((10, 32, 31, 1), np.float32)), ["images_1"]),
        (
            replace("ann_0", np.eye(32, dtype=np.int32).reshape(1, 32, 32, 1).repeat(10, 0)),
            ["ann_0", "int32"],
        ),
        (replace("images_0", np.random.default_rng(2).random((10, 32, 32, 1))), ["images_0", "float64"]),
        (without_positives, ["ann_0", "the value 7"]),
    ],
    ids=["none", "no masks", "other size", "masks of int32", "images of float64", "masks above 1"],
)
def test_an_hdf5_file_without_the_expected_datasets(
    folder: Path, change: Callable[[h5py.File], None], says: list[str]
) -> None:
    with h5py.File(folder / "data.h5", "r+") as file:
        change(file)
    refused(*OPTIONS, cwd=folder, how=run_here, says=["data.h5", "expected", *says])


@pytest.mark.parametrize(
    ("find", "put", "says"),
    [
        ("epochs:", "epoch:", ["training.epoch: unknown key", "did you mean 'training.epochs'?"]),
        (
            "filters:",
            "filtres:",
            ["network.blocks[0].filtres: unknown key", "did you mean 'network.blocks[0].filters'?"],
        ),
        ("seed: 7", "seed: seven", ["training.seed", "'seven'"]),
        ("learning_rate: 0.01", "learning_rate: 0", ["training.optimizer.learning_rate", "received 0"]),
        ("kind: pointwise", "kind: poinwtise", ["network.blocks[1]", "'poinwtise'"]),
        ("training:", "treinning:", ["treinning: unknown key"]),
        ("kind: output}", "kind: output, skip: dwon}", ["network.blocks[2].skip", "did you mean 'down'?"]),
        ("name: middle", "name: down", ["network.blocks[1].name", "'down'"]),
        ("epochs: 2", "epochs: [2", ["not valid YAML", "line"]),
        (NETWORK, "- just\n- a list\n", ["['just', 'a list']"]),
        (NETWORK, "", ["None"]),
        ("epochs: 2", "epochs: 2024-13-45", ["not valid YAML", "month must be in 1..12"]),
    ],
)
def test_a_configuration_with_a_mistake(folder: Path, find: str, put: str, says: list[str]) -> None:
    assert find in NETWORK
    (folder / "network.yaml").write_text(NETWORK.replace(find, put))
    refused(*OPTIONS, cwd=folder, how=run_here, says=["network.yaml", *says])


def test_a_configuration_that_is_no_text(folder: Path) -> None:
    says = ["data.h5: not valid YAML"]
    refused(*changed(OPTIONS, "--config", "data.h5"), cwd=folder, how=run_here, says=says)


def test_a_configuration_that_is_missing(folder: Path) -> None:
    says = ["nowhere.yaml", "configs/fcn.yaml", "configs/unet.yaml"]
    refused(*changed(OPTIONS, "--config", "nowhere.yaml"), cwd=folder, how=run_here, says=says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "training.epochs=-1"], ["training.epochs", "received -1"]),
        (["--epochs", "0"], ["training.epochs", "received 0"]),
        (["--epochs", "many"], ["training.epochs", "'many'"]),
        (["--batch-size", "2.5"], ["training.batch_size", "2.5"]),
        (["--learning-rate", "-0.1"], ["training.optimizer.learning_rate", "-0.1"]),
        (["--learning-rate", ".nan"], ["training.optimizer.learning_rate", "nan"]),
        (["--seed", "-5"], ["training.seed", "-5"]),
        (["--set", "training.epoch=3"], ["training.epoch: unknown key", "did you mean 'training.epochs'?"]),
        (["--set", "nonsense"], ["nonsense", "key.path=value", "training.epochs=3"]),
        (["--set", "=3"], ["=3", "key.path=value"]),
        (["--set", "training.epochs.more=3"], ["training.epochs", "no keys"]),
        (["--set", "network.blocks[9].filters=3"], ["network.blocks[9]"]),
        (["--set", "network.blocks[0].filters=0"], ["network.blocks[0].filters", "received 0"]),
        (["--set", "training.epochs=[1"], ["training.epochs=[1", "YAML"]),
        (["--set", "training.precision=float16"], ["training.precision", "'mixed_float16'", "'float16'"]),
        (
            ["--set", "training.loss_scale=1000"],
            ["training.loss_scale.initial", "power of two", "1000"],
        ),
        (["--precision", "bfloat16"], ["training.precision", "'mixed_bfloat16'", "'bfloat16'"]),
        (["--epochs", "2024-13-45"], ["2024-13-45"]),
        (["--epochs", "0x_"], ["0x_"]),
        (["--set", "training.seed=" + "[" * 1000], ["training.seed"]),
        (["--set", "network.blocks[²].filters=3"], ["²"]),
    ],
    ids=lambda value: value[-1][:40],
)
def test_an_option_with_a_mistake(folder: Path, words: list[str], says: list[str]) -> None:
    refused(*changed(OPTIONS, *words), cwd=folder, how=run_here, says=says)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("gpu", ["--device gpu", "NumPy", "cpu"]),
        ("gpu:1", ["--device gpu:1", "NumPy", "cpu"]),
        ("tpu", ["--device", "'tpu'", "auto, cpu, gpu or gpu:N"]),
        ("gpu:", ["--device", "'gpu:'"]),
    ],
)
def test_a_device_that_is_not_there(folder: Path, device: str, says: list[str]) -> None:
    refused(*OPTIONS, "--device", device, cwd=folder, how=run_here, says=says)


def test_a_data_file_that_must_not_be_read(folder: Path) -> None:
    (folder / "data.h5").chmod(0)
    done = refused(*OPTIONS, cwd=folder, says=["cannot read data.h5"], before=launcher("bound"))
    assert "Permission denied" in done


@pytest.mark.parametrize("where", [[], ["elsewhere/reference_model"]])
def test_nothing_to_resume(folder: Path, where: list[str]) -> None:
    says = ["no checkpoint", f"{(where or ['reference_model'])[0]}/{LAST}"]
    refused(*OPTIONS, "--resume", *where, cwd=folder, how=run_here, says=says)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    prepare(folder)
    train(cwd=folder, how=run_here)
    return (folder / "reference_model" / LAST).read_bytes()


@pytest.fixture
def checkpoint(folder: Path, trained: bytes) -> Path:
    """A copy of that checkpoint where `--resume` expects it."""
    path = folder / "reference_model" / LAST
    path.parent.mkdir()
    path.write_bytes(trained)
    return path


RESUME = ["-f", "reference", "--data", "data.h5", "--resume", "--epochs", "3"]


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "network.blocks[0].filters=8"], ["network.blocks[0].filters", "4", "8"]),
        (["--seed", "8"], ["training.seed", "7", "8"]),
        (["--batch-size", "4"], ["training.batch_size", "5", "4"]),
        (["--set", "training.precision=float64"], ["training.precision", "'float32'", "'float64'"]),
        (["--config", "demo"], ["network.", "4"]),
    ],
)
def test_resuming_another_run_than_was_begun(folder: Path, words: list[str], says: list[str]) -> None:
    refused(*RESUME, *words, cwd=folder, how=run_here, says=["cannot resume", "was", "is now", *says])


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize(("images", "size", "says"), [(25, 32, "25 images (9 positive)"), (24, 40, "40x40")])
def test_resuming_on_other_data(folder: Path, images: int, size: int, says: str) -> None:
    write_data(folder / "other.h5", images, size, seed=1)
    wanted = ["cannot resume on other data", "24 images (8 positive) of 32x32", says]
    refused(*changed(RESUME, "--data", "other.h5"), cwd=folder, how=run_here, says=wanted)


def test_a_checkpoint_that_is_cut_off(folder: Path, checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        checkpoint.write_bytes(whole[:length])
        refused(*RESUME, cwd=folder, how=run_here, says=[f"reference_model/{LAST}", "damaged"])


@pytest.mark.parametrize("seed", range(3))
def test_a_checkpoint_with_a_bit_that_turned_over(folder: Path, checkpoint: Path, seed: int) -> None:
    damaged = bytearray(checkpoint.read_bytes())
    place = random.Random(seed).randrange(len(damaged))
    damaged[place] ^= 1 << random.Random(seed).randrange(8)
    checkpoint.write_bytes(damaged)
    refused(*RESUME, cwd=folder, how=run_here, says=[f"reference_model/{LAST}"])


def test_a_checkpoint_of_something_else(folder: Path, checkpoint: Path) -> None:
    with safe_open(checkpoint, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        metadata = file.metadata()
    save_file(arrays, checkpoint)
    refused(*RESUME, cwd=folder, how=run_here, says=[f"reference_model/{LAST}", "pneumoseg-checkpoint"])
    save_file(arrays, checkpoint, metadata | {"version": "99"})
    refused(*RESUME, cwd=folder, how=run_here, says=[f"reference_model/{LAST}", "'99'"])
    arrays.pop(min(arrays))
    save_file(arrays, checkpoint, metadata)
    refused(*RESUME, cwd=folder, how=run_here, says=[f"reference_model/{LAST}", "damaged"])
