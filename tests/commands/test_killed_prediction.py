"""`predict`, killed at random moments, leaves no partial output; run again, it writes the same outputs.

The default is a few kills; `PNEUMOSEG_KILLS=20 pytest -s tests/commands/test_killed_prediction.py` makes 20
and prints the state at each. `PNEUMOSEG_SEED` draws other moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import environment, words_of
from processes import wait_for_group
from tiny_model import radiograph, write_model, write_radiograph

KILLS = int(os.environ.get("PNEUMOSEG_KILLS", "3"))
SEED = int(os.environ.get("PNEUMOSEG_SEED", "20"))
IMAGES = 40

Content = dict[str, bytes]
"""The files of each output by name; the name is "" for an output that is a file."""

FILES = ("submission.csv", "probabilities.h5", "answers.json")
FOLDERS = ("masks", "overlays", "segmentations")
OUTPUTS = (*FILES, *FOLDERS)

pytestmark = [
    pytest.mark.turns(3),
    pytest.mark.skipif(sys.platform != "linux", reason="it looks for orphans in /proc"),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 small radiographs, every third positive, a few unreadable, and two different models."""
    folder = tmp_path_factory.mktemp("sources")
    for number in range(IMAGES):
        path = folder / "images" / f"{number:02}.dcm"
        write_radiograph(path, number, radiograph(number, 41 + number % 3, 37, bright=number % 3 == 0))
    for number in (7, 23):
        (folder / "images" / f"{number:02}.dcm").write_bytes(b"no radiograph")
    write_model(folder / "model")
    write_model(folder / "earlier", seed=2)
    return folder


def words(sources: Path, model: str, *more: str) -> list[str]:
    options = ["-f", "reference", "--model", str(sources / model), "--images", str(sources / "images")]
    options += ["--out", "submission.csv", "--probabilities", "probabilities.h5", "--json", "answers.json"]
    options += ["--masks", "masks", "--overlays", "overlays", "--dicom-seg", "segmentations"]
    return words_of("run.py", "predict", *options, "--workers", "2", "--batch-size", "4", *more)


def run(words: list[str], place: Path) -> None:
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        words, cwd=place, env=environment(), capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (3, ""), done.stdout + done.stderr


def content(path: Path) -> Content:
    """Return the content of an output."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {file.name: steady(file) for file in path.iterdir()}


def steady(file: Path) -> bytes:
    """Return a file's bytes; for a Segmentation object without its creation dates and times."""
    data = file.read_bytes()
    return re.sub(rb"(DA|TM|DT)..[0-9.]{6,26} ?", rb"\1", data) if file.suffix == ".dcm" else data


def contents(place: Path) -> dict[str, Content]:
    return {name: content(place / name) for name in OUTPUTS if (place / name).exists()}


@pytest.fixture(scope="module")
def undisturbed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Content]]:
    """The outputs of each model's uninterrupted run."""
    found = {}
    for model in ("model", "earlier"):
        place = tmp_path_factory.mktemp(model)
        run(words(sources, model), place)
        assert {path.name for path in place.iterdir()} == set(OUTPUTS)
        found[model] = contents(place)
    assert all(
        found["model"][name] != found["earlier"][name] for name in ("probabilities.h5", "answers.json")
    )
    return found


@pytest.mark.timeout(60 * max(KILLS, 5))
@pytest.mark.parametrize("before", ["nothing", "an earlier run"])
def test_killed_at_random_moments(
    sources: Path, undisturbed: dict[str, dict[str, Content]], tmp_path: Path, before: str
) -> None:
    chance, struck = random.Random(f"{SEED} {before}"), Counter[str]()
    first, place = tmp_path / "first", tmp_path / "place"
    first.mkdir()
    allowed = {name: [undisturbed["model"][name]] for name in OUTPUTS}
    if before == "an earlier run":
        run(words(sources, "earlier"), first)
        for name in OUTPUTS:
            allowed[name].append(undisturbed["earlier"][name])
    # Outputs that a killed run completed may be replaced.
    command = words(sources, "model", "--overwrite")
    started = time.monotonic()
    run(command, place)
    seconds = time.monotonic() - started
    while struck.total() < (KILLS + 1) // 2:  # and as many for the other way to start
        if (set(contents(place)) == set(OUTPUTS) and before == "nothing") or chance.random() < 0.4:
            run(command, place)
            check_whole(place, undisturbed["model"])
            shutil.rmtree(place)
            shutil.copytree(first, place)
        process = subprocess.Popen(
            command,
            cwd=place,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        began = {name: inode(place / name) for name in OUTPUTS}
        wait_for_moment(process, place, began, chance, seconds)
        if process.poll() is None:
            struck[kill(process, place, began, alone=chance.random() < 0.7)] += 1
        wait_for_group(process)
        found = contents(place)
        for name, one in found.items():
            assert one in allowed[name], f"{name} is neither whole nor what it was"
        if before == "an earlier run":
            assert set(FILES) <= set(found), (
                "what was there before is gone"
            )  # a folder that is being replaced is missing for a moment
    run(command, place)
    check_whole(place, undisturbed["model"])
    print(f"\n{struck.total()} kills with seed {SEED}, {before} there: {dict(struck)}")


def wait_for_moment(
    process: subprocess.Popen[bytes],
    place: Path,
    began: dict[str, int | None],
    chance: random.Random,
    seconds: float,
) -> None:
    """Wait for a random event: a time, a number of masks, or the first change of an output."""
    masks, deadline = chance.randrange(1, IMAGES), time.monotonic() + chance.uniform(0, 1.2 * seconds)
    moments: list[Callable[[], bool]] = [
        lambda: time.monotonic() >= deadline,
        lambda: hidden(place, ".png") >= masks,
        lambda: any(inode(place / name) != number for name, number in began.items()),
    ]
    come = chance.choices(moments, (2, 2, 3))[0]
    while process.poll() is None and not come():
        time.sleep(0.0005)
    time.sleep(chance.choice((0, 0, chance.uniform(0, 0.02))))


def inode(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_ino
    return None


def hidden(place: Path, suffix: str) -> int:
    """Return the number of files in unfinished output folders, which have temporary names."""
    count = 0
    with contextlib.suppress(OSError):  # files may vanish while they are listed
        for folder in place.iterdir():
            if folder.name not in OUTPUTS and folder.is_dir():
                count += sum(file.suffix == suffix for file in folder.iterdir())
    return count


def kill(process: subprocess.Popen[bytes], place: Path, began: dict[str, int | None], *, alone: bool) -> str:
    """Kill the process, with or without its children; return what it was doing."""
    begun = any(path.name not in OUTPUTS for path in place.iterdir())
    with contextlib.suppress(ProcessLookupError):
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
    if not begun:
        return "before or after"
    new = sum(inode(place / name) != number for name, number in began.items())
    return f"{hidden(place, '.png') // 10 * 10} pictures or more, {new} outputs in place"


def check_whole(place: Path, expected: dict[str, Content]) -> None:
    """Assert that all outputs equal those of an uninterrupted run, and that the folder has nothing else."""
    assert contents(place) == expected
    assert {path.name for path in place.iterdir()} == set(OUTPUTS)
