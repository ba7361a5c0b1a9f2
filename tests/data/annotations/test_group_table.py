"""Tables of groups: what is read, and what is refused with the row and the reason."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from core.base.errors import UserError
from data.annotations.group_table import read_groups

IMAGES = ["a.1", "b", "c"]


@pytest.mark.parametrize(
    "content",
    [
        b"image_id,View,hospital\na.1,PA,north\nb.dcm,AP,\n\nz,PA,south\n",
        "\ufeffVIEW;ImageId;hospital\r\nPA; a.1 ;north\r\nAP;b;\r\nPA;z;south\r\n".encode(),
        "hospital\tview\tid\nnorth\tPA\ta.1.png\n\tAP\tb\nsouth\tPA\tz\nsouth\tPA\tz\n".encode("utf-16"),
        gzip.compress(b'image_id,view,hospital\n"a.1","PA","north"\nb,AP,\nz,PA,south\n', mtime=0),
    ],
)
def test_tables_of_many_kinds_are_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_bytes(content)
    found = read_groups(tmp_path / "groups.csv", IMAGES)
    assert found == {"view": {"a.1": "PA", "b": "AP", "z": "PA"}, "hospital": {"a.1": "north", "z": "south"}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("name,view\na.1,PA\n", "the columns are 'name', 'view'"),
        ("image_id\na.1\n", "the columns are 'image_id'"),
        ("image_id,id,view\na.1,a.1,PA\n", "the columns are"),
        ("image_id,view,view\na.1,PA,AP\n", "the columns are"),
        ("image_id,view\na.1,PA,AP\n", "row 2: 3 cells under 2 column names"),
        (
            "image_id,view\na.1,PA\nb,PA\na.1.dcm,AP\n",
            "row 4: image a.1 has view 'AP', and 'PA' in another row",
        ),
        ("image_id,view\nx,PA\n", "none of its 1 rows has a group of one of the 3 images"),
        ('image_id,view\na.1,"PA\n', "row 2"),
    ],
)
def test_other_tables_are_refused(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text(content)
    with pytest.raises(UserError, match=r"groups\.csv.*") as caught:
        read_groups(tmp_path / "groups.csv", IMAGES)
    assert says in caught.value.message


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        read_groups(tmp_path / "nowhere.csv", IMAGES)
