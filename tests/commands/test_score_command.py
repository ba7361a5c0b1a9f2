"""`run.py score`: the table, the remarks, the JSON, and the errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from command_line import refused, run, run_here, succeed

TRUTH = "ImageId, EncodedPixels\na, 1 2\nb, -1\nc, 3 4\nc, 6 2\nd, -1\ne, 0 9\n"
PREDICTED = "ImageId,EncodedPixels\na,2 2\nb,-1\nc,-1\nd,0 1\ne,0 9\nz,-1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train-rle.csv").write_text(TRUTH)
    (tmp_path / "submission.csv").write_text(PREDICTED)
    return tmp_path


def test_a_worked_example(folder: Path) -> None:
    said = succeed("score", "--json", "out/scores.json", cwd=folder)
    assert "submission.csv against train-rle.csv" in said
    assert "1 without an annotation, left out: z" in said
    scores = json.loads((folder / "out/scores.json").read_text())
    # a: 1 of 2 and 2 pixels; b: both empty; c: missed; d: a false alarm; e: whole.
    assert scores == {
        "submission": "submission.csv",
        "annotations": "train-rle.csv",
        "dice": 2.5 / 5,
        "dice_all_empty": 0.4,
        "dice_positive": 0.5,
        "iou": pytest.approx((1 / 3 + 2) / 5),
        "iou_positive": pytest.approx((1 / 3 + 1) / 3),
        "images": 5,
        "positives": 3,
        "tp": 2,
        "fp": 1,
        "fn": 1,
        "tn": 1,
        "missing": 0,
        "unknown": 1,
        "several_rows": 0,
        "unusable": 0,
    }
    lines = [line.split("│")[1:3] for line in said.splitlines() if "│" in line]
    shown = {what.strip(): score.strip() for what, score in lines}
    assert shown["Dice, all images"] == "0.5000"
    assert shown["of an all-empty submission"] == "0.4000"
    assert shown["missed (FN)"] == "1"


def test_other_names_compression_and_missing_images(folder: Path) -> None:
    (folder / "mine.csv.gz").write_bytes(gzip.compress(b"ImageId,EncodedPixels\r\na,1 1\r\na,2 1\r\n"))
    words = ["score", "mine.csv.gz", "--annotations", "train-rle.csv"]
    refused(
        *words,
        cwd=folder,
        how=run_here,
        says=["mine.csv.gz lacks 4 images", "b, c, d and 1 more", "--missing"],
    )
    for how, dice, remark in (("empty", "0.6000", "taken for empty"), ("skip", "1.0000", "left out")):
        said = succeed(*words, "--missing", how, cwd=folder, how=run_here, status=3)
        assert f"Dice, all images             │ {dice}" in said
        assert f"4 annotated without a row, {remark}: b, c, d and 1 more" in said
        assert "1 with several rows, joined; a submission must have one: a" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.csv"], ["cannot read the submission nowhere.csv: No such file"]),
        (["--annotations", "nowhere.csv"], ["cannot read the annotations nowhere.csv"]),
        (["bad.csv"], ["bad.csv, row 3: 'q 5' is not a list", "`python run.py check bad.csv`"]),
        (["text.csv"], ["text.csv, row 1: not an id and an encoding", "Expected a submission"]),
    ],
)
def test_what_cannot_be_scored(folder: Path, words: list[str], says: list[str]) -> None:
    (folder / "bad.csv").write_text(PREDICTED.replace("b,-1", "b,q 5"))
    (folder / "text.csv").write_text("Dear all, hello\n")
    refused("score", *words, "--json", "s.json", cwd=folder, how=run_here, says=says)


@pytest.mark.parametrize("name", ["submission.csv", "train-rle.csv", "./submission.csv"])
def test_the_scores_never_replace_what_is_scored(folder: Path, name: str) -> None:
    refused("score", "--json", name, cwd=folder, how=run_here, says=["--json", "is the"])
    assert (folder / name).read_text() in (TRUTH, PREDICTED)


def test_a_wrong_word_is_answered_with_the_usage(folder: Path) -> None:
    done = run("score", "--missing", "guess", cwd=folder)
    assert done.returncode == 2
    assert "invalid choice: 'guess'" in done.stderr


def test_nothing_is_passed_over_in_silence(folder: Path) -> None:
    truth = "ImageId,EncodedPixels\na.png,1 2\nb,-1.0\n,5 1\nc,3 4\nImageId,EncodedPixels\nc,-1\nd,1 x\n"
    (folder / "train-rle.csv").write_text(truth)
    rows = "a,2 2\nb.dcm,-1.0\nImageId,EncodedPixels\nc,3.0 4e0\nb,0 1\nd,-1\nz.dcm,-1\n"
    (folder / "submission.csv").write_text(f"ImageId,EncodedPixels\n{rows}")
    said = succeed("score", cwd=folder, how=run_here, status=3)
    # a: 1 of 2 and 2 pixels; b: joined to one false pixel; c: whole.
    assert "Dice, all images             │ 0.5000" in said
    for line in (
        "1 without an annotation, left out: z",
        "1 with several rows, joined; a submission must have one: b",
        "1 left out, for a row of the annotations is no mask: d",
        "submission id taken without its suffix: 2 (b.dcm, z.dcm)",
        "submission row that is a header again: 1 (4)",
        "annotation row without id or value: 1 (4)",
        "annotation row of -1 where another is not: 1 (7)",
        "annotation row that is no mask: 1 (8: '1 x' is not a list of whole numbers from 0 on)",
        "annotation row that is a header again: 1 (6)",
        "annotation id taken without its suffix: 1 (a.png)",
    ):
        assert line in said.splitlines()
