"""Submissions that are checked: every fault is found and reported with its row and id."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from submission_files import SIZE, TRUTH, annotations, submission

from core.base.errors import UserError
from data.annotations import rle
from data.submissions.submission_check import SubmissionCheck, check, images_of, images_of_sample
from data.submissions.submission_comparison import compare
from data.submissions.submission_file import write_submission

FAULTY = """\
ImageId, EncodedPixels
a,1 2 5 1
b,-1
a,-1
x,0 1
c,3
d,2 -1
e,1 q
f,30 5
g,30 6
h,
,1 2
i,1 0 3 2
b.dcm,-1
"""


def test_every_fault_is_found(tmp_path: Path) -> None:
    images = dict.fromkeys("abcdefghij", SIZE)
    found = check(submission(tmp_path, FAULTY), {**images, "k": None}, (1024, 1024))
    assert [(fault.kind, fault.row, fault.image_id) for fault in found.faults] == [
        ("header", None, ""),
        ("double", 4, "a"),
        ("unknown", 5, "x"),
        ("malformed", 6, "c"),
        ("malformed", 7, "d"),
        ("malformed", 8, "e"),
        ("overflow", 10, "g"),
        ("cell", 11, "h"),
        ("cell", 12, ""),
        ("malformed", 13, "i"),
        ("unknown", 14, "b.dcm"),
        ("missing", None, "j"),
        ("missing", None, "k"),
    ]
    said = "\n".join(map(str, found.faults))
    for line in (
        "the header is 'ImageId, EncodedPixels'; it must be 'ImageId,EncodedPixels'",
        "row 4: a: the id has come before, in row 2",
        "row 6: c: it has 1 numbers",
        "row 7: d: '2 -1' is not a list of whole numbers from 0 on: with -1 a run would overlap",
        "row 10: g: its runs end at pixel 36, but the image has 5x7 = 35",
        "row 11: h: there is no encoding; a mask of nothing is -1",
        "row 12: there is no image id",
        "row 13: i: 1 of its runs have a length of 0",
        "row 14: b.dcm: there is no such image; there is b",
    ):
        assert line in said
    assert (found.rows, found.images, found.positives) == (13, 11, 5)
    assert found.warnings == ("1 image cannot be read, so that sizes are not known: k",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,1 2\n", "there is no header"),
        ("ImageId;EncodedPixels\na;1 2\n", "the header is 'ImageId;EncodedPixels'"),
        (",ImageId,EncodedPixels\n0,a,1 2\n", "the header is ',ImageId,EncodedPixels'"),
        ("EncodedPixels,ImageId\n1 2,a\n", "the header is 'EncodedPixels,ImageId'"),
        ("image_id,rle\na,1 2\n", "the header is 'image_id,rle'"),
        ("ImageId,EncodedPixels\n", "there is nothing below the header"),
    ],
)
def test_the_layout_must_be_the_competitions(tmp_path: Path, content: str, says: str) -> None:
    found = check(submission(tmp_path, content), None, SIZE)
    assert [fault.kind for fault in found.faults] == ["header"]
    assert found.faults[0].reason.startswith(says)


def test_without_ids_to_compare_with_the_rest_is_checked(tmp_path: Path) -> None:
    found = check(submission(tmp_path, "ImageId,EncodedPixels\na,0 36\nanything,0 35\n"), None, SIZE)
    assert [(fault.kind, fault.row) for fault in found.faults] == [("overflow", 2)]


def kinds(found: SubmissionCheck) -> list[tuple[str, int | None, str]]:
    return [(fault.kind, fault.row, fault.image_id) for fault in found.faults]


def test_ids_with_a_suffix_are_faults_that_name_the_image(tmp_path: Path) -> None:
    """The competition compares ids literally. The rest of such a row is checked too."""
    rows = "a.dcm,0 36\nb,-1\nb.png,-1\nc.png,1 2\nd.dcm,-1\nd,-1\nd.DCM,-1\n"
    path = submission(tmp_path, f"ImageId,EncodedPixels\n{rows}")
    found = check(path, dict.fromkeys(["a", "b", "c.png", "d", "e"], SIZE), SIZE)
    assert kinds(found) == [
        ("overflow", 2, "a.dcm"),
        ("unknown", 2, "a.dcm"),
        ("unknown", 4, "b.png"),
        ("unknown", 6, "d.dcm"),
        ("double", 7, "d"),
        ("unknown", 8, "d.DCM"),
        ("missing", None, "e"),
    ]
    said = [fault.reason for fault in found.faults]
    assert said[1] == "there is no such image; there is a"
    assert said[2] == "there is no such image; there is b, which row 3 is about"
    assert said[4] == "the image has come before, in row 6 as d.dcm; one row an image"
    assert (found.images, found.warnings) == (7, ())
    sample = check(submission(tmp_path, "ImageId,EncodedPixels\na,-1\n"), {"a.dcm": SIZE}, SIZE)
    assert [fault.reason for fault in sample.faults] == ["there is no such image; there is a.dcm"]


def test_without_ids_to_compare_with_a_suffix_is_warned_about(tmp_path: Path) -> None:
    path = submission(tmp_path, "ImageId,EncodedPixels\na.dcm,0 1\nb,-1\nb.png,-1\n\u00a0b\u200b,-1\n")
    found = check(path, None, SIZE)
    assert kinds(found) == [("double", 4, "b.png"), ("double", 5, "b")]
    assert [fault.reason for fault in found.faults] == [
        "the image has come before, in row 3 as b; one row an image",
        "the id has come before, in row 3; one row an image",
    ]
    assert found.warnings == ("2 ids with the suffix of a file; the ids of images have none: a.dcm, b.png",)


def test_numbers_as_pandas_writes_them_are_read_and_warned_about(tmp_path: Path) -> None:
    rows = "a,-1.0\nb,0.0 36.0\nc,1e0 0.0 3 2\nd,-1\ne,1.5 2\nf,1 2\n"
    found = check(submission(tmp_path, f"ImageId,EncodedPixels\n{rows}"), None, SIZE)
    assert kinds(found) == [("overflow", 3, "b"), ("malformed", 4, "c"), ("malformed", 6, "e")]
    assert found.faults[1].reason == "1 of its runs have a length of 0"
    assert found.faults[2].reason == "1.5 is not a whole number"
    assert found.positives == 3
    (warning,) = found.warnings
    assert warning.startswith("3 rows with whole numbers like 12.0, 1e3 or -1.0")
    assert warning.endswith("row 2, 3, 4")


def test_a_header_that_comes_again_is_a_fault(tmp_path: Path) -> None:
    text = "ImageId,EncodedPixels\na,-1\nImageId,EncodedPixels\nb,-1\n"
    found = check(submission(tmp_path, text), {"a": SIZE, "b": SIZE}, SIZE)
    assert kinds(found) == [("header", 3, "")]
    assert (found.rows, found.images) == (2, 2)


def test_files_of_a_folder_that_give_no_image_are_told(tmp_path: Path, write_dicom: Any) -> None:
    pixels = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5)
    write_dicom(pixels, "in/1/a.dcm", SOPInstanceUID="1.2.33")
    write_dicom(pixels.T.copy(), "in/2/a.DICOM", SOPInstanceUID="1.2.33")
    (tmp_path / "in/0").mkdir()
    (tmp_path / "in/0/1.2.33").write_bytes(b"\0" * 128 + b"DICM and no more")
    told: list[str] = []
    assert images_of(tmp_path / "in", lambda _done, _total: None, told.append) == {"1.2.33": (7, 5)}
    assert told == ["files whose id came before, passed over: 2 (1/a.dcm, 2/a.DICOM)"]
    (tmp_path / "sample.csv").write_text("ImageId,EncodedPixels\nb,1 1\n,-1\n")
    assert images_of_sample(tmp_path / "sample.csv", SIZE, told.append) == {"b": SIZE}
    assert told[1].endswith("without an id, passed over: 1 (row 3)")


def test_a_folder_too_deep_to_open_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    """`predict` does the same and writes a row of -1 for it."""
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=place)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    assert images_of(tmp_path, lambda _done, _total: None) == {"d" * 200: None}


def test_ids_and_sizes_of_a_folder(tmp_path: Path, write_dicom: Any) -> None:
    pixels = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5)
    write_dicom(pixels, "in/1/wide.dcm")
    write_dicom(pixels.T.copy(), "in/2/tall.dcm")
    write_dicom(pixels, "in/3/same.dcm", SOPInstanceUID="1.2.33")
    write_dicom(pixels, "in/4/same.dcm", SOPInstanceUID="1.2.44")
    (tmp_path / "in/broken.dcm").write_bytes(b"no DICOM")
    seen: list[tuple[int, int]] = []
    found = images_of(tmp_path / "in", lambda done, total: seen.append((done, total)))
    assert found == {"wide": (7, 5), "tall": (5, 7), "1.2.33": (7, 5), "1.2.44": (7, 5), "broken": None}
    assert seen[-1] == (5, 5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no DICOM file"):
        images_of(tmp_path / "empty", lambda _done, _total: None)


def test_ids_of_a_sample(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text("ImageId,EncodedPixels\nb,1 1\na, -1\nb,-1\n")
    assert images_of_sample(tmp_path / "sample.csv", SIZE) == {"b": SIZE, "a": SIZE}
    (tmp_path / "sample.csv").write_text("ImageId,EncodedPixels\n")
    with pytest.raises(UserError, match="contains no image id"):
        images_of_sample(tmp_path / "sample.csv", SIZE)


def test_transposed_masks_of_a_file_are_warned_about(tmp_path: Path) -> None:
    """One example from end to end; `test_mask_appearance` tests each kind."""
    pixels = np.zeros((60, 90), np.uint8)
    pixels[5:40, 12:30] = 1
    for mask, warned in ((pixels, False), (pixels.T, True)):
        write_submission(tmp_path / "s.csv", [("a", rle.encode(mask)), ("b", "-1")])
        found = check(tmp_path / "s.csv", None, pixels.shape)
        assert found.faults == ()
        assert ["transposed" in warning for warning in found.warnings] == [True] * warned


cells = st.text(st.sampled_from('0123456789 -1;,\t\n\r"aé\x00'), max_size=30)


@given(st.lists(cells, max_size=6), st.booleans())
def test_anything_gives_a_verdict_or_a_clear_error(lines: list[str], headed: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        path.write_text("\n".join(["ImageId,EncodedPixels"] * headed + lines), newline="")
        with contextlib.suppress(UserError):
            verdict = check(path, {"a": SIZE, "1": (3, 4)}, SIZE)
            assert verdict.faults or headed
        with contextlib.suppress(UserError):
            found = compare(path, annotations(Path(folder), TRUTH), "skip")
            assert (found.overlap <= np.minimum(found.predicted, found.truth)).all()


def test_ids_that_nearly_match_are_named(tmp_path: Path) -> None:
    known = annotations(tmp_path, TRUTH)
    path = submission(tmp_path, "ImageId,EncodedPixels\nx/a.dcm,1 1\nx/b.dcm,-1\n")
    with pytest.raises(UserError) as caught:
        compare(path, known)
    assert caught.value.hint == ("The table has 'x/a.dcm', and there is 'a': an id is the file's name alone.")
    first = check(path, dict.fromkeys("abc", SIZE), SIZE).faults[0]
    assert (first.kind, first.row) == ("unknown", None)
    assert first.reason == f"no id is that of an image. {caught.value.hint}"
    met = check(
        submission(tmp_path, "ImageId,EncodedPixels\nx/a.dcm,1 1\nb,-1\n"), {"a": SIZE, "b": SIZE}, SIZE
    )
    assert [(fault.kind, fault.row) for fault in met.faults] == [("unknown", 2), ("missing", None)]


def test_a_row_of_one_cell_is_explained(tmp_path: Path) -> None:
    path = submission(tmp_path, 'ImageId,EncodedPixels\na;1 1\n"b,-1"\n')
    with pytest.raises(UserError, match=r"row 2: the row has one cell; is its delimiter ';'\?"):
        compare(path, annotations(tmp_path, TRUTH))
    assert [(fault.row, fault.kind, fault.reason) for fault in check(path, None, SIZE).faults] == [
        (2, "cell", "the row has one cell; is its delimiter ';'?"),
        (3, "cell", "the whole row is in quotes: remove them"),
    ]


def test_excels_first_line_is_read_and_is_a_fault(tmp_path: Path) -> None:
    found = check(submission(tmp_path, "sep=,\nImageId,EncodedPixels\na,1 1\n"), {"a": SIZE}, SIZE)
    assert [(fault.row, fault.kind) for fault in found.faults] == [(1, "header")]
    assert (found.rows, found.positives) == (1, 1)
