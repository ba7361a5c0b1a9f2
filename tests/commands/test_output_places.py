"""Outputs that are devices, pipes or links, and outputs that two processes want at the same time.

No output is a path in /dev: as root, a defect could destroy it for the whole system. The first holder of a
path is this process, or a command whose output shows its progress, so nothing depends on time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from command_line import (
    BEST,
    LAST,
    ROOT,
    TIMEOUT_S,
    assert_one_error,
    content,
    environment,
    prepare,
    refused,
    run,
    run_here,
    succeed,
    train,
    words_of,
)
from test_interrupted_training import started, wait_for_line
from tiny_model import SIZE, radiograph, write_model, write_radiograph

from core.experiment.checkpoint import load_checkpoint
from core.files.atomic import reserved

pytestmark = pytest.mark.turns(3)

MODEL, LOGS = "reference_model", "reference_logs"
SUBMISSION = "ImageId,EncodedPixels\nr0,1 5\nr1,-1\n"
PREDICT = ("run.py", "predict", "-f", "reference", "--images", "images", "-j", "1", "--overwrite")
PREPROCESS = ("preprocess.py", "--images", "images", "--annotations", "truth.csv", "--workers", "1")
EVALUATE = ("run.py", "evaluate", "-f", "reference", "--data", "data.h5", "--split", "all")
SCORE = ("run.py", "score", "sent.csv", "--annotations", "truth.csv")
CHECK = ("run.py", "check", "sent.csv", "--size", "40")
CONFORMANCE = ("run.py", "conformance", "-f", "reference", "--only", "kernel 1, stride 1")
SIZES = ("--size", str(SIZE))
TEXTS = {
    "predict --out": (*PREDICT, "--out"),
    "predict --json": (*PREDICT, "--json"),
    "score --json": (*SCORE, "--json"),
    "check --json": (*CHECK, "--json"),
    "evaluate --json": (*EVALUATE, "--json"),
    "evaluate --report": (*EVALUATE, "--report"),
    "preprocess --report": (*PREPROCESS, *SIZES, "--out", "other.h5", "--overwrite", "--report"),
    "conformance --json": (*CONFORMANCE, "--json"),
    "conformance --markdown": (*CONFORMANCE, "--markdown"),
}
OTHERS = {
    "predict --masks": (*PREDICT, "--masks"),
    "predict --overlays": (*PREDICT, "--overlays"),
    "predict --dicom-seg": (*PREDICT, "--dicom-seg"),
    "predict --probabilities": (*PREDICT, "--probabilities"),
    "preprocess --out": (*PREPROCESS, *SIZES, "--overwrite", "--out"),
}
SEVERAL = {
    "phantoms --out": ("preprocess.py", "phantoms", "--count", "2", "--size", "64", "--overwrite", "--out"),
    "verify --overlays": ("preprocess.py", "verify", "data.h5", "--overlays"),
    "export --out": ("run.py", "export", "--model", MODEL, "--to", "onnx", "--overwrite", "--out"),
}
PARITY = ("run.py", "parity", "-f", "reference", "-f", "reference", "--steps", "1")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, five radiographs with annotations, a data file, and a submission."""
    folder = tmp_path_factory.mktemp("original")
    write_model(folder / MODEL)
    for number in range(5):
        pixels = radiograph(number, 40, 40, number % 2 == 0)
        write_radiograph(folder / "images" / f"r{number}.dcm", number, pixels)
    (folder / "sent.csv").write_text(SUBMISSION)
    (folder / "truth.csv").write_text(f"{SUBMISSION}r2,7 9\nr3,-1\nr4,800 40\n")
    command((*PREPROCESS, *SIZES, "--out", "data.h5"), folder)
    (folder / "sent.csv").write_text(f"{SUBMISSION}r2,7 9\nr3,-1\nr4,801 40\n")
    return folder


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """A copy of these files for one test."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path


def command(words: Sequence[str], cwd: Path, *more: str) -> subprocess.CompletedProcess[str]:
    program, *rest = words
    done = run(*rest, *more, cwd=cwd, program=program)
    assert done.returncode == 0, done.stderr
    return done


def without_times(text: str) -> str:
    """Return the output without what differs between two runs: speeds, times and names of outputs."""
    text = re.sub(r'"(images_per_second|seconds)": [0-9.e+-]+', "", text)
    return re.sub(r"\d+(\.\d+)? images/s|\d{4}-\d\d-\d\d[ T]\d\d:\d\d[^<]*", "", text)


# ------------------------------------------------------------------------------------- standard output


@pytest.mark.parametrize("name", TEXTS)
def test_standard_output_has_the_content_and_nothing_else(place: Path, name: str) -> None:
    said = command(TEXTS[name], place, "written").stdout
    written = (place / "written").read_text("utf-8")
    assert len(written) > 30
    assert said.strip()
    done = command(TEXTS[name], place, "-")
    assert without_times(done.stdout) == without_times(written)
    if name.endswith("--json"):
        json.loads(done.stdout)
    first = said.split("\n")[0].strip()
    assert first in done.stderr
    assert not (place / "-").exists()


def test_standard_output_by_its_name_keeps_what_a_file_had(place: Path) -> None:
    log = place / "log"
    log.write_text("before\n")
    (place / "stdout").symlink_to("/proc/self/fd/1")  # like /dev/stdout
    for word in ("stdout", "/proc/self/fd/1", "-", "log"):
        inode = log.stat().st_ino
        with log.open("a") as file:
            done = subprocess.run(
                words_of(*SCORE, "--json", word),
                cwd=place,
                env=environment(),
                stdout=file,
                stderr=subprocess.PIPE,
                check=True,
                timeout=TIMEOUT_S,
            )
        assert b"Dice, all images" in done.stderr
        assert log.stat().st_ino == inode
    before, *found = log.read_text().split("{\n")
    assert before == "before\n"
    assert len(found) == 4
    assert {json.loads("{" + text)["images"] for text in found} == {5}


@pytest.mark.parametrize(
    "words",
    [
        (*PREDICT, "--out", "-", "--json", "-"),
        (*PREDICT, "--out", "-", "--json", "stdout"),
        (*EVALUATE, "--json", "/proc/self/fd/1", "--report", "-"),
        (*CONFORMANCE, "--json", "-", "--markdown", "-"),
        (*PREDICT, "--out", "same", "--json", "link"),
    ],
    ids=lambda words: " ".join(words[-3:]),
)
def test_two_outputs_do_not_go_to_one_place(place: Path, words: Sequence[str]) -> None:
    (place / "link").symlink_to("same")
    (place / "stdout").symlink_to("/proc/self/fd/1")  # like /dev/stdout
    program, *rest = words
    refused(*rest, cwd=place, program=program, says=["is the place of --"])


def test_a_reader_that_leaves_ends_in_one_error(place: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            words_of(*SCORE, "--json", "-"),
            cwd=place,
            env=environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("error: cannot write -: Broken pipe") == 1


# ---------------------------------------------------------------------------------- devices and links


def make_null(path: Path) -> None:
    """Make a device node like /dev/null."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.close(os.open(path, os.O_WRONLY))
    except (OSError, AttributeError) as error:
        pytest.skip(f"no device can be made and opened here (it takes root): {error}")


