"""Training and related commands work without the packages for DICOM, phantoms and reports.

These packages and their metadata are hidden from every process. `test_missing_packages` shows for each
command alone which packages it needs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_same_run, prepare, succeed, train
from hidden_packages import hide
from PIL import Image
from selected import BACKENDS

from core.base.packages import DICOM, PHANTOMS, REPORT, SEGMENTATIONS

pytestmark = pytest.mark.turns(3)

HEAVY = {**DICOM, **SEGMENTATIONS, **PHANTOMS, **REPORT, "pylibjpeg": "pylibjpeg"}
AUGMENTED = "training.augmentation={horizontal_flip: 0.5, shift: 0.1, scale: 0.2, rotate: 20, gamma: 0.3}"


def test_what_is_hidden_is_what_is_not_to_be_needed() -> None:
    assert set(HEAVY) == {
        *("cv2", "highdicom", "imagecodecs", "jinja2", "jpeg_ls", "matplotlib"),
        *("openjpeg", "pydicom", "pylibjpeg", "simplejpeg"),
    }


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables that hide the packages."""
    return hide(tmp_path_factory.mktemp("hidden"), HEAVY, HEAVY.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_trains_evaluates_and_conforms(backend: str, tmp_path: Path, light: dict[str, str]) -> None:
    prepare(tmp_path)
    words = ["-f", backend, "--config", "network.yaml", "--data", "data.h5", "--set", AUGMENTED]
    succeed(*words, cwd=tmp_path, env=light)
    with Image.open(tmp_path / f"{backend}_model/predictions.png") as picture:
        colours = np.unique(np.asarray(picture).reshape(-1, 3), axis=0)
    assert len(colours) > 50  # radiographs in grey, and outlines
    assert list((tmp_path / f"{backend}_logs").glob("*tfevents*"))
    succeed("evaluate", "-f", backend, "--data", "data.h5", "--json", "scores.json", cwd=tmp_path, env=light)
    assert json.loads((tmp_path / "scores.json").read_text())["images"] == 5
    output = succeed("conformance", "-f", backend, "--only", "dropout", cwd=tmp_path, env=light)
    assert f"{backend}: " in output


def test_two_backends_are_compared(tmp_path: Path, light: dict[str, str]) -> None:
    prepare(tmp_path)
    words = ["-f", "reference", "-f", BACKENDS[0], "--config", "network.yaml", "--data", "data.h5"]
    output = succeed("parity", *words, "--steps", "3", "--set", AUGMENTED, cwd=tmp_path, env=light)
    assert f"holds: {BACKENDS[0]} cannot be told from reference" in " ".join(output.split())


def test_a_run_is_the_same_as_with_all_packages(tmp_path: Path, light: dict[str, str]) -> None:
    prepare(tmp_path)
    train("--set", AUGMENTED, "--out", "all", cwd=tmp_path)
    train("--set", AUGMENTED, "--out", "few", cwd=tmp_path, env=light)
    assert_same_run(tmp_path / "all/reference_model", tmp_path / "few/reference_model")


@pytest.mark.skipif("jax" not in BACKENDS, reason="JAX is not under test")
def test_an_export_that_wants_a_package_costs_no_training(tmp_path: Path, light: dict[str, str]) -> None:
    """JAX needs flatbuffers for its exports, and does not require it."""
    prepare(tmp_path)
    model = tmp_path / "jax_model"
    words = ["-f", "jax", "--data", "data.h5"]
    succeed(*words, "--config", "network.yaml", "--epochs", "1", cwd=tmp_path, env=light)
    assert (model / "export/model.stablehlo").is_file()
    without = hide(tmp_path / "hidden", [*HEAVY, "flatbuffers"], HEAVY.values())
    output = succeed(*words, "--resume", "--epochs", "2", cwd=tmp_path, env=without)
    assert "No export was written: the export needs flatbuffers" in output
    assert "Run: pip install flatbuffers" in output
    assert not (model / "export").exists()  # it was that of the first epoch
    assert (model / "predictions.png").is_file()
    assert (model / "thresholds.json").is_file()
