"""The main job end to end, as a user types it: phantoms, preprocessing, training, on every backend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from selected import BACKENDS

ROOT = Path(__file__).resolve().parent.parent
RECORD_KEYS = {
    "epoch",
    "loss",
    "dice",
    "dice_all_empty",
    "dice_positive",
    "learning_rate",
    "images_per_second",
}
EPOCHS = 30


def command(program: str, *words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / program), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `phantoms.h5`: 96 phantoms at 64x64, a third of them positive."""
    path = tmp_path_factory.mktemp("chain")
    phantoms = ["--count", "96", "--size", "192", "--positive-fraction", "0.35", "--out", "phantoms"]
    command("preprocess.py", "phantoms", *phantoms, cwd=path)
    found = ["--images", "phantoms/dicom-images-train", "--annotations", "phantoms/train-rle.csv"]
    command("preprocess.py", *found, "--out", "phantoms.h5", "--size", "64", cwd=path)
    return path


def train(folder: Path, backend: str, *words: str) -> list[dict[str, Any]]:
    # A resumed run has its configuration from the checkpoint.
    configuration = [] if "--resume" in words else ["--config", "demo"]
    command("run.py", "-f", backend, "--data", "phantoms.h5", *configuration, *words, cwd=folder)
    out = folder / (words[words.index("--out") + 1] if "--out" in words else ".")
    records: list[dict[str, Any]] = json.loads((out / f"{backend}_model" / "history.json").read_text())
    return records


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_network_learns_to_find_a_pneumothorax(folder: Path, backend: str) -> None:
    records = train(folder, backend, "--epochs", str(EPOCHS), "--batch-size", "8", "--seed", "3")
    assert all(record.keys() >= RECORD_KEYS for record in records)
    assert [record["epoch"] for record in records] == list(range(1, len(records) + 1))
    best = min(records, key=lambda record: float(record["validation_loss"]))
    assert best["dice_positive"] > 0.6
    assert best["dice"] > best["dice_all_empty"]
    model = folder / f"{backend}_model"
    assert (model / "export").is_dir()
    assert list((folder / f"{backend}_logs").glob("*tfevents*"))
    with Image.open(model / "predictions.png") as picture:
        colours = np.asarray(picture).reshape(-1, 3)
    assert {tuple(c) for c in np.unique(colours, axis=0)} >= {(255, 0, 0), (0, 255, 0), (255, 255, 0)}


def first_step(folder: Path, backend: str) -> dict[str, Any]:
    words = ["--epochs", "1", "--batch-size", "96", "--seed", "9", "--out", f"first-{backend}"]
    (record,) = train(folder, backend, *words)
    return record


def test_the_first_step_is_the_same_on_every_backend(folder: Path) -> None:
    losses = [first_step(folder, backend)["loss"] for backend in ["reference", *BACKENDS]]
    for loss in losses[1:]:
        assert loss == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.skipif(len(BACKENDS) < 2, reason="moving a checkpoint needs two backends")
def test_another_backend_finishes_what_one_began(folder: Path) -> None:
    first, second = BACKENDS[:2]
    double = ["--set", "training.precision=float64", "--batch-size", "32", "--seed", "4"]
    whole = train(folder, first, "--epochs", "4", "--out", "whole", *double)
    train(folder, first, "--epochs", "2", "--out", "begun", *double)
    finished = train(folder, second, "--epochs", "4", "--out", "finished", "--resume", f"begun/{first}_model")
    assert [record["loss"] for record in finished] == pytest.approx(
        [record["loss"] for record in whole], rel=1e-9
    )
    expected = load_file(folder / f"whole/{first}_model/last.safetensors")
    received = load_file(folder / f"finished/{second}_model/last.safetensors")
    assert received.keys() == expected.keys()
    for name, array in expected.items():
        assert np.linalg.norm(received[name] - array) <= 1e-9 * np.linalg.norm(array), name
