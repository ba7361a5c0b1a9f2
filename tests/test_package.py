"""The wheel and the source distribution: their files, and that they work without a checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from selected import PREDICTORS

import pneumoseg
from core.base.programs import INSTALLED

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("backends", "configs", "core", "data", "pneumoseg")
MODULES = ("preprocess.py", "run.py")
GENERATED = {"PKG-INFO", "setup.cfg", "pneumoseg.egg-info/SOURCES.txt"}  # of a source distribution
DOCUMENTS = ("LICENSE", "NOTICE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff")
UNTRACKED = {".git", ".venv", "__pycache__", "build", "dist", "demo"}  # of a copy that git does not know
PREDICTOR = "onnx" if "onnx" in PREDICTORS else PREDICTORS[0]


def files_of_checkout() -> list[str]:
    """Return the files that git tracks or would track; in a source distribution, all files."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    kept = [path.as_posix() for path in found if not any(part in UNTRACKED for part in path.parts)]
    return sorted(name for name in kept if name not in GENERATED and ".egg-info" not in name)


def without_checkout(**changes: str) -> dict[str, str]:
    unwanted = {"PYTHONPATH", "FORCE_COLOR", "PNEUMOSEG_PROGRAM"}
    return {**{key: value for key, value in os.environ.items() if key not in unwanted}, **changes}


def done(words: list[str], cwd: Path, **changes: str) -> str:
    """Run a program that must succeed; return its output."""
    ended = subprocess.run(
        words,
        cwd=cwd,
        env=without_checkout(COLUMNS="160", PYTHONIOENCODING="utf-8", **changes),
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built of a copy of the checkout, offline.

    The wheel is built of the source distribution, which so has all that building needs.
    """
    folder = tmp_path_factory.mktemp("package")
    for name in files_of_checkout():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    where = os.environ.get("PYTHONPATH", "")  # of the package `build`, where it is not installed
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), "source"]
    done(words, folder, PIP_NO_INDEX="1", PYTHONPATH=where)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with only the wheel's content."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-compile", "--target", str(folder)]
    done([*pip, *offline, str(wheel)], folder)
    return folder


@pytest.fixture(scope="module")
def place(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with phantoms, a data file and a model, all made by the installed command.

    It also holds what could be taken for the toolkit's own modules.
    """
    folder = tmp_path_factory.mktemp("place")
    (folder / "core.py").write_text("raise SystemExit('not this one')\n")
    (folder / "configs").mkdir()
    (folder / "data").mkdir()
    pneumoseg_command(site, folder, "phantoms", "--out", "demo", "--count", "12", "--size", "100")
    options = ["--annotations", "demo/train-rle.csv", "--size", "32", "--workers", "1"]
    pneumoseg_command(site, folder, "preprocess", "--images", "demo/dicom-images-train", *options)
    settings = ["--config", "demo", "--epochs", "1", "--batch-size", "5"]
    pneumoseg_command(site, folder, "train", "-f", "reference", *settings)
    return folder


def pneumoseg_command(site: Path, folder: Path, *words: str) -> str:
    return done([sys.executable, "-m", "pneumoseg", *words], folder, PYTHONPATH=str(site))


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if not name.endswith("/")}
    about = f"pneumoseg-{pneumoseg.__version__}.dist-info"
    own = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
    expected = {f"{about}/{name}" for name in own | {"licenses/LICENSE", "licenses/NOTICE"}}
    expected |= {name for name in files_of_checkout() if name.split("/")[0] in PACKAGES or name in MODULES}
    # The place of licences in the metadata depends on setuptools; older versions have no folder for them.
    assert {name.replace("/licenses/", "/") for name in found} == {
        name.replace("/licenses/", "/") for name in expected
    }
    for name in ("configs/siim.yaml", "core/report/templates/report.html", "pneumoseg/py.typed"):
        assert name in found