@pytest.mark.parametrize("name", [*TEXTS, *OTHERS, *SEVERAL])
def test_a_device_is_written_to_or_refused(place: Path, name: str) -> None:
    make_null(place / "null")
    program, *rest = {**TEXTS, **OTHERS, **SEVERAL}[name]
    done = run(*rest, "null", cwd=place, program=program)
    assert stat.S_ISCHR((place / "null").lstat().st_mode)
    assert not (place / "null.staging").exists()
    if name in TEXTS:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert_one_error(done, "null")


@pytest.mark.parametrize("name", TEXTS)
def test_a_link_stays_and_its_target_gets_the_content(place: Path, name: str) -> None:
    (place / "elsewhere").mkdir()
    (place / "link").symlink_to("elsewhere/real")
    command(TEXTS[name], place, "link")
    assert (place / "link").is_symlink()
    written = (place / "elsewhere" / "real").read_text("utf-8")
    assert len(written) > 30
    assert [path.name for path in (place / "elsewhere").iterdir()] == ["real"]


@pytest.mark.parametrize("name", [*OTHERS, *SEVERAL])
def test_links_to_files_and_folders_stay(place: Path, name: str) -> None:
    (place / "elsewhere").mkdir()
    (place / "link").symlink_to("elsewhere/real")
    command({**OTHERS, **SEVERAL}[name], place, "link")
    assert (place / "link").is_symlink()
    assert (place / "elsewhere" / "real").exists()
    assert [path.name for path in (place / "elsewhere").iterdir()] == ["real"]
    assert not list(place.glob("*.staging"))


