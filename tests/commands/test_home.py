"""Commands work without a home folder and with a user that has only a number, as in many containers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from command_line import environment, prepare, words_of
from selected import BACKENDS, PREDICTORS
from tiny_model import SIZE, radiograph, write_model, write_radiograph

# Make every query of the user database fail.
NOBODY = """
import pwd
def unknown(*_):
    raise KeyError("uid not found: 12345")
pwd.getpwuid = pwd.getpwnam = unknown
"""
USERS = ["LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "MPLCONFIGDIR", "KERAS_HOME", "XDG_CACHE_HOME"]
USERS += ["XDG_CONFIG_HOME", "ORT_DISABLE_TELEMETRY", "CI"]

pytestmark = [
    pytest.mark.turns(3),
    pytest.mark.skipif(os.name == "nt", reason="users and homes as POSIX has them"),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder `here` with inputs of commands, a folder for temporary files, and a user without a name."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NOBODY)
    (tmp_path / "tmp").mkdir()
    here = tmp_path / "here"
    here.mkdir()
    prepare(here, images=12, size=SIZE)
    write_model(here / "model")
    for number in range(2):
        path = here / "images" / f"{number}.dcm"
        write_radiograph(path, number, radiograph(number, 40, 36, bright=number == 0))
    return tmp_path


def run_homeless(place: Path, *words: str, home: str | None = None, program: str = "run.py") -> None:
    """Run a command; assert success, an empty standard error, and no left temporary files or `~`."""
    variables = environment(PYTHONPATH=str(place / "site"), TMPDIR=str(place / "tmp"))
    for name in USERS:
        variables.pop(name, None)
    if home is not None:
        variables["HOME"] = home
    done = subprocess.run(
        words_of(program, *words),
        cwd=place / "here",
        env=variables,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    left = {path.name.split("_")[0] for path in (place / "tmp").iterdir()}
    assert left <= {"torchinductor", ""}  # PyTorch's cache, for all processes; TensorFlow's `__pycache__`
    assert not (place / "here" / "~").exists()


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_backend_predicts_and_reports(place: Path, name: str) -> None:
    folders = [
        "--masks",
        "masks",
        "--overlays",
        "overlays",
        "--dicom-seg",
        "segmentations",
        "--json",
        "j.json",
    ]
    run_homeless(place, "predict", "-f", name, "--model", "model", "--images", "images", *folders)
    run_homeless(
        place,
        *("evaluate", "-f", name, "--model", "model", "--data", "data.h5", "--split", "all"),
        *("--report", "report.html"),
    )
    assert (place / "here" / "report.html").exists()


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_trains(place: Path, name: str) -> None:
    run_homeless(place, "-f", name, "--config", "network.yaml", "--data", "data.h5")
    assert (place / "here" / f"{name}_model" / "best.safetensors").exists()


@pytest.mark.parametrize("home", ["", "{place}/nowhere", "{place}/here/data.h5"])
def test_homes_that_are_none(place: Path, home: str) -> None:
    home = home.format(place=place)
    plot = ["--steps", "2", "--batch-size", "2", "--plot", "plot.png"]
    other = next(name for name in BACKENDS if name != "reference")
    run_homeless(place, "parity", "-f", "reference", "-f", other, *plot, home=home)
    options = ["--images", "images", "--no-annotations", "--out", "out.h5", "--size", "32"]
    run_homeless(place, *options, home=home, program="preprocess.py")


@pytest.mark.parametrize("hides", ["core.py", "data.py"])
def test_modules_in_the_working_folder_are_not_taken(place: Path, hides: str) -> None:
    """Worker processes that read radiographs must find this project."""
    (place / "here" / hides).write_text("raise SystemExit('not this one')\n")
    options = ["--images", "images", "--no-annotations", "--out", "out.h5", "--size", "32"]
    run_homeless(place, *options, program="preprocess.py")
    run_homeless(place, "predict", "-f", "reference", "--model", "model", "--images", "images")
    assert (place / "here" / "submission.csv").exists()


def test_the_list_of_backends(place: Path) -> None:
    """Each backend is probed in a process that must find this project, not a folder of the same name."""
    (place / "here" / "core.py").write_text("raise SystemExit('not this one')\n")
    run_homeless(place, "backends")
