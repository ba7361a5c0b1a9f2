"""Lock files: what is taken for one, and what is not touched."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path

import pytest
from lock_records import killed, record_of

from core.base.errors import UserError
from core.files.lock_files import hidden_sibling, is_lock
from core.files.locks import locked

if sys.platform == "win32":
    pytest.skip("these tests make pipes and sockets as POSIX does", allow_module_level=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_long_names_have_different_siblings(tmp_path: Path) -> None:
    longest = [tmp_path / ("ä" * 120 + f"{number:015}") for number in range(2)]  # 255 bytes
    for path in longest:
        path.touch()
        with locked(path):
            hidden_sibling(path, ".0123456789ab.partial").touch()
    assert len({hidden_sibling(path, ".x") for path in longest}) == 2
    assert len(names(tmp_path)) == 4
    assert hidden_sibling(tmp_path / "a.csv", ".lock") == tmp_path / ".a.csv.lock"


@pytest.mark.parametrize(
    "content", [b"precious", b"{}\n", b'{"host": 1}', b"\0\0a", b'[{"host": ', b"lock", b'{"hosts": "a"']
)
def test_a_file_of_somebody_elses_is_not_taken_for_a_lock(tmp_path: Path, content: bytes) -> None:
    path, lock = tmp_path / "s.csv", tmp_path / ".s.csv.lock"
    lock.write_bytes(content)
    with pytest.raises(UserError, match=r"\.s\.csv\.lock .*something else") as caught, locked(path):
        pass
    assert "Remove or rename it" in (caught.value.hint or "")
    assert lock.read_bytes() == content
    assert not is_lock(lock)


def test_as_much_of_a_record_as_was_written_is_a_lock(tmp_path: Path) -> None:
    """A process was killed, or the power failed, while it wrote the record."""
    path, lock = tmp_path / "s.csv", tmp_path / ".s.csv.lock"
    whole = record_of(killed(), command="run.py --set a={b}").encode()
    cuts = [whole[:length] for length in range(len(whole) + 1)]
    for content in (*cuts, bytes(40)):
        lock.write_bytes(content)
        assert is_lock(lock)
        with locked(path) as left_behind:
            assert left_behind == bool(content)
        assert names(tmp_path) == []


def fill_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


OBSTACLES = {
    "is a folder": Path.mkdir,
    "is a symbolic link": lambda path: path.symlink_to("nowhere"),
    "is no file": os.mkfifo,
    "is no file ": fill_socket,
}


@pytest.mark.parametrize("what", OBSTACLES)
def test_something_else_at_a_lock_files_path_is_named(tmp_path: Path, what: str) -> None:
    lock = tmp_path / ".s.csv.lock"
    OBSTACLES[what](lock)
    before = lock.lstat()
    with pytest.raises(UserError) as caught, locked(tmp_path / "s.csv"):
        pass
    assert caught.value.message == f"the lock file {lock} cannot be used: it {what.strip()}."
    assert lock.lstat().st_ino == before.st_ino
    assert names(tmp_path) == [".s.csv.lock"]


def test_another_users_closed_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / ".s.csv.lock"
    lock.write_text(record_of(killed()))
    real = os.open

    def closed(file: Path, flags: int, mode: int = 0o777) -> int:
        if str(file) == str(lock):
            raise PermissionError(errno.EACCES, "not yours")
        return real(file, flags, mode)

    monkeypatch.setattr(os, "open", closed)
    with pytest.raises(UserError, match=r"\.s\.csv\.lock .*another user's"), locked(tmp_path / "s.csv"):
        pass
