"""Properties and settings of the machine and the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.base.system import (
    available_cores,
    by_idleness,
    hidden_stderr,
    idlest_cores,
    multiplies_bfloat16,
    utf8_name,
)

ROOT = Path(__file__).resolve().parents[3]


def test_cores() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_idle_cores_come_first() -> None:
    before = {0: 500, 1: 900, 2: 100, 5: 40}
    after = {0: 500, 1: 910, 2: 110, 5: 49}  # core 0 was busy all the time
    assert by_idleness([0, 1, 2, 5], before, after) == [1, 2, 5, 0]
    assert by_idleness([5, 2], before, after) == [2, 5]
    assert by_idleness([3, 0], {}, {}) == [3, 0]
    assert sorted(idlest_cores(range(4), 0.01)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (
            "processor\t: 0\nflags\t\t: fpu avx512_bf16 rdpid\n\nprocessor\t: 1\nflags\t\t: fpu\n",
            True,
        ),
        ("processor\t: 0\nflags\t\t: fpu amx_tile amx_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\nbugs\t\t: avx512_bf16\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", False),
        ("", False),
    ],
)
def test_bfloat16(tmp_path: Path, description: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(description)
    assert multiplies_bfloat16(tmp_path / "cpuinfo") is expected


def test_bfloat16_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert multiplies_bfloat16(tmp_path / "none") is False


@pytest.mark.skipif(os.name == "nt", reason="there all names are Unicode")
@pytest.mark.parametrize("name", [b"\xff", "胸部".encode()])
def test_a_folder_by_a_name_in_utf8(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    with utf8_name(folder) as called:
        Path(called.encode().decode(), "file").write_text("here")
        assert (called == str(folder)) == (name != b"\xff")
    assert (folder / "file").read_text() == "here"
    assert folder.is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc on Linux that is told")
def test_freed_memory_is_kept_for_the_next_array() -> None:
    """By default glibc maps arrays of 96 MiB separately and returns their memory to the system."""
    code = """if True:
        import os, sys
        from core.base.system import keep_freed_memory, return_freed_memory
        def resident() -> float:
            return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        sys.argv[1] != "given back" and keep_freed_memory()
        one, other = b"x" * (96 << 20), b"y" * (96 << 20)
        full = resident()
        del other, one
        sys.argv[1] == "kept, then returned" and return_freed_memory()
        print(full, resident())
    """
    left = {}
    for how in ("kept", "kept, then returned", "given back"):
        done = subprocess.run(
            [sys.executable, "-c", code, how],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        full, afterwards = map(float, done.stdout.split())
        left[how] = (afterwards - full) / 96
    if left["given back"] > -1.5:
        pytest.skip("another C library, which keeps it anyway")
    assert left["kept"] > -0.2
    assert left["kept, then returned"] < -1.5


def test_stderr_is_hidden_and_restored(capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        with hidden_stderr():
            os.write(2, b"a remark")
            os.write(1, b"an answer\n")
        os.write(2, f"error {number}\n".encode())
        os.write(1, f"line {number}\n".encode())
    said = capfd.readouterr()
    assert said.err == "error 0\nerror 1\n"
    assert said.out == "an answer\nline 0\nan answer\nline 1\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hidden_output_is_printed_after_an_error(
    capfd: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    def failing() -> None:
        with hidden_stderr():
            os.write(2, b"a remark, \xff among it\n")
            raise error

    with pytest.raises(error):
        failing()
    os.write(2, b"after\n")
    os.write(1, b"a line\n")
    said = capfd.readouterr()
    assert said.err == "a remark, \ufffd among it\nafter\n"
    assert said.out == "a line\n"


def test_no_descriptor_is_left_behind() -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files have no names here: /proc is Linux's")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - the numbers alone
    for _ in range(3):
        with hidden_stderr():
            pass
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_stderr_is_hidden_where_no_temporary_file_can_be(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files in memory")
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", "/nowhere/at/all")
        with hidden_stderr():
            os.write(2, b"a remark")
    assert capfd.readouterr().err == ""
