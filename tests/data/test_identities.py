"""Which files are expected to give a row, and which row that is."""

from __future__ import annotations

from pathlib import Path

from data.annotations import read_annotations
from data.identities import Identities

FILES = [Path(name) for name in ("1/b.dcm", "2/stranger.dcm", "3/a.dcm", "4/b.dcm", "5/c.dcm")]


def test_rows_of_files(tmp_path: Path) -> None:
    """Those without annotation and the second of an id come last."""
    (tmp_path / "rle.csv").write_text("a, -1\nb, 0 1\nc, -1\nd, -1\n")
    identities = Identities.of(read_annotations(tmp_path / "rle.csv"), FILES)
    assert identities.places(FILES) == ([0, 3, 1, 4, 2], 3)


def test_without_annotations_every_file_is_expected_to_have_its_row() -> None:
    assert Identities.of(None, FILES).places(FILES) == ([0, 1, 2, 3, 4], 5)
