"""Standard output and standard error that never raise, and text that stays on its line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.base.standard_streams import visible

ROOT = Path(__file__).parents[3]
POSIX = pytest.mark.skipif(os.name == "nt", reason="descriptors as POSIX has them")

PROGRAM = """
import os, sys
sys.path.insert(0, {root!r})
from core.base.standard_streams import protected_streams
with protected_streams() as streams:
    {body}
    lost = streams.write_failure()
    print("lost:", lost and lost.strerror, file=sys.stderr)
print("after \\u80f8")
"""


def told(
    body: str, redirect: str = "", encoding: str = "utf-8", *options: str
) -> subprocess.CompletedProcess[bytes]:
    """Run `body` in a program with protected streams that a shell starts."""
    program = PROGRAM.format(root=str(ROOT), body=body)
    words = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, *options, "-c", program]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run(words, capture_output=True, env=environment, timeout=60, check=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain 胸部 é", "plain 胸部 é"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nerror: b\tc\r", "a\\nerror: b\\tc\\r"),
        ("\x9b2J \x07\x7f", "\\x9b2J \\x07\\x7f"),
        ("\u202egnp.exe \u2028", "\\u202egnp.exe \\u2028"),
        ("\udcff", "\\udcff"),
        ("", ""),
    ],
)
def test_what_is_not_seen_becomes_escapes(text: str, shown: str) -> None:
    assert visible(text) == shown


@POSIX
@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"\u80f8 \xe9 \udcff"),
        ("ascii:strict", rb"\u80f8 \xe9 \udcff"),
        ("cp1252:strict", b"\\u80f8 \xe9 \\udcff"),
        ("utf-8", "胸 é ".encode() + rb"\udcff"),
        ("utf-16-le:strict", "胸 é \\udcff".encode("utf-16-le")),
    ],
)
@pytest.mark.parametrize("options", [(), ("-u",)])
def test_characters_that_the_encoding_lacks(encoding: str, shown: bytes, options: tuple[str, ...]) -> None:
    done = told(r'print("\u80f8 \xe9 \udcff", end=""); sys.stderr.write("\u80f8")', "", encoding, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(shown)


@POSIX
@pytest.mark.parametrize("options", [(), ("-u",)])
def test_a_reader_that_has_gone(options: tuple[str, ...]) -> None:
    """A closed pipe is no failure: nobody wants the output."""
    gone = "r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w)"
    done = told(f'{gone}; print("x" * 99999); print("y", flush=True)', "", "utf-8", *options)
    assert b"lost: None\n" in done.stderr
    assert b"Traceback" not in done.stderr.split(b"lost: None")[0]


@POSIX
@pytest.mark.parametrize("gone", [True, False])
def test_a_terminal_that_has_gone(gone: bool) -> None:
    """A closed terminal window is no failure: nobody wants the output."""
    import pty

    terminal, ours = pty.openpty()
    body = 'print("begun", file=sys.stderr, flush=True); sys.stdin.read(); print("x", flush=True)'
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT), body=body)],
        stdin=subprocess.PIPE,
        stdout=ours,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(ours)
    assert process.stderr is not None
    assert process.stderr.readline() == b"begun\n"
    if gone:
        os.close(terminal)
    _, said = process.communicate(timeout=60)
    assert said.startswith(b"lost: None\n"), said
    if not gone:
        os.close(terminal)


@POSIX
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("size", [1, 99999])
def test_a_full_disk_is_reported(size: int) -> None:
    done = told(f'print("x" * {size})', ">/dev/full")
    assert b"lost: No space left on device\n" in done.stderr


@POSIX
def test_a_full_disk_under_standard_error_changes_nothing() -> None:
    done = told('print("x"); sys.stderr.write("y\\n")', "2>/dev/full")
    assert (done.returncode, done.stdout.split()[0]) == (0, b"x")


@POSIX
@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_file_never_takes_the_number_of_a_closed_stream(tmp_path: Path, redirect: str) -> None:
    """Otherwise what a library prints would be written into the file."""
    path = str(tmp_path / "file")
    body = f'file = open({path!r}, "w"); print(1); print(2, file=sys.stderr); file.write(str(file.fileno()))'
    done = told(f"{body}; os.write(1, b'3'); os.write(2, b'4'); file.close()", redirect)
    assert done.returncode == 0, done.stderr
    assert int(Path(path).read_text()) > 2


@POSIX
def test_a_pipe_that_does_not_block(tmp_path: Path) -> None:
    """Another process that shares the pipe may have set this. Python's own stream raises when it is full."""
    program = PROGRAM.format(root=str(ROOT), body='os.set_blocking(1, False); print("x" * 999_999)')
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    out, said = process.communicate(timeout=60)
    assert out.count(b"x") == 999_999, said


@POSIX
def test_they_are_as_before_afterwards() -> None:
    done = told("inside = sys.stdout", "", "ascii:strict")
    assert done.stdout == b"after \\u80f8\n"
