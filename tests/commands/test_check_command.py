"""`run.py check`: faults by row and id, warnings, the JSON, the exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import changed, refused, run_here, succeed
from tiny_model import radiograph, write_radiograph

from data.annotations import rle
from data.phantoms.anatomy import draw
from data.phantoms.data_set import PhantomSettings, write_phantoms
from data.submissions.submission_file import write_submission


def check(folder: Path, *words: str) -> tuple[int, str]:
    done = run_here("check", *words, cwd=folder)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_faults_are_listed_counted_and_written(tmp_path: Path) -> None:
    rows = [f"x{number},-1" for number in range(9)]
    text = "\n".join(["ImageId,EncodedPixels", "a,0 36", "a,1 2", *rows, "[b],3 0"]) + "\n"
    (tmp_path / "submission.csv").write_text(text)
    (tmp_path / "sample.csv").write_text("ImageId,EncodedPixels\na,-1\n[b],-1\nlost,-1\n")
    words = ["--sample", "sample.csv", "--height", "7", "--width", "5", "--json", "found.json"]
    status, said = check(tmp_path, *words)
    assert status == 3
    assert said.splitlines() == [
        "submission.csv: 12 rows, 11 images, 2 masks that are not empty",
        "fault: row 2: a: its runs end at pixel 36, but the image has 5x7 = 35",
        "fault: row 3: a: the id has come before, in row 2; one row an image",
        *(f"fault: row {number + 4}: x{number}: there is no such image" for number in range(5)),
        "fault: and 4 more of this kind (unknown)",
        "fault: row 13: [b]: 1 of its runs have a length of 0",
        "fault: lost: there is no row for this image",
        "13 faults, no warnings",
    ]
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["valid"], found["rows"], found["images"], found["positives"]) == (False, 12, 11, 2)
    assert len(found["faults"]) == 13
    assert found["faults"][1] == {
        "row": 3,
        "image_id": "a",
        "kind": "double",
        "reason": "the id has come before, in row 2; one row an image",
    }


def test_a_submission_for_a_folder_of_images(tmp_path: Path) -> None:
    write_phantoms(PhantomSettings(out=tmp_path, count=6, size=64, seed=1, positive_fraction=0.5, workers=1))
    files = sorted((tmp_path / "dicom-images-train").rglob("*.dcm"))
    rows = [(file.stem, rle.encode(np.eye(64, dtype=np.uint8))) for file in files]
    write_submission(tmp_path / "submission.csv", rows)
    said = succeed("check", "--images", "dicom-images-train", cwd=tmp_path)
    assert said.splitlines()[-1] == "no faults, no warnings"
    write_submission(tmp_path / "submission.csv", [(files[0].stem, "4095 2"), *rows[2:]])
    status, said = check(tmp_path, "--images", "dicom-images-train")
    assert status == 3
    assert "its runs end at pixel 4097, but the image has 64x64 = 4096" in said
    assert f"{files[1].stem}: there is no row for this image" in said
    assert "2 faults, no warnings" in said


def test_images_whose_names_have_no_suffix(tmp_path: Path) -> None:
    """The expected ids are the names of the files without suffix; ignored files are listed."""
    uid = "1.2.276.0.7230010.3.1.4.8323329.1000.1517875165.878027"
    names = [uid, "CR.0001", "CR.0002", "a b à.dcm", "DicomDir", "x/same.dcm", "y/same.DICOM"]
    for number, name in enumerate(names):
        write_radiograph(tmp_path / "in" / name, number // 6, radiograph(number, 7, 5, True))
    same = "1.2.826.0.1.3680043.8.498.4711.3."
    rows = [(name, "-1") for name in (uid, "CR.0001", "CR.0002", "a b à", f"{same}0", f"{same}1")]
    write_submission(tmp_path / "submission.csv", rows)
    status, said = check(tmp_path, "--images", "in")
    assert (status, said.splitlines()[1:]) == (0, ["no faults, no warnings"])
    write_submission(tmp_path / "submission.csv", [(name.rsplit(".", 1)[0], code) for name, code in rows[:1]])
    status, said = check(tmp_path, "--images", "in")
    assert status == 3
    assert f"row 2: {uid.removesuffix('.878027')}: there is no such image" in said
    assert f"{uid}: there is no row for this image" in said
    (tmp_path / "in" / "z").mkdir()
    shutil.copy(tmp_path / "in" / "x" / "same.dcm", tmp_path / "in" / "z")
    _, said = check(tmp_path, "--images", "in")
    assert "note: files whose id came before, passed over: 1 (z/same.dcm)" in said


def test_warnings_leave_it_valid(tmp_path: Path) -> None:
    masks = [np.bitwise_or.reduce(draw(5, number, 128, True).regions).T for number in range(16)]
    write_submission(tmp_path / "s.csv", [(f"{n}", rle.encode(mask)) for n, mask in enumerate(masks)])
    status, said = check(tmp_path, "s.csv", "--size", "128", "--json", "found.json")
    assert status == 0
    assert "warning: the masks look transposed" in said
    assert "ids were not compared with anything" in said
    assert said.splitlines()[-1] == "no faults, 1 warning"
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["valid"] is True
    assert len(found["warnings"]) == 1
    status, said = check(tmp_path, "s.csv")
    assert status == 0
    assert "a height of about 128 pixels, not 1024" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.csv"], ["cannot read the submission nowhere.csv: No such file"]),
        (["--sample", "nowhere.csv"], ["cannot read the sample nowhere.csv"]),
        (["--images", "nowhere"], ["cannot list nowhere"]),
        (["--size", "0"], ["--size must be at least 1. Received: 0"]),
        (["--size", "9", "--width", "3"], ["--size is both --height and --width"]),
        (["--images", "nowhere", "--size", "9"], ["--size and --images"]),
        (["--sample", "cut.csv.gz"], ["cut.csv.gz is not a whole gzip file"]),
        (["--json", "submission.csv"], ["--json submission.csv is the submission"]),
        (["--sample", "cut.csv.gz", "--json", "./cut.csv.gz"], ["--json cut.csv.gz is the sample"]),
    ],
)
def test_what_cannot_be_checked_is_one_clear_error(tmp_path: Path, words: list[str], says: list[str]) -> None:
    (tmp_path / "submission.csv").write_text("ImageId,EncodedPixels\na,-1\n")
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00")
    refused(*changed(["check", "--json", "f.json"], *words), cwd=tmp_path, how=run_here, says=says)
