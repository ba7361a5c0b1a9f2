"""Tests of the ids of files, the resolution of ids in tables, and the rows of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.annotations.annotation_file import read_annotations
from data.annotations.image_ids import (
    Identities,
    explain_near_miss,
    has_dicom_suffix,
    image_id,
    name_below,
    printable,
    resolve_id,
    trimmed,
)

UID = "1.2.276.0.7230010.3.1.4.8323329.1000.1517875165.878027"
FILES = [Path(name) for name in ("1/b.dcm", "2/stranger.dcm", "3/a.dcm", "4/b.dcm", "5/c.dcm")]


def test_rows_of_files(tmp_path: Path) -> None:
    """Files without annotation, and the second file with an id, come last."""
    (tmp_path / "rle.csv").write_text("a, -1\nb, 0 1\nc, -1\nd, -1\n")
    identities = Identities.of(read_annotations(tmp_path / "rle.csv"), FILES)
    assert identities.assign_rows(FILES) == ([0, 3, 1, 4, 2], 3)


def test_without_annotations_every_file_is_expected_to_have_its_row() -> None:
    assert Identities.of(None, FILES).assign_rows(FILES) == ([0, 1, 2, 3, 4], 5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.dcm", "a"),
        ("a.DCM", "a"),
        ("a.DiCoM", "a"),
        (UID, None),
        (f"{UID}.dcm", UID),
        ("CR.0001", None),
        ("CR.0001.dcm", "CR.0001"),
        ("a.dcm.dcm", "a.dcm"),
        ("a.png.dcm", "a.png"),
        ("a.dcm.gz", None),
        ("a.dcmx", None),
        ("adcm", None),
        ("a.d\u0131com", None),  # a dotless i
        ("a. b  c.dcm", "a. b  c"),
        ("a\tb.dcm", "a\tb"),
        ("Thorax à 日本 ٣.v2.dcm", "Thorax à 日本 ٣.v2"),
        ("e\u0301.1", None),  # e and an accent stay two characters
        (" a .dcm ", "a"),
        ("\u3000a\u00a0.dcm", "a"),
        ("\ufeffa\u200b.dcm", "a"),
        ("a.", None),
        (".hidden", None),
        (".dcm", None),
        (" .dcm", ".dcm"),
        ("..dicom", "."),
        (" ", "\\x20"),
        ("\u3000 ", "\\u3000\\x20"),
        ("a\nb.dcm", "a\\x0ab"),
        ("\x1b[31mred", "\\x1b[31mred"),
        (os.fsdecode(b"odd \xff.dcm"), "odd \\udcff"),
    ],
)  # fmt: skip
def test_a_name_keeps_all_but_its_suffix(name: str, expected: str | None) -> None:
    assert image_id(Path("folder") / name) == (name if expected is None else expected)
    assert image_id(Path(name)) == image_id(Path("elsewhere.dcm") / name)


@given(
    st.text(st.characters(exclude_characters="/\0"), min_size=1).filter(lambda name: name not in (".", ".."))
)
def test_any_name_gives_an_id_that_a_table_keeps(name: str) -> None:
    found = image_id(Path(name))
    assert found == trimmed(printable(found)) != ""
    assert found.encode().decode() == found
    assert not {"\n", "\r", "\0", "\x1b"} & set(found)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.dcm", True),
        ("a.DICOM", True),
        (".dcm", True),
        ("a.dcm ", True),
        ("a.dcm.gz", False),
        ("dcm", False),
    ],
)
def test_what_is_called_dicom(name: str, says: bool) -> None:
    assert has_dicom_suffix(Path(name)) == says


@pytest.mark.parametrize(
    ("written", "images", "expected"),
    [
        ("a", {"a"}, "a"),
        ("a.dcm", {"a"}, "a"),
        ("a.DICOM", {"a"}, "a"),
        ("a.png", {"a", "a.png"}, "a.png"),  # the very id comes first
        ("a.png", {"a.png.dcm"}, "a"),
        ("a.png.dcm", {"a.png", "a"}, "a.png"),
        ("a.dcm.png", {"a"}, "a"),
        ("a.jpeg", (), "a"),
        ("a.b", {"a"}, "a.b"),
        ("1.2.840.1", {"1.2.840"}, "1.2.840.1"),
        (".png", (), ".png"),
        ("a .jpg", {"a"}, "a"),
        ("", (), ""),
    ],
)
def test_which_image_an_id_of_a_table_means(written: str, images: set[str], expected: str) -> None:
    assert resolve_id(written, images) == expected


def test_files_of_different_names_and_one_id_are_told_apart_by_their_uid() -> None:
    files = [Path("1/a.dcm"), Path("1/a.DICOM"), Path("1/a"), Path("1/b.dcm")]
    identities = Identities.of(None, files)
    assert identities.shared == {"a"}
    chosen = [identities.choose(file, f" 1.2.{number}") for number, file in enumerate(files)]
    assert chosen == ["1.2.0", "1.2.1", "1.2.2", "b"]
    assert identities.choose(files[0], "") == "a"


def test_with_annotations_the_name_comes_before_the_uid(tmp_path: Path) -> None:
    (tmp_path / "rle.csv").write_text("CR.1.dcm, -1\n1.2.3, 0 1\n")
    files = [Path("CR.1"), Path("x.dcm")]
    identities = Identities.of(read_annotations(tmp_path / "rle.csv", set(map(image_id, files))), files)
    assert identities.choose(files[0], "1.2.3") == "CR.1"
    assert identities.choose(files[1], "1.2.3") == "1.2.3"
    assert identities.choose(files[1], "1.2.4") == "x"


def test_paths_are_shown_without_what_moves_a_cursor(tmp_path: Path) -> None:
    assert name_below(tmp_path, tmp_path / "a b" / "c\r\x1b[2J.dcm") == "a b/c\\x0d\\x1b[2J.dcm"


def test_names_where_the_systems_encoding_is_ascii() -> None:
    """There, Python returns a name's bytes one by one; they must become the same characters."""
    assert image_id(Path("胸部".encode().decode("ascii", "surrogateescape") + ".dcm")) == "胸部"
    assert image_id(Path("a\udcff胸.dcm")) == "a\\udcff胸"


