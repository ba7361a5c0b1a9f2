"""Submissions compared with annotations: the counts are those of masks decoded pixel by pixel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from submission_files import SIZE, TRUTH, annotations, submission

from core.base.errors import UserError
from core.scoring.metrics import dice_of_counts, iou_of_counts, summarise
from data.annotations import rle
from data.annotations.annotation_file import combined_runs, read_annotations
from data.submissions.submission_check import check
from data.submissions.submission_comparison import SubmissionComparison, compare
from data.submissions.submission_file import HEADER, read_submission, write_submission


def random_mask(random: np.random.Generator) -> NDArray[np.uint8]:
    share = random.choice([0.0, 0.0, 0.1, 0.5, 1.0])
    return np.asarray(random.random(SIZE) < share, np.uint8)


def competition_dice(predicted: set[tuple[int, int]], truth: set[tuple[int, int]]) -> float:
    """Compute 2|X n Y| / (|X| + |Y|), and 1 if both are empty, as on the competition's evaluation page."""
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


def test_which_images_count(tmp_path: Path) -> None:
    known = annotations(tmp_path, TRUTH)
    path = submission(tmp_path, "ImageId,EncodedPixels\nd,0 1\nc,5 4\nz,-1\na,1 1\n")
    with pytest.raises(UserError) as caught:
        compare(path, known)
    assert "lacks 1 image " in caught.value.message
    assert ": b." in caught.value.message
    assert "--missing skip" in str(caught.value.hint)

    def counted(found: SubmissionComparison) -> dict[str, tuple[Any, ...]]:
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
    """Both files have both ids, so these are two images."""
    path = submission(tmp_path, "ImageId,EncodedPixels\na,-1\na.png,0 4\na.dcm,0 1\n")
    (tmp_path / "truth.csv").write_text("a.png,0 5\na,-1\n")
    known = read_annotations(tmp_path / "truth.csv", {"a", "a.png", "a.dcm"})
    found = compare(path, known)
    assert found.ids == ("a.png", "a")
    assert found.predicted.tolist() == [4, 1]
    assert (found.several, found.shortened) == (("a",), ("a.dcm",))


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

    def score(found: SubmissionComparison) -> tuple[float, float, float | None]:
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