def test_a_pipe_gets_the_submission(place: Path) -> None:
    os.mkfifo(place / "pipe")
    words = [sys.executable, "-c", "print(open('pipe', encoding='utf-8').read())"]
    with subprocess.Popen(words, cwd=place, stdout=subprocess.PIPE, text=True) as reader:
        command((*PREDICT, "--out", "pipe"), place)
        rows = reader.communicate(timeout=TIMEOUT_S)[0].strip().split("\n")
    assert stat.S_ISFIFO((place / "pipe").stat().st_mode)
    assert rows[0] == "ImageId,EncodedPixels"
    assert [row.split(",")[0] for row in rows[1:]] == ["r0", "r1", "r2", "r3", "r4"]


def test_a_model_on_another_disk_is_trained_there(tmp_path: Path) -> None:
    """The model's folder is a link, first to a folder that does not exist, then to an earlier run."""
    prepare(tmp_path)
    for name in (MODEL, LOGS):
        (tmp_path / name).symlink_to(f"disk/{name}")
    train("--epochs", "1", cwd=tmp_path, how=run_here)
    said = train("--epochs", "1", "--seed", "8", cwd=tmp_path, how=run_here)
    assert f"{MODEL} holds an earlier run; it is kept as {tmp_path}/disk/{MODEL}.1" in said
    assert (tmp_path / MODEL).is_symlink()
    assert (tmp_path / LOGS).is_symlink()
    found = {path.name for path in (tmp_path / "disk").iterdir()}
    assert found == {MODEL, LOGS, f"{MODEL}.1", f"{LOGS}.1"}
    seeds = {
        name: load_checkpoint(tmp_path / "disk" / name / LAST).configuration.training.seed
        for name in (MODEL, f"{MODEL}.1")
    }
    assert seeds == {MODEL: 8, f"{MODEL}.1": 7}


# ------------------------------------------------------------------------------------ two at once


@pytest.mark.parametrize("name", [*TEXTS, *OTHERS, *SEVERAL])
def test_what_another_process_writes_is_refused_before_the_work(place: Path, name: str) -> None:
    program, *rest = {**TEXTS, **OTHERS, **SEVERAL}[name]
    (place / "wanted.staging").mkdir()
    with reserved(place / "wanted"):
        before = content(place)
        done = run(*rest, "./wanted", cwd=place, program=program)
        assert content(place) == before
    assert_one_error(done, "wanted is being written by another process", f"process {os.getpid()} on ")
    assert "images/s" not in done.stdout


def test_the_certificate_is_refused_before_the_steps(place: Path) -> None:
    with reserved(place / "wanted"):
        program, *rest = PARITY
        says = ["wanted is being written by another process"]
        refused(*rest, "--json", "wanted", cwd=place, program=program, says=says)


def test_a_folder_that_will_be_replaced_takes_no_other_output(place: Path) -> None:
    """The first command would delete the other's files when it replaces the folder."""
    with reserved(place / "out"):
        says = ["out is being written by another process"]
        for words in (["--overlays", "out/look"], ["--json", "out/deep/a.json"]):
            refused(*PREDICT[1:], *words, cwd=place, says=says)


def test_a_training_takes_no_folder_away_in_which_another_process_writes(folder: Path) -> None:
    train("--epochs", "1", cwd=folder)
    with reserved(folder / MODEL / "pictures" / "look"):
        says = [f"{MODEL}/pictures/look is being written by another process"]
        words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]
        refused(*words, cwd=folder, says=says)


