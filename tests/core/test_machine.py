"""What is known of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.machine import available_cores, multiplies_bfloat16


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
