"""Files are whole or absent, whatever fails while they are written."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from core.errors import UserError
from core.files import (
    FileNames,
    check_place,
    explained,
    file_name,
    replacing,
    set_aside,
    write_bytes,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "täxt.json", "ä\n")
    assert (tmp_path / "a" / "b" / "täxt.json").read_bytes() == "ä\n".encode()
    assert names(tmp_path / "a" / "b") == ["täxt.json"]


def fail_halfway(path: Path, error: Exception) -> None:
    with replacing(path) as partial:
        partial.mkdir()
        (partial / "half").write_text("half")
        assert "half" not in (names(path) if path.is_dir() else [])
        raise error


@pytest.mark.parametrize("before", ["nothing", "a file", "a folder"])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, before: str) -> None:
    path = tmp_path / "export"
    if before == "a folder":
        path.mkdir()
        (path / "old").write_text("old")
    elif before == "a file":
        path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail_halfway(path, ZeroDivisionError())
    with pytest.raises(UserError, match=r"cannot write .*export: No space left"):
        fail_halfway(path, OSError(errno.ENOSPC, "full"))
    assert names(tmp_path) == ([] if before == "nothing" else ["export"])
    kept = {"nothing": path, "a file": path, "a folder": path / "old"}[before]
    assert before == "nothing" or kept.read_text() == "old"


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "export"
    for name in ("old", "new"):
        with replacing(path) as partial:
            (partial / "deep").mkdir(parents=True)
            (partial / "deep" / name).write_text(name)
    assert names(tmp_path) == ["export"]
    assert names(path / "deep") == ["new"]


def test_what_a_killed_process_left_is_cleared_up(tmp_path: Path) -> None:
    (tmp_path / ".file.partial").mkdir()
    (tmp_path / ".file.old").mkdir()
    write_bytes(tmp_path / "file", b"x")
    assert names(tmp_path) == ["file"]


def test_a_folder_that_a_killed_process_had_moved_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".export.old").mkdir()
    (tmp_path / ".export.old" / "kept").touch()
    with pytest.raises(ZeroDivisionError):
        fail_halfway(tmp_path / "export", ZeroDivisionError())
    assert names(tmp_path / "export") == ["kept"]
    assert names(tmp_path) == ["export"]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "Permission denied"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "larger than"),
    ],
)
def test_what_the_system_refuses_is_explained(number: int, hint: str) -> None:
    with pytest.raises(UserError) as caught, explained("there.h5", "read"):
        raise OSError(number, os.strerror(number))
    assert caught.value.message == f"cannot read there.h5: {os.strerror(number)}"
    assert hint in (caught.value.hint or "")
    assert number != errno.EACCES or "write" not in (caught.value.hint or "")


def test_a_file_in_the_place_of_a_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("in fact a file")
    with pytest.raises(UserError, match="cannot write"):
        write_bytes(tmp_path / "folder" / "file", b"x")


def test_set_aside_takes_the_first_free_number(tmp_path: Path) -> None:
    path = tmp_path / "tf_model"
    assert set_aside(path) is None
    for number in (1, 2, 3):
        path.mkdir()
        (path / str(number)).touch()
        assert set_aside(path) == tmp_path / f"tf_model.{number}"
    assert names(tmp_path) == ["tf_model.1", "tf_model.2", "tf_model.3"]
    assert names(tmp_path / "tf_model.2") == ["2"]


def test_a_place_that_cannot_be_written_is_refused_in_advance(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_place(tmp_path / "new" / "folder" / "a.json")
    check_place(tmp_path / "file")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="it is a folder"):
        check_place(tmp_path)
    with pytest.raises(UserError, match="file is no folder"):
        check_place(tmp_path / "file" / "a.json")


def test_files_of_different_ids_never_have_one_name() -> None:
    """Neither where `A` and `a` are one file, nor where an id is what another one's name became."""
    taken = FileNames()
    hashed = file_name("a b")
    ids = ["A", "a", "a b", hashed, hashed.upper(), "b", "1.2.3", "x" * 130, "x" * 131, "a", ""]
    found = [taken.take(image_id) for image_id in ids]
    assert len({name.casefold() for name in found}) == len(ids)
    assert [found[0], found[2], found[5], found[6]] == ["A", hashed, "b", "1.2.3"]
    assert found[1] == f"a-{hashlib.sha256(b'a').hexdigest()[:8]}"
    again = FileNames()
    assert [again.take(image_id) for image_id in ids] == found
