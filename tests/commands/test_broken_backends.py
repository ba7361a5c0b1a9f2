"""A backend that cannot be used gives the reason and the command that installs it; the others still work.

Backends come from a distribution made here, and frameworks are hidden, not uninstalled. Most commands run in
this process; the most important ones run as programs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import assert_same_run, hide_frameworks, hideable, refused, run, run_here, succeed, train

from core.backend.registry import backend_names

# Each text is a whole package of a third party; its entry point is `NAME = NAME_package:backend`.
DESCRIPTOR = "from core.backend.contract import Backend\nbackend = Backend({})\n"
NOT_INSTALLED = DESCRIPTOR.format(
    "'absent', 'Nowhere Framework', 'nowhere_framework', ('nowhere',), 'pip install nowhere', 'no.model'"
)
PACKAGES = {
    "absent": NOT_INSTALLED,
    "nameless": "number = 3\n",
    "mistyped": "backend = 'a string'\n",
    "needy": "import a_library_that_it_forgot\n",
    "twin": DESCRIPTOR.format(
        "'twin', 'Twin of NumPy', None, ('numpy',), 'pip install numpy', 'backends.reference.model'"
    ),
}
WORSE = {
    "nested": NOT_INSTALLED.replace("nowhere_framework", "nowhere.framework"),
    "angry": "raise RuntimeError('not on this machine')\n",
    "mangled": "def (\n",
}


def install(folder: Path, packages: dict[str, str]) -> dict[str, str]:
    """Write a distribution with these backends; return the environment in which it is found."""
    information = folder / "others-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    entries = "".join(f"{name} = {name}_package:backend\n" for name in packages)
    (information / "entry_points.txt").write_text(f"[pneumoseg.backends]\n{entries}")
    for name, code in packages.items():
        (folder / f"{name}_package.py").write_text(code)
    hide_frameworks(folder)
    return {"PYTHONPATH": str(folder)}


def run_beside(*words: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one command in this process, in the environment of `install`."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for name in hideable():
            patch.setitem(sys.modules, name, None)
        patch.setenv("PYTHONPATH", env["PYTHONPATH"])
        patch.syspath_prepend(env["PYTHONPATH"])
        done = run_here(*words, cwd=cwd)
    for name in set(sys.modules) - before:
        if name.endswith(("_package", "_framework")):
            del sys.modules[name]
    return done


@pytest.fixture
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment with `PACKAGES` and without any framework."""
    return install(tmp_path_factory.mktemp("others"), PACKAGES)


@pytest.mark.parametrize(
    ("name", "title", "command"),
    [
        ("tf", "TensorFlow", "Run: pip install -e '.[tf]' -c constraints.txt"),
        (
            "mxnet",
            "Apache MXNet",
            "Run: pip install -e '.[mxnet]' -c constraints.txt && pip install --no-deps mxnet==1.9.1",
        ),
        ("absent", "Nowhere Framework", "Run: pip install nowhere"),
    ],
)
def test_a_framework_that_is_not_installed_is_answered_with_the_command_that_installs_it(
    folder: Path, others: dict[str, str], name: str, title: str, command: str
) -> None:
    says = [f"backend '{name}' needs {title}, which is not installed"]
    how = run if name == "tf" else run_beside
    message = refused("-f", name, "--data", "data.h5", cwd=folder, how=how, env=others, says=says)
    assert message.splitlines()[1:] == [command]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nameless", "has no attribute 'backend'"),
        ("mistyped", "not a core.backend.contract.Backend"),
        ("needy", "a_library_that_it_forgot"),
    ],
)
def test_a_broken_backend_says_what_is_broken(
    folder: Path, others: dict[str, str], name: str, says: str
) -> None:
    wanted = [f"backend '{name}' is broken: {name}_package:backend", says]
    refused("-f", name, "--data", "data.h5", cwd=folder, how=run_beside, env=others, says=wanted)


def listed(cwd: Path, env: dict[str, str], how: Any = run_beside) -> dict[str, dict[str, Any]]:
    said = succeed("backends", "--json", cwd=cwd, how=how, env=env)
    return {entry["name"]: entry for entry in json.loads(said)}


def test_broken_backends_stand_in_no_others_way(folder: Path, others: dict[str, str]) -> None:
    found = listed(folder, others, how=run)
    assert found.keys() == {*PACKAGES, *backend_names()} > {"mxnet", "reference", "tf"}
    usable = {name for name, entry in found.items() if entry["error"] is None}
    assert usable == {"reference", "twin"}
    assert [found[name]["devices"] for name in sorted(usable)] == [["cpu"], ["cpu"]]
    for name in found.keys() - usable:
        assert (found[name]["installed"], found[name]["devices"]) == (False, []), name
    assert "a_library_that_it_forgot" in found["needy"]["error"]
    table = succeed("backends", cwd=folder, env=others)
    for name, entry in found.items():
        (line,) = (line for line in table.splitlines() if line.startswith(f"│ {name} "))
        assert ("ready" in line) == (name in usable)
        if entry["error"] == "not installed":
            assert f"install {name}: {entry['install']}" in table
    train(cwd=folder, how=run_beside, env=others)


def test_a_third_partys_backend_trains_like_the_own_ones(folder: Path, others: dict[str, str]) -> None:
    train(cwd=folder, how=run_here)
    words = ["--data", "data.h5", "--config", "network.yaml"]
    shown = succeed("-f", "twin", *words, cwd=folder, env=others)
    assert "backend: Twin of NumPy " in shown
    assert list((folder / "twin_logs").iterdir())
    assert_same_run(folder / "reference_model", folder / "twin_model")


@pytest.mark.parametrize("name", WORSE)
def test_what_else_may_be_wrong_with_a_backend(folder: Path, tmp_path: Path, name: str) -> None:
    env = install(tmp_path / "others", {name: WORSE[name]})
    says = [f"backend '{name}'"]
    refused("-f", name, "--data", "data.h5", cwd=folder, how=run_beside, env=env, says=says)
    found = listed(folder, env)
    assert found[name]["error"]
    assert found["reference"]["error"] is None


LIBRARY = "raise OSError('libthing.so.1: cannot open shared object file [/usr/lib]')\n"


@pytest.fixture
def unloadable(tmp_path: Path) -> dict[str, str]:
    """A framework that is installed and fails to import."""
    descriptor = DESCRIPTOR.format(
        "'heavy', 'Heavy', 'heavy_framework', ('heavy',), 'pip install heavy', 'heavy_framework'"
    )
    env = install(tmp_path / "others", {"heavy": descriptor})
    (tmp_path / "others" / "heavy_framework.py").write_text(LIBRARY)
    return env


def test_a_framework_that_cannot_be_loaded_is_an_error(folder: Path, unloadable: dict[str, str]) -> None:
    words = ["-f", "heavy", "--data", "data.h5", "--config", "network.yaml"]
    says = ["'heavy'", "libthing.so.1", "pip install heavy"]
    refused(*words, cwd=folder, how=run_beside, env=unloadable, says=says)


def test_a_framework_that_cannot_be_loaded_is_listed(folder: Path, unloadable: dict[str, str]) -> None:
    found = listed(folder, unloadable)
    assert (found["heavy"]["installed"], found["heavy"]["devices"]) == (True, [])
    assert "libthing.so.1" in found["heavy"]["error"]
    assert found["reference"]["error"] is None


def test_the_table_shows_a_message_as_it_is(folder: Path, unloadable: dict[str, str]) -> None:
    said = succeed("backends", cwd=folder, how=run_beside, env=unloadable)
    assert "[/usr/lib]" in said
    assert "│ reference " in said