@contextlib.contextmanager
def training(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a long training; yield it after its first epoch."""
    given = ("--data", "data.h5", "--config", "network.yaml", "--epochs", "1000000")
    given += ("--set", "training.early_stop.patience=1000000")
    with started(folder, ["-f", "reference", *given, *words]) as process:
        wait_for_line(process, "epoch       1/1000000")
        yield process


def test_a_second_training_is_refused_and_the_first_goes_on(folder: Path) -> None:
    with training(folder) as first:
        for words in (["--seed", "8"], ["--resume"], ["--folds", "3"], ["--folds", "3", "--fold", "1"]):
            config = [] if "--resume" in words else ["--config", "network.yaml"]
            done = run("-f", "reference", "--data", "data.h5", *config, *words, cwd=folder)
            assert_one_error(
                done, "is being written by another process", f"process {first.pid} on ", "run.py"
            )
        done = run("tune", "-f", "reference", "--data", "data.h5", cwd=folder)
        assert_one_error(done, f"{MODEL} is being written by another process")
        done = run("export", "--model", MODEL, "--to", "onnx", cwd=folder)
        assert_one_error(done, f"{MODEL} is being written by another process")
        succeed("export", "--model", MODEL, "--to", "onnx", "--out", "elsewhere", cwd=folder)
        succeed("evaluate", "-f", "reference", "--data", "data.h5", "--json", f"{MODEL}/a.json", cwd=folder)
        assert (folder / MODEL / "a.json").exists()
        assert not list(folder.glob("reference_*.[0-9]"))
        first.send_signal(2)
        output, errors = first.communicate(timeout=TIMEOUT_S)
        assert (first.returncode, errors) == (130, ""), output
    assert {path.name for path in folder.iterdir()} == {
        *("data.h5", "network.yaml", "elsewhere", MODEL, LOGS)
    }
    last = load_checkpoint(folder / MODEL / LAST)
    assert last.configuration.training.seed == 7
    assert len(last.progress.history) >= 1


def test_a_killed_training_is_gone_on_with(folder: Path) -> None:
    with training(folder) as first:
        first.kill()
        first.wait()
    left = {path.name for path in folder.iterdir() if path.name.startswith(".")}
    assert left == {f".{MODEL}.lock", f".{LOGS}.lock"}
    done = len(load_checkpoint(folder / MODEL / LAST).progress.history)
    train("--resume", "--epochs", str(done + 1), cwd=folder)
    assert {path.name for path in folder.iterdir()} == {"data.h5", "network.yaml", MODEL, LOGS}


def test_folds_are_trained_side_by_side_but_none_twice(folder: Path) -> None:
    folds = ("--folds", "3")
    train(*folds, "--fold", "2", cwd=folder)
    with training(folder, *folds, "--fold", "0") as first:
        train(*folds, "--fold", "1", cwd=folder)
        words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *folds]
        for more in (["--fold", "0"], []):
            done = run(*words, *more, cwd=folder)
            assert_one_error(done, f"{MODEL}/fold0 is being written by another process", f"{first.pid} on ")
        done = run("-f", "reference", "--data", "data.h5", "--resume", cwd=folder)
        assert_one_error(done, f"{MODEL}/fold0 is being written by another process")
        done = run("tune", "-f", "reference", "--model", f"{MODEL}/fold0", "--data", "data.h5", cwd=folder)
        assert_one_error(done, f"{MODEL}/fold0 is being written by another process")
        first.send_signal(2)
        first.communicate(timeout=TIMEOUT_S)
        assert first.returncode == 130
    assert {path.name for path in folder.iterdir()} == {"data.h5", "network.yaml", MODEL, LOGS}
    for number in range(3):
        found = load_checkpoint(folder / MODEL / f"fold{number}" / BEST).configuration.training
        assert (found.folds, found.fold) == (3, number)


def test_a_fold_waits_while_another_one_begins(folder: Path) -> None:
    folds = ("--folds", "3", "--fold")
    train(*folds, "2", cwd=folder)
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *folds, "1"]
    with contextlib.ExitStack() as other:
        other.enter_context(reserved(folder / MODEL))
        with started(folder, words) as process:
            wait_for_line(process, "backend: ")
            time.sleep(0.3)  # any wait will do: the process must not end
            assert process.poll() is None
            other.close()
            output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (0, ""), output
    assert sorted(path.name for path in (folder / MODEL).iterdir()) == ["fold1", "fold2"]


def test_other_settings_do_not_share_a_staging_folder(place: Path) -> None:
    """A second run must not empty the staging folder of a killed run."""
    staging = place / "wanted.h5.staging"
    staging.mkdir()
    (staging / "journal.jsonl").write_text("of the first\n")
    program, *rest = PREPROCESS
    with reserved(place / "wanted.h5"):
        says = ["wanted.h5 is being written by another process"]
        refused(*rest, "--size", "16", "--out", "wanted.h5", cwd=place, program=program, says=says)
    assert (staging / "journal.jsonl").read_text() == "of the first\n"


def test_who_comes_after_the_first_does_not_replace_its_output(place: Path) -> None:
    """An output that did not exist at the start is checked again once the path is reserved."""
    code = (
        "import sys; from pathlib import Path; import core.files.atomic as atomic; locked = atomic.locked\n"
        "def late(path, **options):\n"
        "    if path.name == 'wanted.h5' and not path.exists(): path.write_text('the first one')\n"
        "    return locked(path, **options)\n"
        "atomic.locked = late\n"
        "import preprocess; sys.argv = sys.argv[1:]; sys.exit(preprocess.main())"
    )
    program, *rest = PREPROCESS
    done = subprocess.run(
        [sys.executable, "-c", code, program, *rest, *SIZES, "--out", "wanted.h5"],
        cwd=place,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert_one_error(done, "wanted.h5 exists already")
    assert (place / "wanted.h5").read_text() == "the first one"


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "one network", "another division"])
def test_folds_may_begin_at_the_same_moment(folder: Path, before: str) -> None:
    if before == "an empty folder":
        (folder / MODEL).mkdir()
    elif before != "nothing":
        train("--epochs", "1", *(["--folds", "4", "--fold", "1"] if "division" in before else []), cwd=folder)
    given = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", "--folds", "3"]
    with contextlib.ExitStack() as stack:
        folds = [
            stack.enter_context(started(folder, [*given, "--epochs", "2", "--fold", str(number)]))
            for number in range(3)
        ]
        for process in folds:
            output, errors = process.communicate(timeout=TIMEOUT_S)
            assert (process.returncode, errors) == (0, ""), output
    kept = {f"{name}.1" for name in (MODEL, LOGS) if before in ("one network", "another division")}
    assert {path.name for path in folder.iterdir()} == {"data.h5", "network.yaml", MODEL, LOGS, *kept}
    for number in range(3):
        found = load_checkpoint(folder / MODEL / f"fold{number}" / LAST)
        assert (found.configuration.training.folds, len(found.progress.history)) == (3, 2)
    assert (folder / MODEL / "thresholds.json").exists()


def test_a_fold_of_another_division_does_not_join(folder: Path) -> None:
    """This holds even before the first fold has a checkpoint that names its split."""
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", "--fold", "0"]
    with reserved(folder / MODEL / "fold1", shared=True, note="3 folds, seed 7"):
        (folder / MODEL / "fold1").mkdir()
        for other in (["--folds", "4"], ["--folds", "3", "--seed", "8"]):
            refused(*words, *other, cwd=folder, says=[f"{MODEL}/fold1 is being written by another process"])
        succeed(*words, "--folds", "3", "--epochs", "1", cwd=folder)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are listed by Linux")
@pytest.mark.parametrize(
    ("words", "redirect", "says"),
    [
        ((*PREDICT, "--out", "-"), ">&-", "cannot write -: standard output is closed"),
        ((*PREDICT, "--out", "/dev/stdout"), ">&-", "cannot write /dev/stdout: standard output is closed"),
        ((*SCORE, "--json", "-"), ">&-", "cannot write -: standard output is closed"),
        ((*SCORE, "--json", "/dev/fd/0"), "<&-", "cannot write /dev/fd/0: standard input is closed"),
        ((*SCORE, "--json", "/proc/self/fd/3"), "3>&-", "descriptor 3 is not open"),
        ((*SCORE, "--json", "/dev/fd/5"), "5>&-", "descriptor 5 is not open"),
        ((*PREDICT, "--out", "s.csv", "--json", "/dev/fd/4"), "3>&2 4>&-", "descriptor 4 is not open"),
    ],
)
def test_what_was_closed_takes_no_output(place: Path, words: Sequence[str], redirect: str, says: str) -> None:
    before = content(place)

    def shell(redirect: str, *words: str) -> subprocess.CompletedProcess[str]:
        line = ["sh", "-c", f'exec "$@" {redirect}', "sh", *words_of(*words)]
        return subprocess.run(
            line,
            cwd=place,
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            check=False,
        )

    assert_one_error(shell(redirect, *words), says)
    assert content(place) == before
    assert shell("3>given", *SCORE, "--json", "/dev/fd/3").returncode == 0
    assert json.loads((place / "given").read_text())


def seal(monkeypatch: pytest.MonkeyPatch, parent: Path) -> None:
    """Make a folder count as read-only, also for root."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != parent and real(path, mode))


def test_an_own_lock_does_not_stand_in_the_way(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "sealed" / "t").mkdir(parents=True)
    seal(monkeypatch, place / "sealed")
    words = ["--count", "2", "--size", "64", "--workers", "1", "--out", "sealed/t"]
    succeed("phantoms", *words, cwd=place, how=run_here, program="preprocess.py")
    assert len(list((place / "sealed" / "t").iterdir())) == 2


def test_a_folder_that_cannot_be_replaced_is_refused_at_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "sealed" / "t").mkdir(parents=True)
    seal(monkeypatch, place / "sealed")
    says = ["--masks sealed/t cannot be replaced as a whole", "Name a folder in it: sealed/t/new"]
    refused(*PREDICT[1:], "--out", "s.csv", "--masks", "sealed/t", cwd=place, how=run_here, says=says)
    succeed(*PREDICT[1:], "--out", "s.csv", "--masks", "sealed/t/new", cwd=place, how=run_here)
    assert len(list((place / "sealed" / "t" / "new").iterdir())) == 5
