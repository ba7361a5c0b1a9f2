"""Outputs that exist are refused, and replaced with --overwrite."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import content, refused, run_here, succeed

MODEL = "reference_model"
PREDICT = ("predict", "--images", "images", "-j", "1")
EVALUATE = ("run.py", "evaluate", "-f", "reference", "--data", "data.h5", "--split", "all")
CONFORMANCE = ("run.py", "conformance", "-f", "reference", "--only", "kernel 1, stride 1")
PARITY = ("run.py", "parity", "-f", "numpy", "-f", "torch", "--steps", "1", "--batch-size", "2")
PREPROCESS = ("preprocess.py", "--images", "images", "--annotations", "truth.csv", "--size", "16", "-j", "1")
REPORTS: dict[str, tuple[str, ...]] = {
    "predict --out": ("run.py", *PREDICT, "-f", "reference", "--out"),
    "predict --json": ("run.py", *PREDICT, "-f", "reference", "--json"),
    "predict --probabilities": ("run.py", *PREDICT, "-f", "reference", "--probabilities"),
    "score --json": ("run.py", "score", "sent.csv", "--annotations", "truth.csv", "--json"),
    "check --json": ("run.py", "check", "sent.csv", "--size", "40", "--json"),
    "evaluate --json": (*EVALUATE, "--json"),
    "evaluate --report": (*EVALUATE, "--report"),
    "conformance --json": (*CONFORMANCE, "--json"),
    "conformance --markdown": (*CONFORMANCE, "--markdown"),
    "parity --json": (*PARITY, "--json"),
    "parity --plot": (*PARITY, "--plot"),
    "preprocess --out": (*PREPROCESS, "--out"),
    "preprocess --report": (*PREPROCESS, "--out", "fresh.h5", "--report"),
    "export --out": ("run.py", "export", "--model", MODEL, "--to", "onnx", "--out"),
}
FOLDERS: dict[str, tuple[str, ...]] = {
    "predict --masks": ("run.py", *PREDICT, "-f", "reference", "--masks"),
    "predict --overlays": ("run.py", *PREDICT, "-f", "reference", "--overlays"),
    "verify --overlays": ("preprocess.py", "verify", "data.h5", "--count", "2", "--overlays"),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_file_is_refused_and_replaced_when_asked(place: Path, name: str) -> None:
    program, *words = REPORTS[name]
    path = place / ("mine.png" if name == "parity --plot" else "mine.onnx" if "export" in name else "mine")
    path.write_text("dear\n")
    refused(
        *words,
        path.name,
        cwd=place,
        program=program,
        how=run_here,
        says=[f"{name.split()[1]} {path.name} exists already", "--overwrite"],
    )
    succeed(*words, path.name, "--overwrite", cwd=place, program=program, how=run_here)
    assert path.read_bytes() != b"dear\n"
    for left in ("fresh.h5", "submission.csv"):
        (place / left).unlink(missing_ok=True)
    path.write_text("")  # an empty file, as mktemp makes it
    succeed(*words, path.name, cwd=place, program=program, how=run_here)
    assert path.stat().st_size > 0


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_refused_and_replaced_when_asked(place: Path, name: str) -> None:
    program, *words = FOLDERS[name]
    (place / "mine").mkdir()
    succeed(*words, "mine", cwd=place, program=program, how=run_here)
    made = content(place / "mine")
    assert len(made) >= 2
    (place / "mine" / "old.png").write_bytes(b"an earlier picture")
    (place / "submission.csv").unlink(missing_ok=True)
    says = [f"{name.split()[1]} mine is not empty", "--overwrite"]
    refused(*words, "mine", cwd=place, program=program, how=run_here, says=says)
    succeed(*words, "mine", "--overwrite", cwd=place, program=program, how=run_here)
    assert content(place / "mine") == made
    (place / "mine" / "letter.txt").write_text("dear\n")
    says = ["mine holds other things than .png files: letter.txt"]
    refused(*words, "mine", "--overwrite", cwd=place, program=program, how=run_here, says=says)
