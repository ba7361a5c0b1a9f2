"""`preprocess.py`: its errors, the files that it leaves out and lists, the files that it never replaces."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import (
    NETWORK,
    assert_one_error,
    changed,
    content,
    environment,
    launcher,
    refused,
    run,
    run_here,
    succeed,
    words_of,
)

from data.hdf5.store import Store
from data.phantoms.data_set import PhantomSettings, write_phantoms

IMAGES, ANNOTATIONS = "dicom-images-train", "train-rle.csv"
COUNT = 12


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve phantoms of 64 pixels; the last has no annotation."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(PhantomSettings(folder, count=COUNT, size=64, seed=9, positive_fraction=0.5, workers=1))
    return folder


@pytest.fixture
def place(phantoms: Path, tmp_path: Path) -> Path:
    """A folder with a copy of them under the default names of `preprocess.py`."""
    shutil.copytree(phantoms, tmp_path, dirs_exist_ok=True)
    return tmp_path


PREPROCESS = ["--size", "32", "--workers", "1"]


def preprocess(*words: str, cwd: Path, how: Any = run_here) -> dict[str, str]:
    """Run `preprocess.py`; return the lines of the table."""
    return counts(succeed(*PREPROCESS, *words, cwd=cwd, how=how, program="preprocess.py"))


def counts(output: str) -> dict[str, str]:
    return dict(re.findall(r"^│ +(.+?) +│ +(.+?) │$", output, re.MULTILINE))


def test_an_existing_output_is_replaced_only_when_asked(place: Path) -> None:
    found = preprocess(cwd=place, how=run)
    assert (found["DICOM files found"], found["images written"]) == (str(COUNT), str(COUNT - 1))
    says = ["pneumothorax.h5 exists already", "--overwrite"]
    refused(*PREPROCESS, cwd=place, program="preprocess.py", how=run_here, says=says)
    first = (place / "pneumothorax.h5").read_bytes()
    preprocess("--overwrite", "--storage", "uint8", cwd=place)
    assert len((place / "pneumothorax.h5").read_bytes()) < len(first)
    with Store.open(place / "pneumothorax.h5") as store:
        assert store.count == COUNT - 1
        assert store.attributes["storage"] == "uint8"


def test_a_file_that_is_no_data_file_is_not_replaced_either(place: Path) -> None:
    (place / "pneumothorax.h5").write_text("precious")
    says = ["pneumothorax.h5 exists already", "--overwrite"]
    refused(*PREPROCESS, cwd=place, program="preprocess.py", how=run_here, says=says)


def test_missing_folders_of_the_output_are_made(place: Path) -> None:
    preprocess("--out", "new/folder/a.h5", cwd=place)
    assert [path.name for path in (place / "new/folder").iterdir()] == ["a.h5"]


def test_unreadable_files_are_left_out_reported_and_counted(place: Path) -> None:
    images = sorted((place / IMAGES).rglob("*.dcm"))
    (place / IMAGES / "torn.dcm").write_bytes(images[0].read_bytes()[:700])
    (place / IMAGES / "text.dcm").write_text("these are no radiographs\n")
    (place / IMAGES / "empty.dcm").touch()
    shutil.copy(images[0], place / IMAGES / "zz-again.dcm")
    with (place / ANNOTATIONS).open("a") as file:
        file.write("nobody, 1 2\n")
    output = succeed(*PREPROCESS, cwd=place, how=run_here, program="preprocess.py", status=3)
    found = counts(output)
    assert found["DICOM files found"] == str(COUNT + 4)
    assert found["images written"] == str(COUNT - 1)
    assert found["skipped: unreadable"] == "3"
    assert found["skipped: id seen before"] == "1"
    assert found["skipped: without annotation"] == "1"
    assert found["annotations without image"] == "2"
    for name in ("torn", "text", "empty"):
        assert re.search(rf"^unreadable: {name}\.dcm: \S", output, re.MULTILINE), output
    assert "duplicate id: zz-again.dcm" in output
    assert "nobody" in output
    with Store.open(place / "pneumothorax.h5") as store:
        assert store.count == COUNT - 1


def test_rows_that_are_not_taken_as_they_stand_are_counted_and_named(place: Path) -> None:
    lines = (place / ANNOTATIONS).read_text().splitlines()
    first = lines[1].split(",")[0]
    negative = next(number for number, line in enumerate(lines) if line.endswith(", -1") and number > 1)
    lines[negative] = lines[negative].replace(", -1", ".dcm, -1.0")
    lines += [lines[0], f"{first}.png, -1", f"\u00a0{first}\u3000,"]
    (place / ANNOTATIONS).write_text("\n".join(lines))
    output = succeed(*PREPROCESS, "--report", "report.json", cwd=place, how=run_here, program="preprocess.py")
    found = counts(output)
    assert found["images written"] == str(COUNT - 1)
    assert found["annotation rows that are a header again"] == "1"
    assert found["annotation ids taken without suffix"] == "2"
    assert found["annotation rows without id or value"] == "1"
    written = [lines[negative].split(",")[0], f"{first}.png"]
    for name in written:
        assert f"annotation id taken without its suffix: {name}" in output.splitlines()
    assert f"annotation row that is a header again: {len(lines) - 2}" in output.splitlines()
    report = json.loads((place / "report.json").read_text())["annotations"]
    assert (report["shortened"], report["repeated_headers"]) == (written, [len(lines) - 2])
    assert not {"rows_of", "runs_of"} & report.keys()


def test_the_report_says_what_the_table_says(place: Path) -> None:
    found = preprocess("--report", "new/report.json", cwd=place)
    report = json.loads((place / "new/report.json").read_text())
    assert report["format"] == "pneumoseg-report"
    assert found["DICOM files found"] == str(report["found"]) == str(COUNT)
    assert report["transfer_syntaxes"] == {"JPEG Baseline (Process 1)": COUNT}
    assert found["  JPEG Baseline (Process 1)".strip()] == found["8 bits"] == str(COUNT)
    assert found["with a pneumothorax"] == str(report["positives"])
    for number, count in report["annotations_per_image"].items():
        assert found[f"with {'no' if number == '0' else number} annotation{'s' * (number != '1')}"] == str(
            count
        )
    assert sum(report["annotations_per_image"].values()) == report["written"] == COUNT - 1
    assert report["annotations"]["rows"] > report["annotations"]["images"] >= COUNT - 1
    assert [remark["file"] for remark in report["without_annotation"]]
    said = succeed("verify", cwd=place, program="preprocess.py", how=run_here)
    assert "no faults" in said
    assert f"{report['positives']} (" in said


def test_strict_refuses_and_reports_all_the_same(place: Path) -> None:
    words = [*PREPROCESS, "--strict", "--report", "report.json"]
    done = run_here(*words, cwd=place, program="preprocess.py")
    assert_one_error(done, "1 of 12 DICOM files", "--strict", "without annotation", "report.json")
    assert not (place / "pneumothorax.h5").exists()
    report = json.loads((place / "report.json").read_text())
    assert report["error"].splitlines()[0] in done.stderr
    assert len(report["without_annotation"]) == len(report["without_image"]) == 1


def test_a_test_folder_is_preprocessed_but_never_trained_on(place: Path) -> None:
    (place / ANNOTATIONS).unlink()
    said = refused(*PREPROCESS, cwd=place, program="preprocess.py", how=run_here, says=["--no-annotations"])
    assert f"the annotation file {ANNOTATIONS} does not exist" in said
    found = preprocess("--no-annotations", "--strict", cwd=place)
    assert found["images written"] == found["none of them annotated"] == str(COUNT)
    assert "with a pneumothorax" not in found
    (place / "network.yaml").write_text(NETWORK)
    data = ["--config", "network.yaml", "--data", "pneumothorax.h5"]
    for words in (["-f", "reference"], ["parity", "-f", "reference", "-f", "reference"]):
        refused(*words, *data, cwd=place, how=run_here, says=["pneumothorax.h5", "without annotations"])


def test_annotations_are_either_named_or_renounced(place: Path) -> None:
    done = run("--annotations", ANNOTATIONS, "--no-annotations", cwd=place, program="preprocess.py")
    assert done.returncode == 2
    assert "not allowed with" in done.stderr


def test_of_many_unreadable_files_some_are_named(place: Path) -> None:
    for number in range(8):
        (place / IMAGES / f"bad-{number}.dcm").write_text(f"no radiograph {number}")
    output = succeed(*PREPROCESS, cwd=place, how=run_here, program="preprocess.py", status=3)
    assert counts(output)["skipped: unreadable"] == "8"
    assert output.count("unreadable: bad-") == 5
    assert "unreadable: 3 more" in output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--images", "nowhere"], ["the images folder nowhere does not exist", "Kaggle", "phantoms"]),
        (["--images", ANNOTATIONS], [f"the images folder {ANNOTATIONS} is not a folder"]),
        (["--images", "empty"], ["no DICOM file", "empty"]),
        (["--annotations", "nowhere.csv"], ["the annotation file nowhere.csv does not exist", "Kaggle"]),
        (["--annotations", IMAGES], [f"the annotation file {IMAGES} is a folder"]),
        (["--size", "0"], ["--size", "0"]),
        (["--size", "99999"], ["--size", "99999"]),
        (["--per-dataset", "-1"], ["--per-dataset", "-1"]),
        (["--workers", "0"], ["--workers", "0"]),
        (["--out", "empty"], ["empty is a folder"]),
        (["--report", "empty"], ["empty is a folder", "--report"]),
        (["--report", "same", "--out", "./same"], ["--report and --out both name same"]),
        (["--out", f"{ANNOTATIONS}/a.h5"], [f"cannot write {ANNOTATIONS}/a.h5", "Not a directory"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_what_cannot_be_done_is_one_clear_error(place: Path, words: list[str], says: list[str]) -> None:
    (place / "empty").mkdir()
    given = changed(PREPROCESS, *words)
    refused(*given, cwd=place, program="preprocess.py", how=run_here, says=says)


@pytest.mark.parametrize("text", ["", "not,a,table\nof,this,kind\n", "\0\1\2\xff"])
def test_an_annotation_file_of_something_else(place: Path, text: str) -> None:
    (place / ANNOTATIONS).write_text(text, encoding="latin-1")
    refused(*PREPROCESS, cwd=place, program="preprocess.py", how=run_here, says=[ANNOTATIONS])


def test_an_output_folder_that_must_not_be_written(place: Path) -> None:
    (place / "sealed").mkdir(mode=0o555)
    says = ["cannot write sealed/a.h5", "Permission denied"]
    words = [*PREPROCESS, "--out", "sealed/a.h5"]
    refused(*words, cwd=place, program="preprocess.py", says=says, before=launcher("bound"))


def test_a_file_that_must_not_be_read_is_left_out(place: Path) -> None:
    (place / ANNOTATIONS).chmod(0)
    says = ["cannot read", ANNOTATIONS, "Permission denied"]
    refused(*PREPROCESS, cwd=place, program="preprocess.py", says=says, before=launcher("bound"))
    (place / ANNOTATIONS).chmod(0o644)
    first = min((place / IMAGES).rglob("*.dcm"))
    first.chmod(0)
    done = run(*PREPROCESS, cwd=place, program="preprocess.py", before=launcher("bound"))
    assert (done.returncode, done.stderr) == (3, "")
    assert counts(done.stdout)["skipped: unreadable"] == "1"
    assert first.name in done.stdout
    assert "Permission denied" in done.stdout


def test_phantoms_are_not_drawn_over_other_files(place: Path) -> None:
    words = ["phantoms", "--out", ".", "--count", "2", "--size", "64", "--workers", "1"]
    refused(*words, cwd=place, program="preprocess.py", how=run_here, says=["not empty", "--overwrite"])
    (place / "mine.txt").write_text("precious")
    said = succeed(*words, "--overwrite", cwd=place, how=run_here, program="preprocess.py")
    assert "2 phantoms" in said
    assert (place / "mine.txt").read_text() == "precious"
    assert len(list((place / IMAGES).rglob("*.dcm"))) == 2


@pytest.mark.parametrize(
    "words", [["--count", "0"], ["--size", "7"], ["--positive-fraction", "1.5"], ["--workers", "0"]]
)
def test_phantoms_that_cannot_be_drawn(tmp_path: Path, words: list[str]) -> None:
    refused("phantoms", *words, cwd=tmp_path, program="preprocess.py", how=run_here, says=words)
    assert not content(tmp_path)


def test_the_next_command_can_be_pasted(tmp_path: Path) -> None:
    words = ["phantoms", "--out", "a b's", "--count", "2", "--size", "64", "--workers", "1"]
    said = succeed(*words, cwd=tmp_path, program="preprocess.py", how=run_here)
    following = shlex.split(said.partition("Next: python preprocess.py ")[2])
    assert following == ["--images", "a b's/dicom-images-train", "--annotations", "a b's/train-rle.csv"]


@pytest.mark.parametrize("how", ["fifo", "standard input", "substitution"])
def test_annotations_come_through_a_pipe(place: Path, how: str) -> None:
    program = shlex.join(words_of("preprocess.py", *PREPROCESS, "--strict", "--out"))
    lines = (place / ANNOTATIONS).read_text().splitlines()
    missing = {file.stem for file in (place / IMAGES).rglob("*.dcm")} - {line.split(",")[0] for line in lines}
    gone = [
        line for line in lines if "ImageId" not in line and not any(place.rglob(f"{line.split(',')[0]}.dcm"))
    ]
    (place / ANNOTATIONS).write_text(
        "\n".join([line for line in lines if line not in gone] + [f"{one},-1" for one in missing])
    )
    script = {
        "fifo": f"mkfifo pipe; cat {ANNOTATIONS} > pipe & {program} a.h5 --annotations pipe",
        "standard input": f"cat {ANNOTATIONS} | {program} a.h5 --annotations /dev/stdin",
        "substitution": f"{program} a.h5 --annotations <(cat {ANNOTATIONS})",
    }[how]
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=place,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with Store.open(place / "a.h5") as store:
        assert store.count == COUNT


def test_reasons_and_names_are_shown_one_a_line(place: Path) -> None:
    lines = (place / ANNOTATIONS).read_text().splitlines()
    minus = ["\u2212"] * 3 + ["-"] * 4
    more = [f"gone-{number},{sign}1" for number, sign in enumerate(minus)]
    (place / ANNOTATIONS).write_text("\n".join([*lines, *more]), encoding="utf-8")
    output = succeed(*PREPROCESS, cwd=place, how=run_here, program="preprocess.py").splitlines()
    first = len(lines) + 1
    assert [line for line in output if line.startswith("annotation row that is no mask")] == [
        f"annotation row that is no mask: {first}: '\u2212' is no ASCII minus: write -1",
        f"annotation row that is no mask: {first + 1}",
        f"annotation row that is no mask: {first + 2}",
    ]
    absent = [line for line in output if line.startswith("annotation without image: ")]
    assert absent[-1] == "annotation without image: 3 more"
    assert "annotation without image: gone-1" in absent
    assert len(absent) == 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda name: f"images/{name}.dcm", "an id is the file's name alone"),
        (str.swapcase, "it differs in upper and lower case"),
        (lambda name: f"other-{name}", "Do they belong together?"),
    ],
    ids=["path", "case", "others"],
)
def test_where_no_id_is_that_of_an_image_no_download_is_advised(
    place: Path, change: Callable[[str], str], says: str
) -> None:
    for number, file in enumerate(sorted((place / IMAGES).rglob("*.dcm"))):
        file.rename(place / IMAGES / f"Image{number}.dcm")
        if number % 2:  # so that a SOP Instance UID does not match either
            (place / IMAGES / f"Image{number}.dcm").unlink()
    rows = [f"{change(f'Image{number}')},-1" for number in range(0, COUNT, 2)]
    (place / ANNOTATIONS).write_text("\n".join(["ImageId,EncodedPixels", *rows]))
    said = refused(*PREPROCESS, cwd=place, program="preprocess.py", how=run_here, says=[says])
    assert "Kaggle" not in said


def test_an_error_has_no_empty_line_above_it(place: Path) -> None:
    """No empty line is written to a file, or to a terminal before the bar starts."""
    both = ["bash", "-c", f"{shlex.join(words_of('preprocess.py', '--images', 'nowhere'))} 2>&1"]
    done = subprocess.run(
        both, cwd=place, env=environment(), capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 1
    assert done.stdout.startswith("error: the images folder nowhere does not exist")
