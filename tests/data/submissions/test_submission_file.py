"""Submissions: what is written, counted against masks decoded pixel by pixel, and every fault found."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.base.errors import UserError
from core.scoring.metrics import dice_of_counts, iou_of_counts, summarise
from data.annotations import rle
from data.annotations.annotation_file import Annotations, combined_runs, read_annotations
from data.submissions.submission_file import (
    HEADER,
    Comparison,
    Verdict,
    check,
    compare,
    images_of,
    images_of_sample,
    read_submission,
    write_submission,
)

SIZE = (7, 5)


def annotations(folder: Path, text: str) -> Annotations:
    path = folder / "truth.csv"
    path.write_text(text)
    return read_annotations(path)


def submission(folder: Path, text: str) -> Path:
    path = folder / "submission.csv"
    path.write_text(text)
    return path


def test_what_is_written(tmp_path: Path) -> None:
    rows = [("1.2.3", "1 2 5 1"), ("b", "-1"), ('odd, "id"', "0 35")]
    assert write_submission(tmp_path / "new/s.csv", iter(rows)) == 3
    content = (tmp_path / "new/s.csv").read_bytes()
    assert content.startswith(b"ImageId,EncodedPixels\n1.2.3,1 2 5 1\nb,-1\n")
    assert list(csv.reader(io.StringIO(content.decode()))) == [list(HEADER), *map(list, rows)]
    assert check(tmp_path / "new/s.csv", dict.fromkeys(["1.2.3", "b", 'odd, "id"'], SIZE), SIZE).faults == ()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["s.csv"]
    for name in ("s.csv.gz", "t.csv.gz"):
        write_submission(tmp_path / name, rows)
        assert gzip.decompress((tmp_path / name).read_bytes()) == content
    assert (tmp_path / "s.csv.gz").read_bytes() == (tmp_path / "t.csv.gz").read_bytes()


@pytest.mark.parametrize("bad", [("a", "-1"), ("", "-1"), ("c", "")], ids=["double", "no id", "no encoding"])
def test_it_is_written_whole_or_not_at_all(tmp_path: Path, bad: tuple[str, str]) -> None:
    path = submission(tmp_path, "what stood here")
    with pytest.raises(ValueError, match="one row an image"):
        write_submission(path, iter([("a", "-1"), ("b", "0 1"), bad]))
    assert path.read_text() == "what stood here"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_replaced_by_a_submission(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(UserError, match="it is a folder"):
        write_submission(tmp_path, [("a", "-1")])
    assert (tmp_path / "kept").exists()


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    """Had they been kept, they would have taken 50 MB."""

    def rows() -> Iterator[tuple[str, str]]:
        for number in range(4000):
            yield f"id-{number}", f"{number} 1 " * 2000

    tracemalloc.start()
    try:
        write_submission(tmp_path / "s.csv", rows())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "s.csv").stat().st_size > 30e6
    assert peak < 3e6


def random_mask(random: np.random.Generator) -> NDArray[np.uint8]:
    share = random.choice([0.0, 0.0, 0.1, 0.5, 1.0])
    return np.asarray(random.random(SIZE) < share, np.uint8)


def competition_dice(predicted: set[tuple[int, int]], truth: set[tuple[int, int]]) -> float:
    """The evaluation page: 2|X n Y| / (|X| + |Y|), and 1 when both are empty."""
    if not predicted and not truth:
        return 1.0
    return 2 * len(predicted & truth) / (len(predicted) + len(truth))


def pixels_of(masks: list[NDArray[np.uint8]]) -> set[tuple[int, int]]:
    return {(y, x) for mask in masks for y in range(SIZE[0]) for x in range(SIZE[1]) if mask[y, x]}


def rows_of(masks: dict[str, list[NDArray[np.uint8]]], header: str, between: str) -> str:
    lines = [f"{image_id}{between}{rle.encode(mask)}" for image_id, some in masks.items() for mask in some]
    return "\n".join([header, *lines]) + "\n"


def test_counts_are_those_of_decoded_masks(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    ids = [f"image-{number}" for number in range(600)]
    truth = {name: [random_mask(random) for _ in range(random.integers(1, 4))] for name in ids}
    predicted = {name: [random_mask(random)] for name in random.permutation(ids).tolist()}
    for name in ids[:40]:
        predicted[name].append(random_mask(random))
    known = annotations(tmp_path, rows_of(truth, "ImageId, EncodedPixels", ", "))
    found = compare(submission(tmp_path, rows_of(predicted, ",".join(HEADER), ",")), known)
    assert list(found.ids) == ids
    assert sorted(found.several) == sorted(ids[:40])
    pairs = [(pixels_of(predicted[name]), pixels_of(truth[name])) for name in ids]
    assert found.overlap.tolist() == [len(p & t) for p, t in pairs]
    assert found.predicted.tolist() == [len(p) for p, _ in pairs]
    assert found.truth.tolist() == [len(t) for _, t in pairs]
    counts = found.overlap, found.predicted, found.truth
    expected = [competition_dice(p, t) for p, t in pairs]
    assert {0.0, 1.0} < set(expected)
    np.testing.assert_allclose(dice_of_counts(*counts), expected, rtol=1e-15)
    ious = [len(p & t) / len(p | t) if p | t else 1.0 for p, t in pairs]
    np.testing.assert_allclose(iou_of_counts(*counts), ious, rtol=1e-15)


TRUTH = "ImageId,EncodedPixels\na,1 2\nb,-1\nc,3 4\nd,0 1\nd,1 x\n"


def test_which_images_count(tmp_path: Path) -> None:
    known = annotations(tmp_path, TRUTH)
    path = submission(tmp_path, "ImageId,EncodedPixels\nd,0 1\nc,5 4\nz,-1\na,1 1\n")
    with pytest.raises(UserError) as caught:
        compare(path, known)
    assert "lacks 1 image " in caught.value.message
    assert ": b." in caught.value.message
    assert "--missing skip" in str(caught.value.hint)

    def counted(found: Comparison) -> dict[str, tuple[Any, ...]]:
        assert (found.missing, found.unknown, found.unusable) == (("b",), ("z",), ("d",))
        counts = zip(found.overlap.tolist(), found.predicted.tolist(), found.truth.tolist(), strict=True)
        return dict(zip(found.ids, counts, strict=True))

    left = {"a": (1, 1, 2), "c": (2, 4, 4)}
    assert counted(compare(path, known, "empty")) == {**left, "b": (0, 0, 0)}
    assert counted(compare(path, known, "skip")) == left


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a,1 2 3\n", "row 2: it has 3 numbers"),
        ("b,-1\na,1 -2\n", "row 3: "),
        ("a,\n", "row 2: an empty cell"),
        ("x,-1\ny,-1\n", "has none of the 4 images that "),
        ("d,-1\n", "no image of "),
    ],
)
def test_what_cannot_be_scored_is_one_clear_error(tmp_path: Path, rows: str, says: str) -> None:
    known = annotations(tmp_path, TRUTH)
    with pytest.raises(UserError, match=says):
        compare(submission(tmp_path, "ImageId,EncodedPixels\n" + rows), known, "skip")


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


def kinds(found: Verdict) -> list[tuple[str, int | None, str]]:
    return [(fault.kind, fault.row, fault.image_id) for fault in found.faults]


def test_ids_with_a_suffix_are_faults_that_name_the_image(tmp_path: Path) -> None:
    """The competition compares ids as they stand. The rest of such a row is looked at all the same."""
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


@pytest.mark.parametrize("first", [".dcm", ".png", ""])
@pytest.mark.parametrize("second", [".dcm", ".DICOM", ""])
def test_images_are_compared_whatever_suffix_their_ids_have(tmp_path: Path, first: str, second: str) -> None:
    truth = f"ImageId,EncodedPixels\na{first},1.0 2.0\nb,-1.0\na{first},9 1\n"
    path = submission(tmp_path, f"ImageId,EncodedPixels\nb{second},0 1\na{second},2 3\n")
    table = read_submission(path)
    (tmp_path / "truth.csv").write_text(truth)
    known = read_annotations(tmp_path / "truth.csv", {cells.image_id for cells in table.rows})
    for found in (compare(path, known, table=table), compare(path, annotations(tmp_path, truth))):
        assert len(found.ids) == 2
        assert found.overlap.tolist() == [1, 0]
        assert found.predicted.tolist() == [3, 1]
        assert found.truth.tolist() == [3, 0]
        assert (found.missing, found.unknown) == ((), ())


def test_an_image_that_is_really_called_like_a_picture(tmp_path: Path) -> None:
    """Both files have both ids: then they are two images."""
    path = submission(tmp_path, "ImageId,EncodedPixels\na,-1\na.png,0 4\na.dcm,0 1\n")
    (tmp_path / "truth.csv").write_text("a.png,0 5\na,-1\n")
    known = read_annotations(tmp_path / "truth.csv", {"a", "a.png", "a.dcm"})
    found = compare(path, known)
    assert found.ids == ("a.png", "a")
    assert found.predicted.tolist() == [4, 1]
    assert (found.several, found.shortened) == (("a",), ("a.dcm",))


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
    """As `predict` takes it, which gives it a row of -1."""
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
    """Once from end to end; `test_appearance` has the kinds."""
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


def text_of(runs: NDArray[np.int64]) -> str:
    return " ".join(map(str, np.diff(runs.ravel(), prepend=0))) or rle.EMPTY


def test_the_competitions_file(tmp_path: Path, real_data: Path) -> None:
    path = real_data / "annotations/siim-pneumothorax-train-rle.csv.gz"
    began = time.process_time()
    truth = read_annotations(path)
    against_itself = compare(path, truth)
    seconds = time.process_time() - began
    assert seconds < 60, seconds
    assert len(against_itself.several) == 624

    def score(found: Comparison) -> tuple[float, float, float | None]:
        counts = found.overlap, found.predicted, found.truth
        scores = summarise(dice_of_counts(*counts), found.truth > 0)
        assert (scores.images, scores.positives) == (12047, 2669)
        return scores.dice, round(scores.dice_all_empty, 4), scores.dice_positive

    assert score(against_itself) == (1.0, 0.7785, 1.0)
    empty = tmp_path / "empty.csv"
    write_submission(empty, ((image_id, rle.EMPTY) for image_id in truth.rows_of))
    dice, floor, of_positives = score(compare(empty, truth))
    assert (round(dice, 4), floor, of_positives) == (0.7785, 0.7785, 0.0)
    perfect = tmp_path / "perfect.csv.gz"
    write_submission(perfect, ((name, text_of(combined_runs(rows))) for name, rows in truth.rows_of.items()))
    assert score(compare(perfect, truth)) == (1.0, 0.7785, 1.0)
    verdict = check(perfect, dict.fromkeys(truth.rows_of, (1024, 1024)), (1024, 1024))
    assert (verdict.faults, verdict.warnings, verdict.positives) == ((), (), 2669)


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
