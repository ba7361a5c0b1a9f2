"""`run.py backends` lists every backend with version and devices, and imports none."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest
from command_line import imported, run, run_here, succeed

from core.backend import availability
from core.backend.registry import backend_names, find_backend

KEYS = {"name", "title", "installed", "version", "devices", "install", "error"}
FRAMEWORKS = {
    "jax": "jax",
    "mxnet": "mxnet",
    "onnx": "onnxruntime",
    "reference": "numpy",
    "tf": "tensorflow",
    "torch": "torch",
}


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(FRAMEWORKS[name]) is not None


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The output of the command; it runs once, since it starts every framework."""
    folder = tmp_path_factory.mktemp("backends")
    done = run("backends", "--json", cwd=folder, before=["-X", "importtime"])
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return done


def test_the_json_says_what_is_true_here_and_no_framework_is_imported(
    done: subprocess.CompletedProcess[str],
) -> None:
    entries = json.loads(done.stdout)
    assert [entry["name"] for entry in entries] == backend_names()
    assert {entry["name"] for entry in entries} >= FRAMEWORKS.keys()
    for entry in entries:
        assert entry.keys() == KEYS
        backend = find_backend(entry["name"])
        assert (entry["title"], entry["install"]) == (backend.title, backend.install)
        assert entry["install"].startswith("pip install ")
        assert entry["installed"] == is_installed(entry["name"])
        if not entry["installed"]:
            assert (entry["devices"], entry["error"]) == ([], "not installed")
            continue
        assert (entry["version"], entry["error"]) == (backend.version(), None)
        assert entry["version"][0].isdigit()
        assert entry["devices"][0] == "cpu"
        assert all(device.startswith("gpu:") for device in entry["devices"][1:])
    modules = imported(done.stderr)
    assert "core" in modules, "the trace of imports could not be read"
    assert not modules & ({*FRAMEWORKS.values(), "keras", "cv2", "h5py", "pydicom"} - {"numpy"})


def test_the_table_has_a_line_for_each_backend(
    done: subprocess.CompletedProcess[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table shows what the JSON has."""
    found = [availability.Probe(**entry) for entry in json.loads(done.stdout)]
    monkeypatch.setattr(availability, "probe_all", lambda: found)
    monkeypatch.setenv("COLUMNS", "160")
    table = succeed("backends", cwd=tmp_path, how=run_here).splitlines()
    for name in backend_names():
        backend = find_backend(name)
        (line,) = (line for line in table if line.startswith(f"│ {name} "))
        _, title, version, devices, state = (cell.strip() for cell in line.strip("│").split("│"))
        assert title == backend.title
        command = f"install {name}: {backend.install}"
        if is_installed(name):
            assert (version, state) == (backend.version(), "ready")
            assert devices.split(", ")[0] == "cpu"
            assert command not in table
        else:
            assert (devices, state) == ("-", "not installed")
            assert command in table
