"""Files are written whole or not at all, whatever fails meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.base.errors import UserError
from core.files.atomic import put_in_place, rename_existing, replacing, reserved, write_bytes, write_text

ROOT = Path(__file__).resolve().parents[3]


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


def test_a_file_in_the_place_of_a_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("in fact a file")
    with pytest.raises(UserError, match="cannot write"):
        write_bytes(tmp_path / "folder" / "file", b"x")


def test_renaming_takes_the_first_free_number(tmp_path: Path) -> None:
    path = tmp_path / "tf_model"
    assert rename_existing(path) is None
    for number in (1, 2, 3):
        path.mkdir()
        (path / str(number)).touch()
        assert rename_existing(path) == tmp_path / f"tf_model.{number}"
    assert names(tmp_path) == ["tf_model.1", "tf_model.2", "tf_model.3"]
    assert names(tmp_path / "tf_model.2") == ["2"]


# ------------------------------------------------------------------------------ several processes


WRITE_AND_WAIT = """
import sys
from pathlib import Path
from core.files.atomic import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.mkdir()
    (partial / "half").touch()
    print(partial.name, flush=True)
    sys.stdin.read()
"""


def started(code: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("ends", ["killed", "in peace"])
def test_a_second_writer_is_refused_and_takes_nothing_away(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "masks"
    (tmp_path / ".masks.v2.0123456789ab.partial").touch()  # of a writer of `masks.v2`
    (tmp_path / ".masks.letter.partial").touch()  # a user's
    process = started(WRITE_AND_WAIT, str(path))
    assert process.stdout is not None
    partial = process.stdout.readline().strip()
    assert partial.startswith(".masks.")
    for _ in range(2):
        with pytest.raises(UserError, match=rf"masks is being written by another process: .*{process.pid}"):
            write_bytes(path, b"x")
    assert (tmp_path / partial / "half").exists()
    if ends == "killed":
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert (tmp_path / partial / "half").exists()
        assert not path.exists()
    else:
        assert process.communicate(timeout=60) == ("", "")
        assert names(path) == ["half"]
    with replacing(path) as ours:
        ours.mkdir()
        assert ours.name != partial
        (ours / "whole").touch()
    assert names(path) == ["whole"]
    assert names(tmp_path) == [".masks.letter.partial", ".masks.v2.0123456789ab.partial", "masks"]


def test_what_is_reserved_can_be_written_here_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    other = "import sys; from pathlib import Path; from core.files.atomic import write_text;"
    other += "from core.base.errors import UserError\ntry: write_text(Path(sys.argv[1]), 'theirs')\n"
    other += "except UserError as error: print(error)"
    with reserved(path), reserved(path.with_name("b.json")):
        write_text(path, "ours")
        said = started(other, str(path)).communicate(timeout=60)
        assert f"process {os.getpid()} " in said[0]
        assert said[1] == ""
        assert path.read_text() == "ours"
    assert started(other, str(path)).communicate(timeout=60) == ("", "")
    assert path.read_text() == "theirs"
    assert names(path.parent) == ["a.json"]


def test_threads_and_processes_share_no_temporary_name(tmp_path: Path) -> None:
    """This holds even if the file system has no locks."""
    seen = set()
    for _ in range(3):
        with replacing(tmp_path / "a") as partial:
            seen.add(partial)
            partial.touch()
    assert len(seen) == 3
    assert {path.parent for path in seen} == {tmp_path}


def test_other_threads_are_refused_too(tmp_path: Path) -> None:
    refused: list[UserError] = []

    def write() -> None:
        try:
            write_text(tmp_path / "a", "theirs")
        except UserError as error:
            refused.append(error)

    with replacing(tmp_path / "a") as partial:
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        partial.write_text("ours")
    assert len(refused) == 1
    assert (tmp_path / "a").read_text() == "ours"


def test_a_number_that_another_process_takes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "ours").touch()
    make, made = Path.mkdir, []

    def late(folder: Path, *words: object, **options: object) -> None:
        if not made:
            made.append(folder)
            make(folder)  # the other process is quicker, and has written nothing into it yet
        make(folder, *words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", late)
    assert rename_existing(path) == tmp_path / "model.2"
    assert made == [tmp_path / "model.1"]
    assert names(tmp_path / "model.1") == []
    assert names(tmp_path / "model.2") == ["ours"]
    assert names(tmp_path) == ["model.1", "model.2"]


def test_a_file_is_renamed_too(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "logs").write_text(f"{number}")
        assert rename_existing(tmp_path / "logs") == tmp_path / f"logs.{number}"
    assert (tmp_path / "logs.1").read_text() == "1"
    assert (tmp_path / "logs.2").read_text() == "2"


# ---------------------------------------------------------------------------------- what is on disk


def test_permissions_are_the_umasks_or_those_of_the_file_before(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "new")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
        for mode in (0o600, 0o444, 0o664):
            (tmp_path / "a").chmod(mode)
            write_text(tmp_path / "a", f"{mode}")
            assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
        (tmp_path / "finished").write_text("finished")
        put_in_place(tmp_path / "finished", tmp_path / "a")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o664
        assert (tmp_path / "a").read_text() == "finished"
    finally:
        os.umask(before)


def test_a_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "export"
    path.mkdir()
    (path / "old").touch()
    replace = Path.replace

    def refuse(source: Path, target: Path) -> Path:
        if source.name.endswith(".partial"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UserError, match=r"cannot write .*export: Input/output error"), replacing(path) as new:
        new.mkdir()
    assert names(tmp_path) == ["export"]
    assert names(path) == ["old"]


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    with pytest.raises(UserError, match="folder: it is a folder"):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path / "folder") == ["precious"]


def test_content_is_flushed_for_writing_and_then_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows flushes nothing that is open for reading only. On other systems a crash could lose the name."""
    fcntl = pytest.importorskip("fcntl", reason="only POSIX tells how a file is open")
    flushed: list[tuple[str, int]] = []

    def note(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        flushed.append((str(path.relative_to(tmp_path)), mode))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("what a descriptor leads to is not known here: /proc is Linux's")
    monkeypatch.setattr(os, "fsync", note)
    with replacing(tmp_path / "out") as partial:
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / "a").touch()
        (partial / "deep" / "sealed").touch(mode=0o444)
    name = partial.name
    assert sorted(flushed[:-1]) == [
        (name, os.O_RDONLY),
        (f"{name}/deep", os.O_RDONLY),
        (f"{name}/deep/a", os.O_RDWR),
        (f"{name}/deep/sealed", os.O_RDWR if os.geteuid() == 0 else os.O_RDONLY),
    ]
    assert flushed[-1] == (".", os.O_RDONLY)


def test_a_folder_without_files_is_not_renamed(tmp_path: Path) -> None:
    """A run that is killed before its first checkpoint leaves one. A mount point cannot be renamed."""
    folder = tmp_path / "model"
    (folder / "fold0" / "export").mkdir(parents=True)
    (folder / ".fold0.lock").write_text('{"host": "a", "process')  # of a killed run
    (folder / ".lock").touch()
    assert rename_existing(folder) is None
    assert names(tmp_path) == ["model"]
    (tmp_path / "link").symlink_to("model")
    assert rename_existing(tmp_path / "link") is None
    for name in (".fold1.lock", "fold0/x"):
        (folder / name).write_text("precious")
        assert rename_existing(folder) is not None
        (folder / "fold0").mkdir(parents=True)
    (folder / "gone").symlink_to("nowhere")
    assert rename_existing(folder) == tmp_path / "model.3"
