"""The main commands end to end on every backend: phantoms, preprocessing, training."""

from __future__ import annotations

import json
import os
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
EPOCHS = 15


# There is one process per core, so more threads would only wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}


def command(program: str, *words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / program), *words],
        cwd=cwd,
        env={**os.environ, **ONE_THREAD},
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


def train(folder: Path, backend: str, *words: str, data: str = "phantoms.h5") -> list[dict[str, Any]]:
    # A resumed run has its configuration from the checkpoint.
    configuration = [] if "--resume" in words else ["--config", "demo"]
    command("run.py", "-f", backend, "--data", data, *configuration, *words, cwd=folder)
    out = folder / (words[words.index("--out") + 1] if "--out" in words else ".")
    records: list[dict[str, Any]] = json.loads((out / f"{backend}_model" / "history.json").read_text())
    return records


@pytest.mark.parametrize("backend", BACKENDS[:2])  # the others start the same run, below
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


DOUBLE = ["--set", "training.precision=float64", "--batch-size", "32", "--seed", "4"]


@pytest.fixture(scope="module")
def reference_run(folder: Path) -> list[dict[str, Any]]:
    """The phantoms at 32x32 in `small.h5`, and four epochs on the reference backend in `by_reference`."""
    found = ["--images", "phantoms/dicom-images-train", "--annotations", "phantoms/train-rle.csv"]
    command("preprocess.py", *found, "--out", "small.h5", "--size", "32", cwd=folder)
    return train(folder, "reference", "--epochs", "4", "--out", "by_reference", *DOUBLE, data="small.h5")


@pytest.fixture(scope="module", params=BACKENDS)
def begun(request: pytest.FixtureRequest, folder: Path, reference_run: list[dict[str, Any]]) -> Path:
    """Train two epochs on a backend."""
    del reference_run
    train(folder, request.param, "--epochs", "2", "--out", "begun", *DOUBLE, data="small.h5")
    return folder / "begun" / f"{request.param}_model"


def losses(records: list[dict[str, Any]]) -> list[float]:
    return [record["loss"] for record in records]


def test_every_backend_begins_the_same_run(begun: Path, reference_run: list[dict[str, Any]]) -> None:
    records = json.loads((begun / "history.json").read_text())
    assert losses(records) == pytest.approx(losses(reference_run[:2]), rel=1e-9)


@pytest.mark.skipif(len(BACKENDS) < 2, reason="moving a checkpoint needs two backends")
@pytest.mark.parametrize("begun", BACKENDS[:1], indirect=True)
def test_another_backend_finishes_what_one_began(
    begun: Path, folder: Path, reference_run: list[dict[str, Any]]
) -> None:
    second = BACKENDS[1]
    words = ["--epochs", "4", "--out", "finished", "--resume", str(begun)]
    finished = train(folder, second, *words, data="small.h5")
    assert losses(finished) == pytest.approx(losses(reference_run), rel=1e-9)
    expected = load_file(folder / "by_reference/reference_model/last.safetensors")
    received = load_file(folder / f"finished/{second}_model/last.safetensors")
    assert received.keys() == expected.keys()
    for name, array in expected.items():
        assert np.linalg.norm(received[name] - array) <= 1e-9 * np.linalg.norm(array), name
