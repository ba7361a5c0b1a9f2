"""Locks: a path has one writer at a time, and no lock outlives its holder."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lock_records import killed, record_of

from core.base.errors import UserError
from core.files import locks
from core.files.locks import LockedError, check_no_locks_in, lock_note, locked

if sys.platform == "win32":
    pytest.skip("these tests kill processes as POSIX does", allow_module_level=True)

import fcntl

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 60
HOLD = """
import sys
from pathlib import Path
from core.files.locks import locked
with locked(Path(sys.argv[1]), shared="shared" in sys.argv) as left_behind:
    {then}
    print("held", left_behind, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(path: Path, then: str = "pass", *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that locks a path until its standard input is closed, or the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then=then), str(path), "--secret of=it", *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("held")
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_process_is_told_at_once_who_holds_the_path(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    with holder(path) as process:
        assert names(tmp_path) == [".submission.csv.lock"]
        began = time.monotonic()
        with pytest.raises(LockedError) as caught, locked(path):
            pass
        assert time.monotonic() - began < 1
        for text in (
            f"{path} is being written by another process: process {process.pid} on {socket.gethostname()}",
            time.strftime("since %Y-%m-%d "),
            "-c",
            "'--secret of=it'",
        ):
            assert text in caught.value.message
        process.communicate()  # closes its standard input
        with locked(path) as left_behind:
            assert not left_behind
    assert names(tmp_path) == []


def test_other_paths_are_free(tmp_path: Path) -> None:
    with holder(tmp_path / "a.csv"):
        for name in ("a", "a.csv.gz", ".a.csv", "b.csv"):
            with locked(tmp_path / name):
                pass
        assert names(tmp_path) == [".a.csv.lock"]


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "model"
    with holder(path) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert names(path.parent) == [".model.lock"]
        with locked(path) as left_behind:
            assert left_behind
            with pytest.raises(LockedError, match=f"process {os.getpid()} "), locked(path, nested=False):
                pass
    assert names(path.parent) == []


@pytest.mark.parametrize(
    "then",
    [
        "import os, time; child = os.fork(); child or (time.sleep(60), os._exit(0)); print(child)",
        "import subprocess; print(subprocess.Popen(['sleep', '60'], close_fds=False, stdout=2).pid)",
        "from core.processes.workers import WorkerPool; import multiprocessing, os; "
        "pool = WorkerPool(1, multiprocessing.get_context('spawn')); print(pool.submit(os.getpid).result())",
    ],
    ids=["forked", "another program", "worker"],
)
def test_children_do_not_keep_it(tmp_path: Path, then: str) -> None:
    path = tmp_path / "model"
    noted = tmp_path / "child"
    then = then.replace("print(", f"open({str(noted)!r}, 'w').write(str(").rstrip() + ")"
    with holder(path, then) as process:
        child = int(noted.read_text())
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # it is there
        try:
            with locked(path) as left_behind:
                assert left_behind
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_folders_are_made_for_it_and_removed_if_nothing_came(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.csv"
    with locked(path):
        assert names(path.parent) == [".c.csv.lock"]
    assert names(tmp_path) == []
    with locked(path):
        path.touch()
    assert names(path.parent) == ["c.csv"]


def test_a_thread_may_hold_it_several_times_and_no_other_may(tmp_path: Path) -> None:
    path = tmp_path / "model"
    refused: list[LockedError] = []

    def try_it() -> None:
        try:
            with locked(path):
                pass
        except LockedError as error:
            refused.append(error)

    with locked(path):
        with locked(path):
            pass
        assert names(tmp_path) == [".model.lock"]
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert len(refused) == 1
        with pytest.raises(LockedError), locked(path, nested=False):
            pass
        assert names(tmp_path) == [".model.lock"]
    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert len(refused) == 1
    assert names(tmp_path) == []


def test_a_lock_on_a_removed_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder releases it after we opened its file and before we lock it, and a third process locks it."""
    path, lock = tmp_path / "model", tmp_path / ".model.lock"
    flock, opened = fcntl.flock, []
    with contextlib.ExitStack() as third:

        def late(descriptor: int, how: int) -> None:
            if not opened:
                opened.append(descriptor)
                lock.unlink()
                third.enter_context(holder(path))
            flock(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", late)
        with pytest.raises(LockedError), locked(path):
            pass
    assert len(opened) == 1


CONTEND = """
import os, sys, time
from pathlib import Path
from core.base.errors import UserError
from core.files.locks import locked
path, deadline, got = Path(sys.argv[1]), time.monotonic() + 60, 0
while got < 40 and time.monotonic() < deadline:
    try:
        with locked(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))   # fails if two hold it
            time.sleep(0.0005)
            path.unlink()
            got += 1
    except UserError:
        time.sleep(0.0002)
print(got)
"""


def test_never_two_of_many_that_come_and_go(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CONTEND, str(tmp_path / "model")]
    processes = [
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ends = [process.communicate(timeout=120) for process in processes]
    assert ends == [("40\n", "")] * 4
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_it_goes_on_with_one_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def no_locks(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(locks, "_without_locks", set())
    with caplog.at_level(logging.WARNING):
        for name in ("model", "logs", "model"):
            with locked(tmp_path / name) as left_behind:
                assert not left_behind
                assert names(tmp_path) == []
    (record,) = caplog.records
    assert str(tmp_path) in record.getMessage()
    assert "no locks" in record.getMessage()


def test_another_users_file_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is opened for reading only, as the system gives no other right."""
    path, lock = tmp_path / "model", tmp_path / ".model.lock"
    lock.write_text(record_of(killed()))
    real = os.open

    def strict(file: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "not yours")
        return real(file, flags, mode)

    monkeypatch.setattr(os, "open", strict)
    with locked(path) as left_behind:
        assert left_behind
        with lock.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".model.lock").symlink_to("precious")
    with pytest.raises(UserError, match=r"\.model\.lock .*symbolic link"), locked(tmp_path / "model"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_the_lock_of_a_folder_lies_in_it_where_it_cannot_lie_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    real = os.access

    def sealed(path: Path, mode: int) -> bool:
        return path != tmp_path and real(path, mode)

    monkeypatch.setattr(os, "access", sealed)
    with locked(folder):
        assert names(tmp_path) == ["model"]
        assert names(folder) == [".lock"]
    assert names(folder) == []


def test_a_folder_that_is_held_as_a_whole_takes_no_other_holder(tmp_path: Path) -> None:
    """It will be replaced, with all that lies in it."""
    folder = tmp_path / "out"
    with holder(folder) as process:
        for path in (folder, folder / "look", folder / "deep" / "er" / "a.csv"):
            with (
                pytest.raises(LockedError, match=rf"out is being written by .* {process.pid} "),
                locked(path),
            ):
                pass
        with locked(tmp_path / "outlook"), locked(tmp_path / "out.csv"):
            pass
        assert not folder.exists()
    with holder(folder, "pass", "shared"), locked(folder / "look"):
        assert (folder / ".look.lock").exists()
    with locked(folder), locked(folder / "look"):
        pass


@pytest.mark.parametrize("name", ["a.csv", "deep/a.csv"])
def test_who_would_take_a_folder_away_is_told_who_writes_in_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / ".b.csv.lock").write_text("not of ours")
    with holder(folder / name) as process:
        with pytest.raises(LockedError, match=rf"{name} is being written by .* {process.pid} "):
            check_no_locks_in(folder)
        process.kill()
        process.wait()
        check_no_locks_in(folder)
    with locked(folder / name):
        check_no_locks_in(folder)
    assert (folder / "deep" / ".b.csv.lock").read_text() == "not of ours"


def test_a_process_that_only_tests_the_lock_is_waited_for(tmp_path: Path) -> None:
    """A process that tests whether a killed holder's lock is held has to lock it for a moment."""
    path, lock = tmp_path / "model", tmp_path / ".model.lock"
    with holder(path) as process:
        process.kill()
        process.wait()
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(0.2, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with locked(path) as left_behind:
            assert left_behind


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"no record",
        b"[1]",
        b'{"host": "a"}',
        b'{"host": 1, "process": "x", "since": [], "command": "", "shared": 0}',
        b'{"host": "a\\u001b[2J", "process": 1, "since": "1970", "command": "\\n", "shared": 0}',
    ],
)
def test_what_a_lock_says_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: bytes
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.1)
    path, lock = tmp_path / "model", tmp_path / ".model.lock"
    lock.write_bytes(record)
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="by another process") as caught, locked(path):
            pass
        assert caught.value.message.isprintable()
    assert lock.read_bytes() == record


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".model.lock")
    with locked(tmp_path / "model" / "file"):
        check_no_locks_in(tmp_path)


