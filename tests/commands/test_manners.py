"""Conventions of all commands: versions, short options, -q and -v, guesses, exit statuses."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import (
    COMMANDS,
    assert_one_error,
    assert_same_run,
    content,
    hide_frameworks,
    hideable,
    imported,
    prepare,
    refused,
    run,
    run_here,
    succeed,
    train,
)
from tiny_model import SIZE, radiograph, write_model, write_radiograph

from core.backend.registry import backend_names, find_backend
from core.commands import _parser
from core.commands.shared import progress, terminal
from core.commands.shared.statuses import MEANINGS, Status

MODEL = "reference_model"
BROKEN = "broken.dcm"
PREDICT = ("predict", "--images", "images", "-j", "1")
TABLE = "ImageId,EncodedPixels\n0,1 2\n1,-1\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model, data of its size, three radiographs, their annotations and a submission."""
    prepare(tmp_path, size=SIZE)
    write_model(tmp_path / MODEL)
    for number in range(3):
        pixels = radiograph(number, 40, 36, bright=number == 0)
        write_radiograph(tmp_path / "images" / f"{number}.dcm", number, pixels)
    (tmp_path / "truth.csv").write_text(f"{TABLE}2,-1\n")
    (tmp_path / "sent.csv").write_text(f"{TABLE}2,-1\n")
    return tmp_path


# ------------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("run.py", ["--version"]),
        ("run.py", ["predict", "--version"]),
        ("preprocess.py", ["--version"]),
        ("preprocess.py", ["verify", "--version"]),
    ],
)
def test_the_version_is_one_line(tmp_path: Path, program: str, words: list[str]) -> None:
    said = succeed(*words, cwd=tmp_path, how=run_here, program=program)
    assert said == f"pneumoseg {importlib.metadata.version('pneumoseg')}\n"


@pytest.mark.parametrize(
    "words", [["--version", "-v"], ["-v", "--version"], ["tune", "--verbose", "--version"]]
)
def test_all_versions_are_told_without_importing_a_framework(tmp_path: Path, words: list[str]) -> None:
    done = run(*words, cwd=tmp_path, before=["-X", "importtime"])
    assert done.returncode == 0
    first, *lines = done.stdout.splitlines()
    assert first.startswith("pneumoseg ")
    told = dict(line.rsplit(" ", 1) for line in lines)
    expected = {"Python": platform.python_version(), "NumPy": importlib.metadata.version("numpy")}
    for name in backend_names():
        backend = find_backend(name)
        if backend.is_available():
            expected[backend.title] = str(backend.version())
    assert told == expected
    assert not imported(done.stderr) & set(hideable())


# ------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        ("run.py", ["trian"], "unknown command 'trian'; did you mean 'train'?"),
        ("run.py", ["eval"], "did you mean 'evaluate'?"),
        ("run.py", ["Predict", "--images", "x"], "did you mean 'predict'?"),
        ("run.py", ["-f", "tf", "trian"], "did you mean 'train'?"),
        ("run.py", ["-q", "-ftf", "conformence"], "did you mean 'conformance'?"),
        ("run.py", ["zzz\x1b[31m"], r"unknown command 'zzz\x1b[31m'; the commands are: train, predict, "),
        ("run.py", ["help", "trian"], "did you mean 'train'?"),
        ("preprocess.py", ["verfy"], "did you mean 'verify'?"),
    ],
)
def test_an_unknown_command_gets_the_nearest(
    tmp_path: Path, program: str, words: list[str], says: str
) -> None:
    done = run_here(*words, cwd=tmp_path, program=program)
    assert (done.returncode, done.stdout) == (2, "")
    usage, error = done.stderr.splitlines()
    assert usage.startswith(f"usage: {program} [{'|'.join(COMMANDS[program])}]")
    assert error.startswith(f"{program}: error: ")
    assert says in error


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        ("run.py", [], "-f/--framework NAME for 'train'"),
        ("run.py", ["help"], "write: run.py --help"),
        ("preprocess.py", ["help"], "write: preprocess.py --help"),
    ],
)
def test_who_names_no_command_gets_the_overview(
    tmp_path: Path, program: str, words: list[str], says: str
) -> None:
    done = run_here(*words, cwd=tmp_path, program=program)
    assert (done.returncode, done.stdout) == (2, "")
    overview = succeed("--help", cwd=tmp_path, how=run_here, program=program)
    assert done.stderr.startswith(overview)
    assert says in done.stderr.removeprefix(overview)


