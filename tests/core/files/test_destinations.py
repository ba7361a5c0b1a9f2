"""Streams are written into or refused, and a link stays a link.

No test uses a name in /dev. If root runs the tests, code that fails them would destroy the device for the
whole system. The tests create links and nodes like those of /dev. Nobody can rename anything in /proc.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.base.errors import UserError
from core.files import destinations
from core.files.atomic import rename_existing, replacing, write_bytes, write_text
from core.files.checks import check_place
from core.files.destinations import (
    STANDARD_OUTPUT,
    OutputStream,
    destination,
    is_standard_output,
    output_file,
)

ROOT = Path(__file__).resolve().parents[3]
NULL, FULL = (1, 3), (1, 7)  # major and minor numbers of Linux's devices
CONTENT = "täxt\n" * 40_000  # more than a pipe takes at once


def make_device(path: Path, kind: int, numbers: tuple[int, int]) -> None:
    """Create a node like those in /dev, or skip the test if that is not allowed."""
    try:
        os.mknod(path, 0o600 | kind, os.makedev(*numbers))
        if kind == stat.S_IFCHR:
            os.close(os.open(path, os.O_WRONLY))
    except (OSError, AttributeError) as error:
        pytest.skip(f"no device can be made and opened here (it takes root): {error}")


def kept(path: Path) -> tuple[int, int]:
    """Return what must not change if a path is to mean the same file."""
    status = path.lstat()
    return status.st_ino, stat.S_IFMT(status.st_mode)


@contextlib.contextmanager
def reader(pipe: Path, code: str = "print(len(sys.stdin.read()))") -> Iterator[subprocess.Popen[str]]:
    """Start a process whose standard input is a pipe."""
    words = ["sh", "-c", 'exec "$0" -c "$1" < "$2"', sys.executable, f"import sys; {code}", str(pipe)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={"PYTHONIOENCODING": "utf-8"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    path = tmp_path / "null"
    make_device(path, stat.S_IFCHR, NULL)
    before = kept(path)
    check_place(path)
    write_text(path, CONTENT)
    write_bytes(path, b"")
    assert kept(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_device_refuses_is_told(tmp_path: Path) -> None:
    path = tmp_path / "full"
    make_device(path, stat.S_IFCHR, FULL)
    with pytest.raises(UserError, match=r"cannot write .*full: No space left"):
        write_text(path, "x")
    assert stat.S_ISCHR(path.stat().st_mode)


def test_a_link_to_a_device_stays_too(tmp_path: Path) -> None:
    make_device(tmp_path / "null", stat.S_IFCHR, NULL)
    (tmp_path / "link").symlink_to("null")
    before = kept(tmp_path / "link"), kept(tmp_path / "null")
    write_text(tmp_path / "link", "x")
    assert (kept(tmp_path / "link"), kept(tmp_path / "null")) == before


def test_disks_and_sockets_are_refused(tmp_path: Path) -> None:
    make_device(tmp_path / "disk", stat.S_IFBLK, (250, 250))
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path must be short
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)
        for name in ("disk", "socket"):
            before = kept(tmp_path / name)
            with pytest.raises(UserError, match=rf"cannot write .*{name}: it is a {name}"):
                write_text(tmp_path / name, "x")
            assert kept(tmp_path / name) == before


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = kept(pipe)
    with reader(pipe) as process:
        write_text(pipe, CONTENT)
        assert process.communicate(timeout=60)[0] == f"{len(CONTENT)}\n"
    assert kept(pipe) == before


def test_a_pipe_without_a_reader_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "_PATIENCE_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: nobody reads from this pipe"), fill(tmp_path / "pipe"):
        pytest.fail("it is found before the work begins")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_reader_may_come_a_moment_later(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    late = threading.Timer(0.3, lambda: found.append(pipe.read_text("utf-8")))
    late.start()
    write_text(pipe, CONTENT)
    late.join()
    assert found == [CONTENT]


def test_a_reader_that_leaves_is_told_of(tmp_path: Path) -> None:
    """The reader takes some kilobytes and ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with reader(pipe, "sys.stdin.read(1)"), pytest.raises(UserError, match="pipe: Broken pipe") as caught:
        write_text(pipe, CONTENT)
    assert "reader" in (caught.value.hint or "")


