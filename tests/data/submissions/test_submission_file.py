"""Submissions that are written: their content, and that they are written whole or not at all."""

from __future__ import annotations

import csv
import gzip
import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from submission_files import SIZE, submission

from core.base.errors import UserError
from data.submissions.submission_check import check
from data.submissions.submission_file import HEADER, write_submission


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
    """Keeping all rows in memory would take 50 MB."""

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
