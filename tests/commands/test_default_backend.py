"""The backend and the model of a command: aliases of -f, and the choice where it is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import assert_one_error, hide_frameworks, refused, run, run_here, succeed, train

from core.backend.registry import find_backend

MODEL = "reference_model"
PREDICT = ("predict", "--images", "images", "-j", "1")


@pytest.mark.parametrize(
    ("word", "name"),
    [
        *(
            ("tensorflow", "tf"),
            ("TensorFlow", "tf"),
            ("tensorflow-cpu", "tf"),
            ("keras", "tf"),
            ("TF", "tf"),
        ),
        *(("pytorch", "torch"), ("PyTorch", "torch"), ("Torch", "torch"), ("numpy", "reference")),
        *(("NumPy", "reference"), ("np", "reference"), ("onnxruntime", "onnx"), ("ONNX Runtime", "onnx")),
        *(("onnxruntime-gpu", "onnx"), ("ort", "onnx"), ("apache-mxnet", "mxnet"), ("mx", "mxnet")),
        ("JAX", "jax"),
    ],
)
def test_usual_names_are_understood(word: str, name: str) -> None:
    assert find_backend(word).name == name


def test_a_usual_name_names_the_folders(folder: Path) -> None:
    words = ["--data", "data.h5", "--config", "network.yaml", "--epochs", "1"]
    succeed("-f", "numpy", *words, cwd=folder, how=run_here)
    assert (folder / MODEL).is_dir()
    assert (folder / "reference_logs").is_dir()
    assert not list(folder.glob("numpy*"))


@pytest.mark.parametrize(
    ("word", "meant"),
    [("tensorfow", "tf"), ("pytroch", "torch"), ("nunpy", "reference"), ("onxruntime", "onnx")],
)
def test_a_usual_name_mistyped_gets_the_right_guess(tmp_path: Path, word: str, meant: str) -> None:
    says = [f"unknown backend '{word}'; did you mean '{meant}'?"]
    refused("-f", word, cwd=tmp_path, how=run_here, says=says)


def remark(name: str) -> str:
    backend = find_backend(name)
    return f"backend: {name} ({backend.title} {backend.version()}), since -f was not given"


def test_onnx_runtime_is_taken_first_and_said(place: Path) -> None:
    said = succeed(*PREDICT, "--json", "a.json", cwd=place)
    assert said.splitlines()[0] == remark("onnx")
    answers = json.loads((place / "a.json").read_text())
    assert (answers["model"]["framework"], len(answers["images"])) == ("onnx", 3)
    succeed(*PREDICT, "-f", "reference", "--out", "other.csv", cwd=place, how=run_here)
    assert (place / "other.csv").read_bytes() == (place / "submission.csv").read_bytes()
    done = run(*PREDICT, "-o", "-", cwd=place)
    assert remark("onnx") in done.stderr
    assert done.stdout == (place / "other.csv").read_text()


def test_what_is_not_installed_is_not_taken(place: Path) -> None:
    hide_frameworks(place)
    environment = {"PYTHONPATH": str(place)}
    evaluate = ("evaluate", "--data", "data.h5", "--split", "all")
    for words in (PREDICT, evaluate):
        assert remark("reference") in succeed(*words, cwd=place, env=environment).splitlines()


def test_a_model_in_float64_is_left_to_a_backend_that_has_it(folder: Path) -> None:
    train("--precision", "float64", cwd=folder, how=run_here)
    hide_frameworks(folder, "onnxruntime", "onnx")
    environment = {"PYTHONPATH": str(folder)}
    said = succeed("tune", "--data", "data.h5", cwd=folder, env=environment)
    assert remark("reference") in said.splitlines()


def test_evaluate_and_tune_say_what_they_took(folder: Path) -> None:
    train("-q", cwd=folder, how=run_here)
    for name in ("evaluate", "tune"):
        assert remark("onnx") in succeed(name, "--data", "data.h5", cwd=folder).splitlines()


def test_export_says_what_it_took(place: Path) -> None:
    said = succeed("export", "--model", MODEL, "--to", "onnx", "-o", "out", cwd=place, how=run_here)
    assert said.splitlines()[0] == remark("onnx")
    assert (place / "out" / "model.onnx").is_file()


def test_the_only_model_is_taken_and_several_are_not(place: Path) -> None:
    shutil.copytree(place / MODEL, place / "mxnet_model")
    says = ["several models: mxnet_model, reference_model", "--model"]
    refused(*PREDICT, cwd=place, how=run_here, says=says)
    refused(*PREDICT, "-f", "onnx", cwd=place, how=run_here, says=says)
    shutil.rmtree(place / MODEL)
    said = succeed(*PREDICT, "-f", "onnx", cwd=place, how=run_here)
    assert said.startswith("mxnet_model/best.safetensors on ONNX Runtime")
    shutil.rmtree(place / "mxnet_model")
    refused(*PREDICT, cwd=place, how=run_here, says=["no folder of a model", "--model"])


def test_a_device_that_no_backend_has_is_one_error(place: Path) -> None:
    hide_frameworks(place)
    done = run(*PREDICT, "--device", "gpu:63", cwd=place, env={"PYTHONPATH": str(place)})
    assert_one_error(
        done, "no installed backend", "'gpu:63'", "reference: --device gpu:63: NumPy sees no such"
    )