def test_a_reader_that_left_before_the_end_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "_PATIENCE_S", 0.5)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write_late(process: subprocess.Popen[str]) -> None:
        with fill(pipe) as partial:
            assert process.poll() is None
            process.kill()
            process.wait()
            partial.write_text(CONTENT)

    with reader(pipe) as process, pytest.raises(UserError, match="nobody reads from this pipe"):
        write_late(process)


@contextlib.contextmanager
def fill(path: Path) -> Iterator[Path]:
    with replacing(path, or_stream=True) as partial:
        yield partial


@pytest.mark.parametrize("kind", ["device", "pipe", "descriptor", "standard output"])
def test_what_must_be_replaced_does_not_go_there(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    if kind == "device":
        make_device(path, stat.S_IFCHR, NULL)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/proc/self/fd/1") if kind == "descriptor" else STANDARD_OUTPUT
    with pytest.raises(UserError, match="must be a file or a folder"), replacing(path):
        pytest.fail("it is found before the work begins")


@pytest.mark.parametrize("directory", ["link", "/proc/self/fd", "/proc/thread-self/fd", "/proc/PROCESS/fd"])
@pytest.mark.parametrize("linked", [False, True])
def test_an_open_file_by_its_number(tmp_path: Path, directory: str, linked: bool) -> None:
    """This is the shell's `3>> log`: the content stays, and what others write there is appended."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files have no names here: /proc is Linux's")
    (tmp_path / "link").symlink_to("/proc/self/fd")  # like /dev/fd
    directory = str(tmp_path / directory.replace("PROCESS", str(os.getpid())))
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("ab", buffering=0) as file:
        path = Path(directory) / str(file.fileno())
        if linked:
            (tmp_path / "one").symlink_to(path)
            (tmp_path / "two").symlink_to("one")
            path = tmp_path / "two"
        before = kept(log)
        write_text(path, "content\n")
        file.write(b"behind\n")
    assert log.read_text() == "before\ncontent\nbehind\n"
    assert kept(log) == before


@pytest.mark.parametrize("whose", ["child", "parent"])
def test_an_open_file_of_another_process(tmp_path: Path, whose: str) -> None:
    """Its descriptor means nothing here: this process may have another file of that number, or none."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files have no names here: /proc is Linux's")
    log = tmp_path / "log"
    log.touch()
    with log.open("ab", buffering=0) as file:
        if whose == "child":
            with subprocess.Popen(
                [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=file
            ) as child:
                found = destination(Path(f"/proc/{child.pid}/fd/1"))
                write_text(Path(f"/proc/{child.pid}/fd/1"), "content ä\n")
                child.communicate(b"\n", timeout=60)
            assert isinstance(found, OutputStream)
            assert not found.is_standard_output
        else:
            code = "import sys; from pathlib import Path; from core.files.atomic import write_text;"
            path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
            words = [sys.executable, "-c", f"{code} write_text(Path(sys.argv[1]), 'content ä\\n')", path]
            subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    assert log.read_text("utf-8") == "content ä\n"


def test_a_number_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("input")
    with (tmp_path / "input").open() as file, pytest.raises(UserError, match="Bad file descriptor"):
        write_text(Path(f"/proc/self/fd/{file.fileno()}"), "x")
    with pytest.raises(UserError, match="Bad file descriptor"):
        write_text(Path("/proc/self/fd/987"), "x")
    assert (tmp_path / "input").read_text() == "input"


@pytest.mark.parametrize("name", ["-", "stdout", "/proc/self/fd/1", "log", "link"])
def test_standard_output_by_all_its_names(tmp_path: Path, name: str) -> None:
    """It is redirected to a file. The file's own name and a link to it mean standard output as well."""
    (tmp_path / "link").symlink_to("log")
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # like /dev/stdout
    code = (
        "import sys; from pathlib import Path; from core.files.atomic import write_text;"
        "from core.files.destinations import is_standard_output; path = Path(sys.argv[1]);"
        "assert is_standard_output(path); assert not is_standard_output(Path('/proc/self/fd/2'));"
        "print('printed before'); write_text(path, 'content ä\\n'); print('printed after')"
    )
    log = tmp_path / "log"
    log.write_text("there already\n")
    with log.open("a") as file:
        subprocess.run(
            [sys.executable, "-c", code, name],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=file,
            check=True,
            timeout=60,
        )
    expected = "there already\nprinted before\ncontent ä\nprinted after\n"
    assert log.read_text("utf-8") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "log", "stdout"]


