"""Tests that a missing decoder is reported by its package, not as a damaged file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hidden_packages import hide
from pixel_files import CODECS, DELIMITER, even, item, slope, write_raw

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("codec", "bits", "module", "package"),
    [
        ("JPEG lossless", 12, "imagecodecs", "imagecodecs"),
        ("JPEG-LS", 10, "jpeg_ls", "pyjpegls"),
        ("JPEG 2000", 8, "openjpeg", "pylibjpeg-openjpeg"),
    ],
)
def test_a_decoder_that_is_missing_is_named(
    codec: str, bits: int, module: str, package: str, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    syntax, encode, _, _ = CODECS[codec]
    stream = item(b"") + item(even(encode(slope(bits), bits))) + DELIMITER
    write_raw(images / "one.dcm", stream, syntax=syntax, bits=bits)
    words = ["--images", "images", "--no-annotations", "--out", "made.h5", "--size", "32"]

    def preprocess(**env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "preprocess.py"), *words]
        return subprocess.run(
            command, cwd=tmp_path, env={"PATH": "", **env}, capture_output=True, text=True, check=False
        )

    done = preprocess(**hide(tmp_path / "hidden", [module], [package]))
    assert done.returncode == 1
    expected = f"which is not installed\nRun: pip install {package}\n"
    assert done.stderr.startswith("error: this command needs ")
    assert done.stderr.endswith(expected)
    assert done.stderr.count("\n") == 2
    assert not (tmp_path / "made.h5").exists()
    done = preprocess()  # as if it had been installed
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "made.h5").exists()