@pytest.mark.parametrize("number", ["ended", "reused"])
def test_a_record_of_an_earlier_holder_names_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """A process that may not write another user's leftover lock file cannot replace the record in it."""
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.1)
    path, lock = tmp_path / "model", tmp_path / ".model.lock"
    lock.write_text(record_of(killed()) if number == "ended" else record_of(os.getpid(), begun="1"))
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for tried in (path, path / "deep"):
            with pytest.raises(LockedError) as caught, locked(tried):
                pass
            assert "model is being written by another process, which cannot be named." in caught.value.message
            assert "2026" not in caught.value.message
        lock.write_text(record_of(os.getpid()))
        with pytest.raises(LockedError, match=rf"process {os.getpid()} on .*run\.py -f tf"), locked(path):
            pass


def test_a_folder_that_must_not_be_written_is_no_fault_of_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError), locked(tmp_path / "s.csv"):
        pass


def test_a_file_of_somebody_elses_stays_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    (tmp_path / ".s.csv.lock").write_text("precious")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match="something else"), locked(tmp_path / "s.csv"):
        pass
    assert (tmp_path / ".s.csv.lock").read_text() == "precious"


def test_a_note_can_be_asked_for_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "fold0"
    assert lock_note(path) is None
    with holder(path) as process:
        assert lock_note(path) == ""
        process.communicate()
        assert lock_note(path) is None
    lock = tmp_path / ".fold0.lock"
    lock.write_text(record_of(os.getpid(), note="3 folds"))
    assert lock_note(path) is None  # nobody holds it
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert lock_note(path) == "3 folds"
    assert lock.exists()
