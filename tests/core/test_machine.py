"""What is known of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.machine import available_cores, held_back_stderr, multiplies_bfloat16, utf8_name


def test_cores() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


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


def test_bfloat16_where_nothing_is_told(tmp_path: Path) -> None:
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


def test_stderr_is_held_back_where_no_temporary_file_can_be(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files in memory")
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", "/nowhere/at/all")
        with held_back_stderr():
            os.write(2, b"a remark")
    assert capfd.readouterr().err == ""
