"""Preprocessing that is killed at random moments and restarted gives the result of an uninterrupted run.

The default is a few kills; `PNEUMOSEG_KILLS=50 pytest -s
tests/data/preprocessing/test_killed_preprocessing.py` makes as many as are asked for and prints where they
struck. `PNEUMOSEG_SEED` draws other moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from dicom_files import make_dataset
from processes import wait_for_group

from data.annotations import rle

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("PNEUMOSEG_KILLS", "3"))
SEED = int(os.environ.get("PNEUMOSEG_SEED", "20"))
FILES, HEIGHT, WIDTH = 300, 61, 47

pytestmark = [
    pytest.mark.turns(3),
    pytest.mark.skipif(sys.platform != "linux", reason="it looks for orphans in /proc"),
]


@pytest.fixture(scope="module", params=["whole files", "wrecks too"])
def sources(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 radiographs of noise; every third is positive, some have no annotation or, if wanted, are wrecks.

    Without wrecks the file of rows becomes the final file; with them all rows are copied.
    """
    folder = tmp_path_factory.mktemp("sources")
    images = folder / "images"
    images.mkdir()
    noise = np.random.default_rng(SEED)
    rows = ["ImageId, EncodedPixels"]
    for number in range(FILES):
        path = images / f"{number:03}.dcm"
        if number % 41 == 7 and request.param == "wrecks too":
            path.write_bytes(b"no radiograph")
            continue
        make_dataset(noise.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)).save_as(path)
        mask = noise.random((HEIGHT, WIDTH)) < (0.6 if number % 3 == 0 else 0)
        if number % 53 != 11:
            rows.append(f"{number:03}, {rle.encode(mask)}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder


def words(sources: Path, out: Path) -> list[str]:
    options = {"--images": sources / "images", "--annotations": sources / "train.csv", "--out": out}
    options |= {"--size": 29, "--per-dataset": 70, "--workers": 2}
    flat = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, str(ROOT / "preprocess.py"), *flat]


def arrays(path: Path) -> dict[str, bytes]:
    """Return every array's type, shape and bytes."""
    with h5py.File(path) as file:
        return {
            name: repr((file[name].dtype, file[name].shape)).encode() + file[name][:].tobytes()
            for name in file
        }


@pytest.mark.timeout(30 * max(KILLS, 10))
def test_killed_at_random_moments(sources: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        words(sources, tmp_path / "whole.h5"), check=False, capture_output=True, timeout=120
    )
    assert done.returncode in (0, 3), done.stderr  # 3 where some are no radiographs
    seconds = time.monotonic() - started
    whole = arrays(tmp_path / "whole.h5")
    assert len(whole) == 6 * 5
    chance, out = random.Random(SEED), tmp_path / "a.h5"
    struck: Counter[str] = Counter()
    while struck.total() < (KILLS + 1) // 2:  # and as many with the other sources
        process = subprocess.Popen(
            words(sources, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        wait_for_moment(process, out, chance, seconds)
        if process.poll() is None:
            struck[where(out)] += 1
            kill(process, alone=chance.random() < 0.5)
        finish(process, out, whole)
    last = subprocess.run(
        words(sources, out), check=False, capture_output=True, timeout=120, encoding="utf-8"
    )
    assert last.returncode == done.returncode, last.stderr
    assert arrays(out) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "whole.h5"]
    print(f"\n{struck.total()} kills with seed {SEED}: {dict(struck)}")


def wait_for_moment(
    process: subprocess.Popen[bytes], out: Path, chance: random.Random, seconds: float
) -> None:
    """Wait for a time, a number of files, or the first bytes of the final file; which one is random."""
    journal = out.with_name(f"{out.name}.staging") / "journal.jsonl"
    lines, deadline = chance.randrange(FILES), time.monotonic() + chance.uniform(0, 1.5 * seconds)
    moments: list[Callable[[], bool]] = [
        lambda: time.monotonic() >= deadline,
        lambda: journal.exists() and journal.read_bytes().count(b"\n") >= lines,
        lambda: being_finished(out),
    ]
    come = chance.choices(moments, (2, 3, 1))[0]
    while process.poll() is None and not reached(come):
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.01))


def reached(come: Callable[[], bool]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return come()
    return False


def where(out: Path) -> str:
    """Return what the process is doing, as far as it is visible from outside."""
    if out.exists():
        return "clearing up"
    with contextlib.suppress(FileNotFoundError):
        if being_finished(out):
            return "writing"
    journal = out.with_name(f"{out.name}.staging") / "journal.jsonl"
    return "reading" if journal.exists() and journal.stat().st_size else "starting"


def being_finished(out: Path) -> bool:
    """Return whether HDF5 has begun to write around the rows, or they are being copied."""
    if any(out.parent.glob(f".{out.name}.*.partial")):
        return True
    with out.with_name(f"{out.name}.staging").joinpath("rows").open("rb") as rows:
        return rows.read(4) == b"\x89HDF"


def kill(process: subprocess.Popen[bytes], *, alone: bool) -> None:
    """Kill the process, with or without its child processes."""
    with contextlib.suppress(ProcessLookupError):
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)


def finish(process: subprocess.Popen[bytes], out: Path, whole: dict[str, bytes]) -> None:
    """Check that no child process remains, and that a file with the final name is complete."""
    wait_for_group(process)
    if out.exists():
        assert arrays(out) == whole
        out.unlink()  # the next one starts anew