@pytest.mark.parametrize(
    ("written", "image", "says"),
    [
        ("images/a.dcm", "a", ["'images/a.dcm'", "'a': an id is the file's name alone."]),
        ("C:\\x\\a", "a", ["an id is the file's name alone."]),
        ("a", "images/a", ["'a', and there is 'images/a': an id is the file's name alone."]),
        ("AB1", "aB1", ["'AB1', and there is 'aB1': it differs in upper and lower case."]),
        (
            "caf\u00e9",
            "cafe\u0301",
            ["looks the same but is written with other characters (Unicode NFC and NFD)"],
        ),
        ("'a'", "a", ['these quotes are not ": remove them']),
        ("\u201cx/A.png\u201d", "a", ["remove them; an id is the file's name alone; it differs in upper"]),
    ],
)
def test_the_nearest_id_is_named_with_what_is_unlike(written: str, image: str, says: list[str]) -> None:
    found = explain_near_miss(["zz", written, "yy"], ["q", image])
    for part in says:
        assert part in found


def test_ids_that_are_not_near_are_not_named() -> None:
    assert explain_near_miss(["a", "b/c", ""], ["x", "bc"]) == ""
    assert explain_near_miss([], ["x"]) == explain_near_miss(["x"], []) == ""


@pytest.mark.parametrize("before", ["", " ", "\u00a0", "\ufeff", "\u200b\t"])
@pytest.mark.parametrize("after", ["", " ", "\u00a0", "\u200e", "\n\u3000"])
@pytest.mark.parametrize("text", ["a b", "\u00e9", "x\u00a0y", ""])
def test_what_cannot_be_seen_around_a_text_goes(before: str, text: str, after: str) -> None:
    assert trimmed(f"{before}{text}{after}") == text
