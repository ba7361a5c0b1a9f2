"""The entries and rows that survive an interruption, and those that are dropped."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from core.base.errors import UserError
from data.hdf5.row_layout import Layout
from data.preprocessing.staging import JournalEntry, Staging, checksum

SIZE = (3, 5)
ROWS = 6
FILES = ["fingerprint", "journal.jsonl", "key", "rows"]
PLACES = (0, 1, 4, 2, 3, 5)  # of each file's row; the third and the last are not expected to have one


def row(number: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    random = np.random.default_rng(number)
    return random.random(SIZE).astype(np.float32), random.integers(0, 2, SIZE).astype(np.uint8)


def entry(number: int) -> JournalEntry:
    if number % 3 == 2:
        return JournalEntry(f"{number}.dcm", "unreadable", "torn \udcff")
    return JournalEntry(f"{number}.dcm", "kept", checksum=checksum(*row(number)))


def fill(staging: Staging, stop: int = ROWS) -> None:
    for number in range(len(staging.entries), stop):
        kept = entry(number).kept
        staging.append(entry(number), *(row(number) if kept else ()))


def layout(scratch: Path, *kinds: str) -> Layout:
    """Two datasets of two rows, with other bytes before, between and after them."""
    scratch.touch()
    starts = ((7, 200), (300, 500)) if len(kinds) == 2 else ((7,), (300,))
    return Layout(4, 2, SIZE, kinds, starts, 600)


def opened(folder: Path, fingerprint: str = "same") -> Staging:
    return Staging.open(
        folder / "staging", fingerprint, lambda path: layout(path, "float32", "uint8"), PLACES
    )


def assert_whole(staging: Staging) -> None:
    assert staging.entries == [entry(number) for number in range(ROWS)]
    blocks = list(staging.blocks())
    expected = [row(number) for number in range(ROWS) if entry(number).kept]
    for index in (0, 1):
        found = np.concatenate([block[index] for block in blocks])
        np.testing.assert_array_equal(found, np.stack([pair[index] for pair in expected]))


def test_what_was_appended_is_there(tmp_path: Path) -> None:
    staging = opened(tmp_path)
    fill(staging)
    assert_whole(staging)
    assert sorted(path.name for path in (tmp_path / "staging").iterdir()) == FILES
    staging.discard()
    assert not (tmp_path / "staging").exists()


def open_below(folder: Path) -> set[str]:
    """Return the files below a folder that this process has open."""
    names = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            if folder in (place := link.readlink()).parents:
                names.add(place.name)
    return names


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("end", [Staging.close, Staging.discard])
def test_nothing_stays_open(tmp_path: Path, end: Callable[[Staging], None]) -> None:
    """Otherwise a removed file keeps its disk space, and a folder on a network cannot be removed."""
    staging = opened(tmp_path)
    fill(staging)
    assert open_below(tmp_path) >= {"rows", "journal.jsonl"}
    end(staging)
    assert open_below(tmp_path) == set()
    assert staging.entries  # it is still there itself


@pytest.mark.parametrize("done", range(ROWS + 1))
def test_it_goes_on_where_it_was(tmp_path: Path, done: int) -> None:
    first = opened(tmp_path)
    fill(first, done)
    first.close()
    second = opened(tmp_path)
    assert len(second.entries) == done
    fill(second)
    assert_whole(second)
    second.close()


def test_it_goes_on_after_every_interruption(tmp_path: Path) -> None:
    """The entries that a second run continued from are as safe as those that it added."""
    done = 0
    for stop in (2, 2, 3, 5, ROWS):
        staging = opened(tmp_path)
        assert staging.entries == [entry(number) for number in range(done)]
        fill(staging, stop)
        staging.close()
        done = stop
    last = opened(tmp_path)
    assert_whole(last)
    last.close()


@pytest.mark.parametrize("name", ["rows", "journal.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "grown", "changed", "gone"])
def test_damage_costs_rows_but_is_never_used(tmp_path: Path, name: str, damage: str) -> None:
    first = opened(tmp_path)
    fill(first)
    first.close()
    path = tmp_path / "staging" / name
    content = path.read_bytes()
    half = len(content) // 2
    if damage == "gone":
        path.unlink()
    else:
        changed = content[:half] + b"\x7f" + content[half + 1 :]
        path.write_bytes({"cut": content[:-1], "grown": content + b"{", "changed": changed}[damage])
    second = opened(tmp_path)
    assert len(second.entries) <= ROWS
    assert second.entries == [entry(number) for number in range(len(second.entries))]
    fill(second)
    assert_whole(second)
    second.close()


def test_other_sources_start_anew(tmp_path: Path) -> None:
    first = opened(tmp_path)
    fill(first)
    first.close()
    second = opened(tmp_path, "other")
    assert second.entries == []
    fill(second)
    assert_whole(second)
    second.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(UserError, match="another process"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_rows_without_masks(tmp_path: Path) -> None:
    def images() -> Staging:
        return Staging.open(tmp_path / "staging", "same", lambda path: layout(path, "float32"), range(3))

    first = images()
    for number in range(3):
        first.append(JournalEntry(f"{number}.dcm", "kept", checksum=checksum(row(number)[0])), row(number)[0])
    first.close()
    second = images()
    assert len(second.entries) == 3
    blocks = list(second.blocks())
    assert [len(block) for block in blocks] == [1, 1, 1]
    np.testing.assert_array_equal(
        np.concatenate([block[0] for block in blocks]), np.stack([row(number)[0] for number in range(3)])
    )
    second.close()


def test_places_of_rows() -> None:
    """Each row has its own bytes, in the datasets or after all of them."""
    found = layout(Path("/dev/null"), "float32", "uint8")
    assert [found.places(row) for row in range(6)] == [
        *((7, 200), (67, 215), (300, 500), (360, 515)),
        *((600, 660), (675, 735)),
    ]


@pytest.mark.parametrize("kept", [{0, 1, 3, 4}, {0, 1, 2, 3}, {0, 1, 3}, {0, 1, 2, 3, 4}])
def test_rows_are_in_order_if_all_that_were_expected_are_there_alone(tmp_path: Path, kept: set[int]) -> None:
    staging = opened(tmp_path)
    for number in range(ROWS):
        if number in kept:
            staging.append(
                JournalEntry(f"{number}.dcm", "kept", checksum=checksum(*row(number))), *row(number)
            )
        else:
            staging.append(JournalEntry(f"{number}.dcm", "unreadable"))
    assert staging.in_order == (kept == {0, 1, 3, 4})
    found = [block[0][0] for block in staging.blocks()]
    np.testing.assert_array_equal(found, [row(number)[0] for number in sorted(kept)])
    assert staging.finished_rows().name == "rows"
    staging.close()