def test_the_source_distribution_holds_what_git_tracks(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        found = {
            member.name.partition("/")[2]: member.mode for member in packed.getmembers() if member.isfile()
        }
    generated = {name for name in found if name in GENERATED or name.startswith("pneumoseg.egg-info/")}
    assert found.keys() - generated == set(files_of_checkout())
    assert generated >= {"PKG-INFO"}
    for name in (".ci/environment", "Makefile", "tests/data/corpus/links.h5", *DOCUMENTS):
        assert name in found


def test_what_an_index_would_show(wheel: Path) -> None:
    shown = metadata(wheel)
    assert (shown["Name"], shown["Version"]) == ("pneumoseg", pneumoseg.__version__)
    assert "Apache-2.0" in (shown["License"], shown["License-Expression"])
    assert shown["Author"] == "The pneumoseg developers"
    assert shown.get_payload().startswith("# pneumoseg")  # type: ignore[union-attr]
    assert {"tf", "mxnet", "torch", "jax", "onnx", "test"} <= set(shown.get_all("Provides-Extra", []))
    assert any(name.startswith("numpy") for name in shown.get_all("Requires-Dist", []))
    assert not any("://" in value for key, value in shown.items() if key in ("Home-page", "Project-URL"))


def test_the_version_is_the_same_everywhere(wheel: Path) -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert versions[0] == (pneumoseg.__version__, citation["date-released"])
    assert citation["version"] == metadata(wheel)["Version"] == pneumoseg.__version__
    numbers = [tuple(map(int, version.split("."))) for version, _ in versions]
    assert numbers == sorted(numbers, reverse=True)
    assert [date for _, date in versions] == sorted((date for _, date in versions), reverse=True)
    literal = re.compile(rf"[\"']{re.escape(pneumoseg.__version__)}[\"']")
    sources = [
        name for name in files_of_checkout() if name.endswith((".py", ".toml")) and "tests" not in name
    ]
    assert [name for name in sources if literal.search((ROOT / name).read_text())] == [
        "pneumoseg/__init__.py"
    ]


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text()


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    kinds = re.findall(r"^### (.+)$", changelog(), re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert re.findall(r"^## (.+)$", changelog(), re.MULTILINE)[0] == "[Unreleased]"


def test_the_citation_is_valid() -> None:
    """CITATION.cff follows the Citation File Format 1.2.0: keys, types and forms."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    required = {"authors", "cff-version", "message", "title"}
    optional = {"abstract", "date-released", "keywords", "license", "type", "version"}
    assert required <= citation.keys() <= required | optional
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("dataset", "software")
    assert citation["license"] == "Apache-2.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", citation["date-released"])
    for key in ("message", "title", "abstract", "version"):
        assert isinstance(citation[key], str)
        assert citation[key]
    assert citation["authors"] == [{"name": "The pneumoseg developers"}]
    keywords = citation["keywords"]
    assert all(isinstance(word, str) for word in keywords)
    assert len(set(keywords)) == len(keywords) > 0


def test_the_documents_of_the_project() -> None:
    licence = (ROOT / "LICENSE").read_text()
    for section in ("Version 2.0, January 2004", "9. Accepting Warranty", "APPENDIX: How to apply"):
        assert section in licence
    assert "not for clinical use" in (ROOT / "NOTICE").read_text()
    for name in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text()):
            assert (ROOT / target).exists(), f"{name} points to {target}"


# --- What is installed.


def test_the_installed_command_has_all_commands(site: Path, place: Path) -> None:
    for words in (["-m", "pneumoseg"], [str(site / "bin" / "pneumoseg")]):
        name = "python -m pneumoseg" if words[0] == "-m" else "pneumoseg"
        shown = done([sys.executable, *words, "--help"], place, PYTHONPATH=str(site))
        assert shown.startswith(f"usage: {name} [")
        for command in INSTALLED.commands:
            assert re.search(rf"^  {command} ", shown, re.MULTILINE), command
        for command in INSTALLED.commands:
            shown = done([sys.executable, *words, command, "--help"], place, PYTHONPATH=str(site))
            assert shown.startswith(f"usage: {name} {command} ")


def test_messages_name_the_installed_command(site: Path, tmp_path: Path) -> None:
    for words, name in (
        (["-m", "pneumoseg"], "python -m pneumoseg"),
        ([str(site / "bin" / "pneumoseg")], "pneumoseg"),
    ):
        ended = subprocess.run(
            [sys.executable, *words, "verify"],
            cwd=tmp_path,
            env=without_checkout(PYTHONPATH=str(site)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 1
        assert f"Make one with: {name} preprocess --images" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_lines_that_install_need_no_checkout(site: Path, tmp_path: Path) -> None:
    """Each extra that a message names is an extra of the wheel."""
    code = (
        "from core.backend.registry import find_backend\n"
        "for name in ('tf', 'mxnet', 'torch', 'jax', 'onnx', 'reference'): print(find_backend(name).install)"
    )
    lines = done([sys.executable, "-P", "-c", code], tmp_path, PYTHONPATH=str(site)).splitlines()
    expected = [f"pip install 'pneumoseg[{name}]'" for name in ("tf", "mxnet", "torch", "jax", "onnx")]
    assert [line.split(" && ")[0] for line in lines] == [*expected, "pip install pneumoseg"]


def test_the_shipped_configurations_are_found_and_the_report_is_written(site: Path, place: Path) -> None:
    words = [sys.executable, "-m", "pneumoseg", "train", "-f", "reference"]
    for name in ("siim", "configs/unet.yaml"):
        ended = subprocess.run(
            [*words, "--config", name, "--set", "training.epochs=none"],
            cwd=place,
            env=without_checkout(PYTHONPATH=str(site)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        file = site / "configs" / f"{Path(name).stem}.yaml"
        assert ended.stderr.startswith(f"error: {file} with training.epochs=none: training.epochs: ")
    pneumoseg_command(site, place, "evaluate", "-f", "reference", "--report", "report.html")
    assert (place / "report.html").read_text().rstrip().endswith("</html>")


PREDICT = """
import json, sys
import pneumoseg

model = pneumoseg.load_model("reference_model", backend=sys.argv[1])
found = model.predict_all(pneumoseg.find_radiographs("demo/dicom-images-train"))
answers = {one.id: [one.positive, one.existence, one.pixels] for one in found}
ours = ("backends", "configs", "core", "data", "pneumoseg")
files = {module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in ours}
print(json.dumps([answers, sorted(files)]))
"""


def test_it_predicts_without_a_checkout(site: Path, place: Path) -> None:
    words = ["--model", "reference_model", "--images", "demo/dicom-images-train", "--json", "answers.json"]
    pneumoseg_command(site, place, "predict", "-f", PREDICTOR, *words)
    content = json.loads((place / "answers.json").read_text())
    assert content["versions"]["pneumoseg"] == pneumoseg.__version__
    expected = {one["id"]: [one["positive"], one["existence"], one["pixels"]] for one in content["images"]}
    assert len(expected) == 12
    assert len((place / "submission.csv").read_text().splitlines()) == 13
    script = place / "data" / "script.py"  # in a folder of its own: it would find the core.py beside it
    script.write_text(PREDICT)
    answers, files = json.loads(done([sys.executable, str(script), PREDICTOR], place, PYTHONPATH=str(site)))
    assert answers == expected
    assert len(files) > 30
    assert [file for file in files if not file.startswith(f"{site}{os.sep}")] == []
