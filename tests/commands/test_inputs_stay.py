"""A command never replaces its input, and a failing command replaces nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import assert_one_error, content, environment, run_here, words_of
from tiny_model import SIZE, radiograph, write_model, write_radiograph

MODEL = "reference_model"
PREPROCESS = ("preprocess.py", "--images", "images", "--annotations", "truth.csv", "--workers", "1")
KEY = ("--patient-key-file", "key", "--size", str(SIZE))
PREDICT = ("run.py", "predict", "-f", "reference", "--images", "images", "--workers", "1")
EVALUATE = ("run.py", "evaluate", "-f", "reference", "--data", "data.h5", "--split", "all")
CHECK = ("run.py", "check", "sent.csv", "--images", "images")
SCORE = ("run.py", "score", "sent.csv", "--annotations", "truth.csv")
IMAGE = "images/deep/r1.dcm"
BEST = f"{MODEL}/best.safetensors"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model, radiographs, annotations, a key, a submission, and a link to the annotations."""
    write_model(tmp_path / MODEL)
    (tmp_path / MODEL / "history.json").write_text("[]\n")
    for number in range(4):
        write_radiograph(
            tmp_path / f"images/deep/r{number}.dcm", number, radiograph(number, 40, 40, bright=True)
        )
    (tmp_path / "truth.csv").write_text("ImageId,EncodedPixels\nr0,1 5\nr1,-1\nr2,7 9\nr3,-1\n")
    (tmp_path / "sent.csv").write_text("ImageId,EncodedPixels\nr0,1 5\nr1,-1\nr2,7 9\nr3,-1\n")
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "link").symlink_to("truth.csv")
    program, *rest = (*PREPROCESS, "--size", str(SIZE), "--out", "data.h5")
    assert run_here(*rest, cwd=tmp_path, program=program).returncode == 0
    return tmp_path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            (*PREPROCESS, *KEY, "--out", "a.h5", "--report", "truth.csv"),
            "--report truth.csv is the annotations",
        ),
        ((*PREPROCESS, *KEY, "--out", "a.h5", "--report", "link"), "--report link is the annotations"),
        ((*PREPROCESS, *KEY, "--out", "a.h5", "--report", "key"), "--report key is the patients' key"),
        (
            (*PREPROCESS, *KEY, "--out", "a.h5", "--report", IMAGE),
            f"--report {IMAGE} would replace a file of the folder of the images images.",
        ),
        ((*PREPROCESS, *KEY, "--overwrite", "--out", "truth.csv"), "--out truth.csv is the annotations"),
        ((*PREPROCESS, *KEY, "--overwrite", "--out", "key"), "--out key is the patients' key"),
        (
            (*PREPROCESS, *KEY, "--overwrite", "--out", IMAGE),
            f"--out {IMAGE} would replace a file of the folder of the images images.",
        ),
        (
            (*PREDICT, "--overwrite", "--out", BEST),
            f"--out {BEST} would replace a file of the folder of",
        ),
        (
            (*PREDICT, "--overwrite", "--out", IMAGE),
            f"--out {IMAGE} would replace a file of the folder",
        ),
        (
            (*PREDICT, "--overwrite", "--json", IMAGE),
            f"--json {IMAGE} would replace a file of the folder",
        ),
        ((*EVALUATE, "--report", BEST), f"--report {BEST} would replace a file of the folder of a model"),
        ((*EVALUATE, "--json", f"{MODEL}/history.json"), "would replace a file of the folder of a model"),
        ((*EVALUATE, "--json", "data.h5"), "--json data.h5 is the data file"),
        ((*CHECK, "--json", IMAGE), f"--json {IMAGE} would replace a file of the folder of the images"),
        ((*SCORE, "--json", "link"), "--json link is the annotations"),
    ],
)
def test_no_input_is_written_over(place: Path, words: Sequence[str], says: str) -> None:
    """Inputs stay with `--overwrite`, through a link, and inside a folder that is read."""
    before = content(place)
    program, *rest = words
    assert_one_error(run_here(*rest, cwd=place, program=program), says)
    assert content(place) == before


def test_other_files_in_a_folder_that_is_read_may_be_written(place: Path) -> None:
    for _ in range(2):  # the second time they are replaced
        for words in (
            (*PREDICT, "--out", "images/submission.csv", "--json", f"{MODEL}/answers.json"),
            (*EVALUATE, "--json", f"{MODEL}/scores.json"),
            (*CHECK, "--json", "images/deep/faults.json"),
        ):
            program, *rest = words
            done = run_here(*rest, "--overwrite", cwd=place, program=program)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("above", ["export", "averaging"])
def test_a_model_may_lie_in_a_folder_of_any_name(place: Path, above: str) -> None:
    """A name like that of a model's file matters only inside the model's folder."""
    (place / above).mkdir()
    (place / MODEL).rename(place / above / MODEL)
    words = (*EVALUATE[1:], "--model", f"{above}/{MODEL}", "--json", f"{above}/{MODEL}/scores.json")
    for _ in range(2):  # the second time it is replaced
        done = run_here(*words, "--overwrite", cwd=place)
        assert done.returncode == 0, done.stderr
    (place / above / MODEL / "export/deep/er").mkdir(parents=True)
    (place / above / MODEL / "export/deep/er/weights.npz").write_bytes(b"weights")
    assert_one_error(
        run_here(*words[:-1], f"{above}/{MODEL}/export/deep/er/weights.npz", cwd=place),
        "would replace a file of the folder of a model",
    )
    assert (place / above / MODEL / "export/deep/er/weights.npz").read_bytes() == b"weights"


LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        (*PREDICT, "--out", LONG),
        (*PREDICT, "--out", f"{LONG}/s.csv"),
        (*PREDICT, "--masks", LONG),
        (*PREDICT, "--model", LONG),
        ("run.py", "predict", "-f", "reference", "--images", LONG),
        (*PREPROCESS, "--out", LONG),
        (*PREPROCESS, "--report", LONG, "--out", "a.h5"),
        ("preprocess.py", "--images", "images", "--annotations", LONG, "--out", "a.h5"),
        ("preprocess.py", "phantoms", "--out", LONG),
        ("preprocess.py", "verify", LONG),
        ("run.py", "-f", "reference", "--data", LONG),
        ("run.py", "-f", "reference", "--data", "data.h5", "--config", LONG),
        ("run.py", "-f", "reference", "--data", "data.h5", "--resume", LONG),
        (*EVALUATE, "--report", LONG),
        (*SCORE, "--json", LONG),
        (*CHECK, "--json", LONG),
        ("run.py", "tune", "-f", "reference", "--data", "data.h5", "--model", LONG),
        ("run.py", "export", "--model", LONG, "--to", "onnx"),
    ],
    ids=lambda words: " ".join(word if word != LONG else "LONG" for word in words if "x/s" not in word),
)
def test_a_name_that_is_too_long_is_one_error(place: Path, words: Sequence[str]) -> None:
    program, *rest = words
    done = run_here(*rest, cwd=place, program=program)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert LONG[:100] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_prediction_that_fails_at_its_end_has_replaced_nothing(place: Path) -> None:
    """The JSON cannot be written, so the finished submission is not put in place either."""
    (place / "keep.csv").write_text("ImageId,EncodedPixels\nold,-1\n")
    (place / "printed").symlink_to("/proc/self/fd/1")
    words = words_of(*PREDICT, "--out", "keep.csv", "--json", "printed", "--overwrite")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            words, cwd=place, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert (place / "keep.csv").read_text() == "ImageId,EncodedPixels\nold,-1\n"
    assert not [path.name for path in place.iterdir() if path.name.startswith(".")]
