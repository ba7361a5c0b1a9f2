"""Tests of reading the annotation file."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from core.base.errors import UserError
from data.annotations import rle
from data.annotations.annotation_file import AnnotationError, AnnotationRow, combined_mask, read_annotations

PLAIN = "ImageId,EncodedPixels\na,1 2\nb,-1\na,3 4 1 1\n"


def read(folder: Path, content: str | bytes) -> dict[str, list[str]]:
    path = folder / "train-rle.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = read_annotations(path).rows_of
    return {image_id: [row.text for row in rows] for image_id, rows in found.items()}


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace(",", ", "),
        PLAIN.replace("ImageId,EncodedPixels\n", ""),
        "\ufeff" + PLAIN,
        "\ufeff" + PLAIN.replace("ImageId,EncodedPixels\n", ""),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", " \n\n"),
        PLAIN.rstrip("\n"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace("ImageId,EncodedPixels", " imageid ,  ENCODEDPIXELS "),
        PLAIN.replace("1 2\n", '"1 2"\n').replace("-1", '" -1"'),
        gzip.compress(PLAIN.encode(), mtime=0),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace(",", "\t").encode("utf-16"),
        PLAIN.replace("a,", "a.dcm,"),
        PLAIN.replace("b,", "b.PNG,"),
        PLAIN.replace("a,", "\u00a0a\u3000,", 1),
        PLAIN.replace(",", ', "').replace("\n", '"\n'),
        "".join(",".join(["0", *reversed(line.split(","))]) + "\n" for line in PLAIN.splitlines()),
    ],
)
def test_every_variant_says_the_same(tmp_path: Path, content: str | bytes) -> None:
    assert read(tmp_path, content) == {"a": ["1 2", "3 4 1 1"], "b": ["-1"]}


def test_a_long_first_row_that_is_no_encoding_is_refused_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"train-rle\.csv, row 1: not an id and an encoding"):
        read(tmp_path, f'a,"1{" " * 60000}x"\n')
    assert time.monotonic() - began < 10


def test_counts_rows_and_hash(tmp_path: Path) -> None:
    text = "ImageId, EncodedPixels\na, 1 2\nb, -1\na, 3 4\nc, -1\nc, 5 6\nd,\n,1 2\ne\n"
    path = tmp_path / "rle.csv"
    path.write_text(text)
    found = read_annotations(path)
    assert (found.rows, found.images, found.positives, found.several) == (5, 3, 2, 1)
    assert found.contradictory == 1
    assert found.blank_rows == (7, 8, 9)
    assert found.rows_of["a"] == (AnnotationRow(2, "1 2"), AnnotationRow(4, "3 4"))
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_contradicts_or_is_no_mask_is_named_by_its_row(tmp_path: Path) -> None:
    lines = ["a, -1", "b, 5 3 1", "a, 1 2", "c, 1 2", "a, -1", "d, 3 4 -2 5", "c, 1 x", "d, -1", "e, 0 1"]
    path = tmp_path / "rle.csv"
    path.write_text("\n".join(lines))
    found = read_annotations(path)
    assert (found.contradictory, found.contradictory_rows) == (2, (1, 5, 8))
    reasons = dict(found.malformed_rows)
    assert reasons.keys() == {2, 6, 7}
    assert "3 numbers" in reasons[2]
    assert "-2 a run would overlap" in reasons[6]
    assert "'1 x'" in reasons[7]
    assert (found.overlapping, found.overlapping_rows) == (0, ())


def test_one_image_under_several_names(tmp_path: Path) -> None:
    lines = ["a.dcm, 1 2", "b, -1", "a, 2 5", "c.png, -1", "B.jpg, -1", "a.DICOM, 9 1 q", "d.dcm.dcm, 1 1"]
    path = tmp_path / "rle.csv"
    path.write_text("\n".join(lines))
    found = read_annotations(path)
    assert {name: [row.number for row in rows] for name, rows in found.rows_of.items()} == {
        "a": [1, 3, 6],
        "b": [2],
        "c": [4],
        "B": [5],
        "d": [7],
    }
    assert found.shortened == ("a.dcm", "c.png", "B.jpg", "a.DICOM", "d.dcm.dcm")
    assert (found.images, found.several, found.overlapping_rows) == (5, 1, (3,))
    assert found.passed_over == {
        "annotation row that is no mask": ["6: '9 1 q' is not a list of whole numbers from 0 on"],
        "annotation id taken without its suffix": found.shortened,
    }
    known = read_annotations(path, {"a", "d.dcm", "c.png", "b"})
    assert known.rows_of.keys() == {"a", "b", "c.png", "B", "d.dcm"}
    assert known.shortened == ("a.dcm", "B.jpg", "a.DICOM", "d.dcm.dcm")


def test_negatives_that_pandas_wrote(tmp_path: Path) -> None:
    path = tmp_path / "rle.csv"
    path.write_text("ImageId,EncodedPixels\na,-1.0\nb,1.0 2.0\nc,-1e0\nb,-1.\nd,nan\ne,1.5 1\n")
    found = read_annotations(path)
    assert [found.rows_of[name][0].empty for name in "abcd"] == [True, False, True, False]
    assert (found.positives, found.contradictory_rows) == (3, (5,))
    assert found.malformed_rows == ((6, "nan is not a whole number"), (7, "1.5 is not a whole number"))
    assert found.runs_of["b"].tolist() == [[1, 3]]
    np.testing.assert_array_equal(
        combined_mask(found.rows_of["b"], 5, 3), combined_mask([AnnotationRow(3, "1 2")], 5, 3)
    )


def test_files_put_together_name_the_header_in_between(tmp_path: Path) -> None:
    path = tmp_path / "rle.csv"
    path.write_text("ImageId,EncodedPixels\na,-1\n\ufeffImageId,EncodedPixels\nb,1 2\n,\n,3 4\n")
    found = read_annotations(path)
    assert found.rows_of == {"a": (AnnotationRow(2, "-1"),), "b": (AnnotationRow(4, "1 2"),)}
    assert found.passed_over == {
        "annotation row without id or value": [6],
        "annotation row that is a header again": (3,),
    }


def by_masks(
    images: Sequence[Sequence[AnnotationRow]], height: int, width: int
) -> tuple[int, tuple[int, ...]]:
    """Count images with shared pixels, and list the rows that set a pixel again, by drawing the masks."""
    count, later = 0, list[int]()
    for rows in images:
        drawn = np.zeros((height, width), np.uint8)
        before = len(later)
        for row in rows:
            mask = rle.decode(row.text, height, width)
            later += [row.number] * bool((drawn & mask).any())
            drawn |= mask
        count += len(later) > before
    return count, tuple(sorted(later))


@given(st.lists(st.tuples(st.sampled_from("abc"), arrays(np.uint8, (5, 7), elements=st.integers(0, 1)))))
def test_overlaps_and_runs_are_those_of_the_masks(drawn: list[tuple[str, NDArray[np.uint8]]]) -> None:
    sparse = [
        (image_id, mask & (np.arange(35).reshape(5, 7) % 3 > n % 4))
        for n, (image_id, mask) in enumerate(drawn)
    ]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rle.csv"
        path.write_text(
            "id, -1\n" + "".join(f"{image_id}, {rle.encode(mask)}\n" for image_id, mask in sparse)
        )
        found = read_annotations(path)
    assert (found.overlapping, found.overlapping_rows) == by_masks(list(found.rows_of.values()), 5, 7)
    masks = {image_id: combined_mask(rows, 5, 7) for image_id, rows in found.rows_of.items()}
    assert found.runs_of.keys() == {image_id for image_id, mask in masks.items() if mask.any()}
    for image_id, runs in found.runs_of.items():
        np.testing.assert_array_equal(rle.draw(runs, 5, 7), masks[image_id])


def test_no_runs_for_an_image_with_a_malformed_row(tmp_path: Path) -> None:
    (tmp_path / "rle.csv").write_text("a, 0 3\na, 4\nb, -1\nb, 1 2\n")
    found = read_annotations(tmp_path / "rle.csv")
    assert {image_id: runs.tolist() for image_id, runs in found.runs_of.items()} == {"b": [[1, 3]]}


def test_runs_that_only_touch_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "rle.csv"
    path.write_text("a, 0 3 4 2\na, 3 4\na, 9 0 0 1\nb, 0 3 4 2\nb, 9 1\nb, 3 5 1 0\n")
    found = read_annotations(path)
    assert (found.overlapping, found.overlapping_rows) == (1, (6,))


def test_unquoted_delimiters_are_not_cut_off(tmp_path: Path) -> None:
    """`a,1,2,3,4` must neither become the annotation `1` nor be accepted."""
    rows = read(tmp_path, "ImageId,EncodedPixels\na,1,2,3,4\n")
    with pytest.raises(AnnotationError):
        combined_mask([AnnotationRow(2, rows["a"][0])], 9, 9)


def test_long_cells_are_read(tmp_path: Path) -> None:
    """Python's csv refuses more than 131,072 characters unless told otherwise."""
    encoding = "1 1 " * 100_000
    assert read(tmp_path, f"a,{encoding}\n") == {"a": [encoding.strip()]}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no annotation"),
        ("ImageId,EncodedPixels\n", "no annotation"),
        ("ImageId,Label\na,1\n", "row 1"),
        ("\n\nname,value\n", "row 3"),
        ("a,1 2,3\n", "row 1"),
        (b"\x89PNG\r\n\x1a\n\0\0", "row 1"),
        (b"ImageId,EncodedPixels\na,-1\n\xff,-1\n", "row 3"),
        (b"\x1f\x8bnot gzip", "gzip"),
        (gzip.compress(PLAIN.encode() * 99, mtime=0)[:-9], "gzip"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert says in str(caught.value)
    assert "train-rle.csv" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        read_annotations(tmp_path / "nowhere.csv")


def test_annotations_are_joined_by_or() -> None:
    rows = [AnnotationRow(2, "1 3"), AnnotationRow(3, "3 3"), AnnotationRow(4, "-1")]
    expected = np.zeros(15, np.uint8)
    expected[1:6] = 1
    np.testing.assert_array_equal(combined_mask(rows, 5, 3), expected.reshape(3, 5).T)


def test_a_bad_row_is_named() -> None:
    with pytest.raises(AnnotationError, match="row 17"):
        combined_mask([AnnotationRow(16, "1 2"), AnnotationRow(17, "1 99")], 5, 3)


def test_the_real_file(real_data: Path) -> None:
    path = real_data / "annotations" / "siim-pneumothorax-train-rle.csv.gz"
    found = read_annotations(path)
    assert (found.rows, found.images, found.positives, found.several) == (12954, 12047, 2669, 624)
    assert len(found.overlapping_rows) == 239
    assert (found.contradictory, found.malformed_rows, found.blank_rows) == (0, (), ())
    images, later = by_masks([rows for rows in found.rows_of.values() if len(rows) > 1], 1024, 1024)
    assert (found.overlapping, found.overlapping_rows) == (images, later)
    single = [rows[0] for rows in found.rows_of.values() if len(rows) == 1 and not rows[0].empty]
    assert len(single) == 2669 - 624
    for row in single:
        assert rle.encode(rle.decode(row.text, 1024, 1024)) == row.text


def test_the_real_sample_without_header(real_data: Path) -> None:
    path = real_data / "annotations" / "train-rle-sample-no-header-bom-crlf.csv"
    found = read_annotations(path)
    assert found.rows == 10
    assert next(iter(found.rows_of)) == "1.2.276.0.7230010.3.1.4.8323329.1000.1517875165.878027"


@pytest.mark.parametrize(
    ("rows", "what", "says"),
    [
        (["a,\u22121", "b,\u22121", "c,\u20131"], "no mask", ["'\u2212' is no ASCII minus: write -1"]),
        (["a,1,0 5,0", "b,1 2"], "no mask", ["'1,0 5,0'", "no comma may be in or between numbers"]),
        (["a,-1,0", "b,1 2"], "no mask", ["'-1,0'", "no comma may be in or between numbers"]),
        (['a,"1,000 5"', "b,1 2"], "no mask", ["'1,000 5'", "no comma may be in or between numbers"]),
        (
            ["\u201ca\u201d,\u201c1 5\u201d", "b,1 2"],
            "no mask",
            ['quotes, \u201c and \u201d, are not ": remove'],
        ),
        (["a,'1 5'", "b,1 2"], "no mask", ["quotes, ' and ', are not \": remove them"]),
        (['"a,1 5"', "b,1 2"], "id or value", ["the whole row is in quotes: remove them"]),
        (["a;1 5", "b,1 2"], "id or value", ["the row has one cell; is its delimiter ';'?"]),
        (["a\t-1", "b,1 2"], "id or value", ["the row has one cell; is its delimiter a tab?"]),
    ],
)
def test_the_cause_of_a_row_that_cannot_be_taken_is_said(
    tmp_path: Path, rows: list[str], what: str, says: list[str]
) -> None:
    path = tmp_path / "rle.csv"
    path.write_text("\n".join(["ImageId,EncodedPixels", *rows, ",-1", ""]), encoding="utf-8")
    passed = {title: places for title, places in read_annotations(path).passed_over.items() if what in title}
    (places,) = passed.values()
    first = str(places[0])
    assert first.startswith("2: ")
    for part in says:
        assert part in first
    if what == "id or value":
        assert places[1:] == [4]  # an empty id needs no reason


def test_a_reason_is_said_once_for_rows_in_sequence(tmp_path: Path) -> None:
    path = tmp_path / "rle.csv"
    path.write_text("ImageId,EncodedPixels\na,1 1.5\nb,2 1.5\nc,3 2 1\nd,1 1.5\ne,-1\n")
    (places,) = read_annotations(path).passed_over.values()
    odd = "it has 3 numbers, but gaps and lengths come in pairs"
    assert places == ["2: 1.5 is not a whole number", 3, f"4: {odd}", "5: 1.5 is not a whole number"]


def test_without_any_row_the_cause_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rle.csv"
    path.write_text("ImageId,EncodedPixels\na;1 5\nb;-1\n")
    with pytest.raises(
        UserError, match=r"no annotation. Row 2: the row has one cell; is its delimiter ';'\?"
    ):
        read_annotations(path)
