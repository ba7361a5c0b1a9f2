"""The annotation file in all its forms."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from data import rle
from data.annotations import AnnotationError, Row, combined_mask, read_annotations

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
        gzip.compress(PLAIN.encode()),
        "".join(",".join(["0", *reversed(line.split(","))]) + "\n" for line in PLAIN.splitlines()),
    ],
)
def test_every_variant_says_the_same(tmp_path: Path, content: str | bytes) -> None:
    assert read(tmp_path, content) == {"a": ["1 2", "3 4 1 1"], "b": ["-1"]}


def test_counts_rows_and_hash(tmp_path: Path) -> None:
    text = "ImageId, EncodedPixels\na, 1 2\nb, -1\na, 3 4\nc, -1\nc, 5 6\nd,\n,1 2\ne\n"
    path = tmp_path / "rle.csv"
    path.write_text(text)
    found = read_annotations(path)
    assert (found.rows, found.images, found.positives, found.several) == (5, 3, 2, 1)
    assert found.contradictory == 1
    assert found.blank_rows == (7, 8, 9)
    assert found.rows_of["a"] == (Row(2, "1 2"), Row(4, "3 4"))
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_unquoted_delimiters_are_not_cut_off(tmp_path: Path) -> None:
    """`a,1,2,3,4` must not become the annotation `1`, nor pass for a whole one."""
    rows = read(tmp_path, "ImageId,EncodedPixels\na,1,2,3,4\n")
    with pytest.raises(AnnotationError):
        combined_mask([Row(2, rows["a"][0])], 9, 9)


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
        (gzip.compress(PLAIN.encode() * 99)[:-9], "gzip"),
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
    rows = [Row(2, "1 3"), Row(3, "3 3"), Row(4, "-1")]
    expected = np.zeros(15, np.uint8)
    expected[1:6] = 1
    np.testing.assert_array_equal(combined_mask(rows, 5, 3), expected.reshape(3, 5).T)


def test_a_bad_row_is_named() -> None:
    with pytest.raises(AnnotationError, match="row 17"):
        combined_mask([Row(16, "1 2"), Row(17, "1 99")], 5, 3)


def test_the_real_file(real_data: Path) -> None:
    path = real_data / "annotations" / "siim-pneumothorax-train-rle.csv.gz"
    found = read_annotations(path)
    assert (found.rows, found.images, found.positives, found.several) == (12954, 12047, 2669, 624)
    assert (found.contradictory, found.blank_rows) == (0, ())
    single = [rows[0] for rows in found.rows_of.values() if len(rows) == 1 and not rows[0].empty]
    for row in single[::20]:
        assert rle.encode(rle.decode(row.text, 1024, 1024)) == row.text


def test_the_real_sample_without_header(real_data: Path) -> None:
    path = real_data / "annotations" / "train-rle-sample-no-header-bom-crlf.csv"
    found = read_annotations(path)
    assert found.rows == 10
    assert next(iter(found.rows_of)) == "1.2.276.0.7230010.3.1.4.8323329.1000.1517875165.878027"