def test_help_on_a_command_written_as_elsewhere(tmp_path: Path) -> None:
    done = run_here("help", "predict", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    shown = succeed("predict", "--help", cwd=tmp_path, how=run_here)
    assert done.stderr == f"{shown}run.py: error: 'help' is no command; write: run.py predict --help\n"


@pytest.mark.parametrize("program", COMMANDS)
def test_the_overview_has_each_option_under_its_command(tmp_path: Path, program: str) -> None:
    said = succeed("--help", cwd=tmp_path, how=run_here, program=program)
    body, common = said.split("options of every command:")
    for name in COMMANDS[program]:
        (part,) = re.findall(rf"^  {name} .*\n((?:    .*\n)*)", body, re.MULTILINE)
        long = [word.split("/")[-1] for word in part.split()]
        parser = _parser(program, name)
        options = {option for action in parser._actions for option in action.option_strings}
        shared = {"--help", "--version", "--verbose", "--quiet", "--no-progress"}
        assert {word for word in long if word.startswith("--")} == {
            option for option in options if option.startswith("--")
        } - shared
        assert all(option in common for option in shared)
    for status, meaning in MEANINGS.items():
        assert re.search(rf"^  {re.escape(status)} +{re.escape(meaning)}$", said, re.MULTILINE)


def test_train_without_a_backend_lists_those_that_are_installed(tmp_path: Path) -> None:
    hide_frameworks(tmp_path, "torch")
    done = run("train", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    last = "the following arguments are required: -f/--framework; installed: reference"
    assert done.stderr.splitlines()[-1].startswith(f"run.py train: error: {last}")
    assert "tf" not in done.stderr.splitlines()[-1].split("installed: ")[1]


# ---------------------------------------------------------------------------------- quiet and verbose


def test_quiet_leaves_the_work_alone(place: Path) -> None:
    with_words = {
        "said": (*PREDICT, "-f", "reference", "--out", "a.csv"),
        "quiet": (*PREDICT, "-f", "reference", "--out", "b.csv", "-q"),
    }
    assert "3 images predicted" in succeed(*with_words["said"], cwd=place, how=run_here)
    assert succeed(*with_words["quiet"], cwd=place, how=run_here) == ""
    assert (place / "a.csv").read_bytes() == (place / "b.csv").read_bytes()


def test_quiet_training_says_nothing_and_is_the_same(folder: Path) -> None:
    assert train("-q", cwd=folder, how=run_here) == ""
    assert train("-o", "other", cwd=folder, how=run_here).count("epoch ") >= 2
    assert_same_run(folder / MODEL, folder / "other" / MODEL)


@pytest.mark.parametrize("before", [True, False], ids=["before the name", "after it"])
def test_quiet_keeps_errors_and_faults(place: Path, before: bool) -> None:
    (place / "images" / BROKEN).write_text("no radiograph\n")
    words = [*PREDICT, "-f", "reference"]
    words = ["-q", *words] if before else [*words, "-q"]
    said = succeed(*words, cwd=place, how=run_here, status=3)
    title = "unreadable (its row in the submission says -1, no pneumothorax)"
    assert said == f"{title}: {BROKEN}: it is no DICOM file\n"
    refused(*words, cwd=place, how=run_here, says=["submission.csv exists already"])


def test_quiet_keeps_what_was_asked_for(place: Path) -> None:
    score = ("score", "sent.csv", "--annotations", "truth.csv")
    table = succeed(*score, "-q", cwd=place, how=run_here)
    assert table == succeed(*score, cwd=place, how=run_here)
    done = run_here(*score, "-q", "--json", "-", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["images"] == 3
    (place / "bad.csv").write_text(f"{TABLE}1,-1\n")
    done = run_here("check", "bad.csv", "--json", "-", "-q", cwd=place)
    assert (done.returncode, json.loads(done.stdout)["valid"]) == (3, False)
    assert done.stderr.splitlines() == ["fault: row 4: 1: the id has come before, in row 3; one row an image"]


def test_verbose_shows_every_remark_versions_and_the_time(place: Path) -> None:
    rows = "".join(f"{number},-1\n" for number in range(9))
    (place / "bad.csv").write_text(f"ImageId,EncodedPixels\n{rows}{rows}")
    few = succeed("check", "bad.csv", cwd=place, how=run_here, status=3)
    assert few.count("the id has come before") == 5
    assert "and 4 more of this kind" in few
    done = run_here("check", "bad.csv", "-v", cwd=place)
    assert done.stdout.count("the id has come before") == 9
    assert "more of this kind" not in done.stdout
    versions, time = done.stderr.splitlines()
    assert versions.startswith(f"pneumoseg {importlib.metadata.version('pneumoseg')}, Python ")
    assert re.fullmatch(r"check: \d+\.\d s, exit status 3", time)


def test_verbose_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    words = ("score", "nowhere.csv")
    assert_one_error(run_here(*words, cwd=tmp_path), "cannot read the submission nowhere.csv")
    done = run_here(*words, "-v", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot read the submission nowhere.csv")


def test_quiet_and_verbose_exclude_each_other(tmp_path: Path) -> None:
    done = run_here("backends", "-q", "-v", cwd=tmp_path)
    assert done.returncode == 2
    assert "not allowed with" in done.stderr


def test_bars_are_hidden_when_asked(tmp_path: Path) -> None:
    words = ("phantoms", "--count", "2", "--size", "64", "-j", "1")
    options: dict[str, Any] = {"cwd": tmp_path, "how": run_here, "program": "preprocess.py"}
    assert "drawing" in succeed(*words, "-o", "one", **options)
    assert "drawing" not in succeed(*words, "-o", "two", "--no-progress", **options)
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert len(one) > 2
    assert one == two


@pytest.mark.parametrize(("quiet", "wanted"), [(False, True), (False, False), (True, True)])
def test_bars_in_a_terminal(quiet: bool, wanted: bool) -> None:
    with terminal.showing(quiet=quiet, verbose=False, progress=wanted):
        console = terminal.console()
        console._force_terminal = True
        assert progress.progress_bar(console).disable == (quiet or not wanted)
        assert progress.bar_of(console).disable == (quiet or not wanted)
    assert not terminal.hides_progress()


# -------------------------------------------------------------------------------------- short options


@pytest.mark.parametrize("program", COMMANDS)
def test_out_and_workers_have_short_forms_everywhere(program: str) -> None:
    for name in COMMANDS[program]:
        parser: argparse.ArgumentParser = _parser(program, name)
        by_long = {
            action.option_strings[-1]: action.option_strings
            for action in parser._actions
            if action.option_strings
        }
        for long, short in (("--out", "-o"), ("--workers", "-j"), ("--verbose", "-v"), ("--quiet", "-q")):
            assert by_long.get(long, [short, long]) == [short, long], name


# ------------------------------------------------------------------------------------ which backend


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


# ----------------------------------------------------------------------------------------- overwriting

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


# -------------------------------------------------------------------------------------------- statuses


def test_a_check_that_fails_is_a_fault(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import core.conformance
    from core.conformance import Outcome

    monkeypatch.setattr(core.conformance, "examine", lambda check, _: Outcome(check, "failed", "far off"))
    words = ("conformance", "-f", "reference", "--only", "kernel 1, stride 1")
    said = succeed(*words, cwd=place, how=run_here, status=3)
    assert "reference failed: " in said
    assert "reference failed: " in succeed(*words, "-q", cwd=place, how=run_here, status=3)


def test_a_certificate_that_does_not_hold_is_a_fault(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.parity import Certificate

    monkeypatch.setattr(Certificate, "holds", property(lambda _: False))
    assert "DOES NOT HOLD" in succeed(*PARITY[1:], "-q", cwd=place, how=run_here, status=3)


def test_statuses_are_distinct_and_explained() -> None:
    assert [int(status) for status in Status] == [0, 1, 2, 3, 130]
    assert [*MEANINGS] == [*(str(int(status)) for status in Status), "128+N"]
    assert (Status.of([]), Status.of(0), Status.of("x"), Status.of(2)) == (0, 0, 3, 3)


def test_the_documents_explain_the_same() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text("utf-8")
    for status, meaning in MEANINGS.items():
        assert f"| {status} | {meaning} |" in page
