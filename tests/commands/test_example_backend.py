"""The example of a third party's backend: installed, found, and tested like the toolkit's own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, TIMEOUT_S, arrays, environment, hide_frameworks, prepare, run_here, succeed

from core.backend.registry import backend_names
from core.conformance import all_checks
from core.tolerance.differences import differences

pytestmark = pytest.mark.turns(3)

EXAMPLE = ROOT / "docs" / "example-backend"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the example, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(EXAMPLE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Its requirements are installed with the tests; nothing is downloaded here.
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([*pip, *offline, str(source)], check=True, timeout=TIMEOUT_S)
    return folder / "site"


def test_it_is_found_through_its_entry_point(installed: Path, tmp_path: Path) -> None:
    hide_frameworks(tmp_path)  # starting each of them takes seconds
    env = {"PYTHONPATH": f"{installed}:{tmp_path}"}
    listed = json.loads(succeed("backends", "--json", cwd=tmp_path, env=env))
    (found,) = [backend for backend in listed if backend["name"] == "autograd"]
    assert (found["devices"], found["error"]) == (["cpu"], None)
    assert "autograd" not in backend_names()


@pytest.mark.timeout(600)
def test_it_passes_the_conformance_suite_as_its_own_tests(installed: Path, tmp_path: Path) -> None:
    # Autograd is slow on large images and on long runs, which have these words in their names.
    slow = ("radiographs", "noise", "number", "unet")
    only = " and ".join(f"not {word}" for word in slow)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        only,
        str(EXAMPLE / "tests"),
    ]
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env=environment(PYTHONPATH=f"{installed}:{ROOT}"),
        capture_output=True,
        encoding="utf-8",
        timeout=5 * TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"(\d+) passed,", done.stdout)
    wanted = [check for check in all_checks() if not any(word in str(check).lower() for word in slow)]
    assert int(passed) == len(wanted) > 350


def test_it_trains_and_is_taken_over(installed: Path, tmp_path: Path) -> None:
    prepare(tmp_path, images=12)
    env = {"PYTHONPATH": str(installed)}
    begin = ["--data", "data.h5", "--config", "network.yaml", "--set", "training.precision=float64"]
    succeed("-f", "autograd", *begin, cwd=tmp_path, env=env)
    succeed("-f", "reference", *begin, cwd=tmp_path, how=run_here)
    apart = differences(arrays(tmp_path / "autograd_model"), arrays(tmp_path / "reference_model"))
    assert 0 < max(apart.values()) < 1e-9
    go_on = ["--data", "data.h5", "--epochs", "4", "--resume"]
    succeed("-f", "reference", *go_on, "autograd_model", "--out", "other", cwd=tmp_path, how=run_here)
    succeed("-f", "reference", *go_on, cwd=tmp_path, how=run_here)
    taken_over, whole = (arrays(tmp_path / name / "reference_model") for name in ("other", "."))
    assert max(differences(taken_over, whole).values()) < 1e-9


def test_the_certificate_holds_for_it(installed: Path, tmp_path: Path) -> None:
    words = ["parity", "-f", "reference", "-f", "autograd", "--config", "demo", "--steps", "3", "--relay"]
    output = succeed(*words, "--batch-size", "2", cwd=tmp_path, env={"PYTHONPATH": str(installed)})
    assert "holds: autograd, reference > autograd, autograd > reference cannot be told" in output
