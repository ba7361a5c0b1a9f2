"""Training sends a GPU the bytes of a data file, and computes what it computes from numbers.

The GPU is one of a backend made here: the reference, which says that it has one and writes down what it gets.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import NETWORK, assert_same_run, install_backend, succeed, train, write_data

PACKAGE = """
from pathlib import Path
from core.backend.contract import Backend
from backends.reference.model import ReferenceModel

backend = Backend("card", "Card", None, ("numpy",), "-", "card_package")


class CardModel(ReferenceModel):
    def _forward(self, images, keep=None):
        with Path("received.txt").open("a") as file:
            print(images.dtype, file=file)
        return super()._forward(images, keep)


def list_devices():
    return ["cpu", "gpu:0"]


def compile(plan, rules, device, precision):
    return CardModel(plan, rules, precision)
"""


@pytest.fixture
def card(tmp_path: Path) -> dict[str, str]:
    """The environment in which the backend `card` is found; `bytes.h5` and `network.yaml` are written."""
    (tmp_path / "network.yaml").write_text(NETWORK)
    write_data(tmp_path / "bytes.h5", 24, 32, 0, storage="uint8")
    return install_backend(tmp_path / "site", "card", PACKAGE)


def received(folder: Path) -> set[str]:
    """Return the types of the images that the backend got, and forget them."""
    found = set((folder / "received.txt").read_text().split())
    (folder / "received.txt").unlink()
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_gpu_gets_bytes_and_trains_to_the_bits_of_the_cpu(
    tmp_path: Path, card: dict[str, str], workers: str
) -> None:
    shards = ["--set", "training.shards=4", "-j", workers, "-q"]
    given = ["-f", "card", "--config", "network.yaml", "--data", "bytes.h5", *shards]
    succeed(*given, "--device", "gpu:0", "--out", "gpu", cwd=tmp_path, env=card)
    assert "uint8" in received(tmp_path)  # evaluation after training, and tuning, send numbers
    succeed(*given, "--device", "cpu", "--out", "cpu", cwd=tmp_path, env=card)
    assert received(tmp_path) == {"float32"}
    assert_same_run(tmp_path / "gpu" / "card_model", tmp_path / "cpu" / "card_model")
    train("--data", "bytes.h5", *shards[:2], "--out", "plain", "-q", cwd=tmp_path)
    assert_same_run(tmp_path / "gpu" / "card_model", tmp_path / "plain" / "reference_model")


def test_augmented_images_are_numbers(tmp_path: Path, card: dict[str, str]) -> None:
    given = ["-f", "card", "--config", "network.yaml", "--data", "bytes.h5", "--device", "gpu", "-q"]
    flips = ["--set", "training.augmentation.horizontal_flip=0.5", "--set", "training.validation_fraction=0"]
    succeed(*given, *flips, "--epochs", "1", cwd=tmp_path, env=card)
    assert received(tmp_path) == {"float32", "uint8"}  # of training, and of scoring
