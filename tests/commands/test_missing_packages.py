"""Packages that are not installed: a command that needs one names it; other commands work.

This file lists the packages that each command needs. The command must work while all other packages of the
toolkit and their metadata are hidden. If one that it needs is hidden, it must end with the line that installs
it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import COMMANDS, ROOT, assert_one_error, environment, prepare, run
from hidden_packages import hide
from selected import BACKENDS
from tiny_model import radiograph, write_model, write_radiograph

from core.experiment.checkpoint import DataFacts, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.turns(3)

PACKAGES = {
    "cv2": "opencv-python-headless",
    "h5py": "h5py",
    "highdicom": "highdicom",
    "imagecodecs": "imagecodecs",
    "jinja2": "Jinja2",
    "jpeg_ls": "pyjpegls",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "openjpeg": "pylibjpeg-openjpeg",
    "PIL": "pillow",
    "pydantic": "pydantic",
    "pydicom": "pydicom",
    "pylibjpeg": "pylibjpeg",
    "rich": "rich",
    "safetensors": "safetensors",
    "simplejpeg": "simplejpeg",
    "tensorboardX": "tensorboardX",
    "xxhash": "xxhash",
    "yaml": "PyYAML",
}
"""The package of each module, for all requirements in setup.py."""

OTHER = next(name for name in ("torch", *BACKENDS) if name in BACKENDS)
MODEL = {"numpy", "rich", "pydantic", "yaml", "safetensors", "PIL"}
STORE = {"numpy", "rich", "h5py"}
SCORED = MODEL | STORE
DICOM = {"numpy", "pydicom", "simplejpeg"}

NEEDS: dict[str, tuple[str, set[str]]] = {
    "train": (
        "run.py -f reference --config network.yaml --data data.h5 --epochs 1 --out trained",
        SCORED | {"tensorboardX"},
    ),
    "tune": ("run.py tune -f reference --model model --data data.h5", SCORED),
    "evaluate": ("run.py evaluate -f reference --model model --data data.h5", SCORED),
    "report": (
        "run.py evaluate -f reference --model model --data data.h5 --report report.html",
        SCORED | {"jinja2", "matplotlib"},
    ),
    "conformance": ("run.py conformance -f reference --only dropout", MODEL - {"PIL", "safetensors"}),
    "parity": (f"run.py parity -f reference -f {OTHER} --config network.yaml --steps 2", SCORED),
    "plot": (
        f"run.py parity -f reference -f {OTHER} --config network.yaml --steps 2 --plot plot.svg",
        SCORED | {"matplotlib"},
    ),
    "predict": (
        "run.py predict -f reference --model model --images images --out new.csv --overlays overlays "
        "--json new.json --probabilities new.h5",
        SCORED | DICOM,
    ),
    "segmentations": (
        "run.py predict -f reference --model model --images images --out other.csv --dicom-seg objects",
        SCORED | DICOM | {"highdicom"},
    ),
    "score": ("run.py score table.csv --annotations table.csv", {"numpy", "rich"}),
    "check": ("run.py check table.csv --size 40", {"numpy", "rich"}),
    "check of images": ("run.py check table.csv --images images", {"rich"} | DICOM),
    "preprocess": (
        "preprocess.py --images images --no-annotations --out made.h5 --size 32",
        {"rich", "h5py", "xxhash"} | DICOM,
    ),
    "phantoms": (
        "preprocess.py phantoms --out drawn --count 2 --size 64",
        {"numpy", "rich", "PIL", "pydicom", "cv2"},
    ),
    "verify": ("preprocess.py verify data.h5", STORE),
}

# Run command lines one after another in one process; print the standard error of each.
_ALL = """
import contextlib, io, json, sys
sys.path.insert(0, {root!r})
from core.commands import main
found = {{}}
for name, (program, *words) in json.loads(sys.argv[1]).items():
    told = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        status = main(program, "", {commands!r}[program], words)
    found[name] = [status, told.getvalue()]
print(json.dumps(found))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the inputs of all commands."""
    folder = tmp_path / "work"
    folder.mkdir()
    prepare(folder, images=9)
    write_model(folder / "model")
    best = folder / "model/best.safetensors"
    facts = DataFacts(9, 3, 32, 32)  # as if it had been trained on `data.h5`, of which some is held out
    save_checkpoint(best, dataclasses.replace(load_checkpoint(best), data=facts))
    for number in range(3):
        pixels = radiograph(number, 40, 40, bright=number == 1)
        write_radiograph(folder / "images" / f"image-{number}.dcm", number, pixels)
    return folder


def write_table(folder: Path) -> None:
    """The inputs of `check` and `score`."""
    rows = ["ImageId,EncodedPixels", "image-0,-1", "image-1,5 7 100 3", "image-2,-1"]
    (folder / "table.csv").write_text("\n".join([*rows, ""]))


@pytest.mark.parametrize("name", NEEDS)
def test_a_command_works_with_what_it_needs_alone(name: str, place: Path) -> None:
    write_table(place)
    line, needs = NEEDS[name]
    hidden = [module for module in PACKAGES if module not in needs]
    env = hide(place.parent / "hidden", hidden, [PACKAGES[module] for module in hidden])
    program, *words = line.split()
    done = run(*words, cwd=place, program=program, env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("module", PACKAGES)
def test_a_package_that_is_missing_is_named(module: str, place: Path) -> None:
    write_table(place)
    before = sorted(place.rglob("*"))
    lines = {name: line.split() for name, (line, needs) in NEEDS.items() if module in needs}
    package = PACKAGES[module]
    env = hide(place.parent / "hidden", [module], [package])
    code = _ALL.format(root=str(ROOT), commands=COMMANDS)
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)],
        cwd=place,
        env=environment(**env),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name, (status, told) in json.loads(done.stdout).items():
        assert_one_error(subprocess.CompletedProcess(name, status, "", told), package, "is not installed")
        assert told.endswith(f"Run: pip install {package}\n"), name
    assert sorted(place.rglob("*")) == before


def test_all_that_is_missing_for_a_use_is_installed_by_one_line(place: Path) -> None:
    modules = ["pydicom", "simplejpeg", "openjpeg", "jinja2", "matplotlib", "cv2"]
    env = hide(place.parent / "hidden", modules, [PACKAGES[module] for module in modules])
    for name, packages in (
        ("preprocess", {"pydicom", "simplejpeg", "pylibjpeg-openjpeg"}),
        ("report", {"Jinja2", "matplotlib"}),
        ("phantoms", {"opencv-python-headless", "pydicom"}),
    ):
        program, *words = NEEDS[name][0].split()
        done = run(*words, cwd=place, program=program, env=env)
        assert_one_error(done, "Run: pip install ")
        assert set(done.stderr.rpartition("pip install ")[2].split()) == packages


def test_a_module_of_ours_that_is_missing_stays_a_traceback(place: Path) -> None:
    env = hide(place.parent / "hidden", ["data"])
    program, *words = NEEDS["verify"][0].split()
    done = run(*words, cwd=place, program=program, env=env)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "No module named 'data'" in done.stderr