def test_standard_output_that_is_no_file() -> None:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        write_text(STANDARD_OUTPUT, "content ä\n")
    assert text.getvalue() == "content ä\n"
    with contextlib.redirect_stdout(None), pytest.raises(UserError, match="it is closed"):
        write_text(STANDARD_OUTPUT, "x")


def test_a_file_may_be_called_minus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_file("-") == STANDARD_OUTPUT
    assert output_file("a/b.csv") == Path("a/b.csv")
    write_text(output_file("./-"), "content")
    assert (tmp_path / "-").read_text() == "content"
    assert is_standard_output(output_file("-"))
    assert not is_standard_output(output_file("./-"))
    assert not is_standard_output(None)


# ------------------------------------------------------------------------------------------- links


def make_links(folder: Path, target: str) -> Path:
    """Create relative links `first` -> `links/second` -> `../data/<target>`, and return the first."""
    (folder / "links").mkdir()
    (folder / "data").mkdir()
    (folder / "first").symlink_to("links/second")
    (folder / "links" / "second").symlink_to(f"../data/{target}")
    return folder / "first"


@pytest.mark.parametrize("before", ["a file", "nothing", "no folder"])
def test_the_target_of_a_link_gets_the_content(tmp_path: Path, before: str) -> None:
    path = make_links(tmp_path, "deep/real.csv" if before == "no folder" else "real.csv")
    real = tmp_path / "data" / ("deep/real.csv" if before == "no folder" else "real.csv")
    if before == "a file":
        real.write_text("old")
    links = kept(path), kept(tmp_path / "links" / "second")
    check_place(path)
    assert destination(path) == real
    write_text(path, "new")
    assert real.read_text() == "new"
    assert not real.is_symlink()
    assert (kept(path), kept(tmp_path / "links" / "second")) == links
    assert [one.name for one in real.parent.iterdir()] == [real.name]


def test_the_target_of_a_link_may_be_a_folder(tmp_path: Path) -> None:
    path = make_links(tmp_path, "real")
    for name in ("old", "new"):
        with replacing(path) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert path.is_symlink()
    assert [one.name for one in (tmp_path / "data" / "real").iterdir()] == ["new"]
    assert rename_existing(path) == tmp_path / "data" / "real.1"
    assert path.is_symlink()
    assert not path.exists()


def fail_halfway(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError


def test_a_failure_leaves_link_and_target(tmp_path: Path) -> None:
    path = make_links(tmp_path, "real.csv")
    (tmp_path / "data" / "real.csv").write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail_halfway(path)
    assert path.is_symlink()
    assert path.read_text() == "old"
    assert [one.name for one in (tmp_path / "data").iterdir()] == ["real.csv"]


def test_links_that_lead_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path / "a", tmp_path / "a" / "x.csv"):
        with pytest.raises(UserError, match=r"cannot write .*(in a circle|symbolic links)"):
            write_text(path, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_pipe_is_known_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found = destination(tmp_path / "pipe")
    assert isinstance(found, OutputStream)
    assert not found.is_standard_output
    check_place(tmp_path / "pipe")
