"""The existence head as a user meets it: training, thresholds, scores, predictions, exports, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from command_line import arrays, prepare, refused, run_here, succeed, train
from tiny_model import radiograph, write_radiograph

import pneumoseg
from core.scoring.metrics import auroc

HEAD = ["--set", "network.existence={dropout: 0.2}", "--set", "training.loss.existence=0.5"]
MODEL = "reference_model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data.h5`, the `reference_model` trained with a head, and four radiographs."""
    found = tmp_path_factory.mktemp("existence")
    prepare(found, images=40)
    train("--epochs", "4", *HEAD, cwd=found, how=run_here)
    for number in range(4):
        path = found / "images" / f"{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        write_radiograph(path, number, radiograph(number, 50, 60, number < 2))
    return found


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_training_writes_the_head_and_its_threshold(folder: Path) -> None:
    found = arrays(folder / MODEL)
    assert found["existence/kernel"].shape == (1, 1, 4, 1)
    assert found["existence/bias"].any()
    thresholds = read(folder / MODEL / "thresholds.json")
    assert 0 <= thresholds["existence"] < 1
    exported = json.loads(read(folder / MODEL / "export" / "metadata.json")["thresholds"])
    assert exported == {key: thresholds[key] for key in ("pixel", "area", "score", "existence")}


def test_scores_have_the_heads_auroc_and_tune_finds_the_same_again(folder: Path) -> None:
    before = read(folder / MODEL / "thresholds.json")
    words = ["-f", "reference", "--data", "data.h5"]
    shown = succeed("tune", *words, cwd=folder, how=run_here)
    after = read(folder / MODEL / "thresholds.json")
    assert after.items() >= {key: before[key] for key in ("pixel", "area", "score", "existence")}.items()
    assert f"existence {after['existence']:.6g}" in shown
    report = ["--json", "e.json", "--report", "e.html", "--overwrite"]
    shown = succeed("evaluate", *words, *report, cwd=folder, how=run_here)
    assert "AUROC of the existence head" in shown
    scores = read(folder / "e.json")
    head = np.array([row["existence_probability"] for row in scores["rows"]])
    positive = np.array([row["truth_pixels"] > 0 for row in scores["rows"]])
    assert scores["auroc_head"] == auroc(head, positive)
    page = (folder / "e.html").read_text()
    assert "AUROC, head" in page
    assert "threshold: existence" in page


def test_predictions_have_the_probability_in_every_output(folder: Path) -> None:
    words = ["predict", "-f", "reference", "--images", "images", "--pixel", "0.01", "--score", "0.01"]
    outputs = ["--json", "p.json", "--probabilities", "p.h5", "--overwrite"]
    succeed(*words, *outputs, "--existence", "0", cwd=folder, how=run_here)
    found = read(folder / "p.json")
    probabilities = [image["existence_probability"] for image in found["images"]]
    assert len(set(probabilities)) == 4
    assert all(image["positive"] for image in found["images"])
    with h5py.File(folder / "p.h5") as file:
        np.testing.assert_array_equal(file["existence_0"][:], np.float32(probabilities))
    middle = sorted(probabilities)[2]
    succeed(*words, *outputs, "--existence", f"{middle:.9f}", "--overlays", "o", cwd=folder, how=run_here)
    found = read(folder / "p.json")
    assert found["thresholds"]["existence"] == pytest.approx(middle)
    at_least = [probability >= found["thresholds"]["existence"] for probability in probabilities]
    assert [image["positive"] for image in found["images"]] == at_least
    assert 0 < sum(at_least) < 4
    thresholds = pneumoseg.Thresholds(0.01, 0, 0.01, middle)
    model = pneumoseg.load_model(folder / MODEL, backend="reference", thresholds=thresholds)
    for image in found["images"]:
        one = model.predict(folder / "images" / image["file"])
        assert (one.positive, one.existence_probability) == (
            image["positive"],
            image["existence_probability"],
        )


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_exports_are_checked_in_both_outputs(folder: Path, tmp_path: Path, form: str) -> None:
    words = ["--model", MODEL, "--to", form, "--out", str(tmp_path / "out"), "--white", "255"]
    assert "Checked: read back" in succeed("export", *words, cwd=folder)
    network = json.loads(read(tmp_path / "out" / "metadata.json")["network"])
    assert network["existence"] == {"dropout": 0.2, "source": None}


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]
    says = ["training.loss.existence: the network has no existence head", "network.existence={}"]
    refused(*words, "--set", "training.loss.existence=2", cwd=tmp_path, how=run_here, says=says)
    train(cwd=tmp_path, how=run_here)
    words = ["evaluate", "-f", "reference", "--data", "data.h5"]
    refused(*words, "--existence", "0.5", cwd=tmp_path, how=run_here, says=["has no existence head"])
    both = ["--model", MODEL, str(folder / MODEL)]
    says = ["models with and without the existence head cannot predict together"]
    refused(*words, *both, cwd=tmp_path, how=run_here, says=says)
    shown = succeed(*words, "--json", "e.json", cwd=tmp_path, how=run_here)
    assert "head" not in shown
    assert read(tmp_path / "e.json")["auroc_head"] is None
