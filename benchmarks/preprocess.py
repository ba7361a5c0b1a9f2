#!/usr/bin/env python
"""Measure the speed of `preprocess.py` against the decoder's limit and against the usual code.

    python benchmarks/preprocess.py [--count 1200] [--repetitions 5] [--workers N] [--storage uint8]
                                    [--json FILE]

The script uses generated radiographs like the competition's (1024x1024, 8 bits, baseline JPEG):

    command   the whole of `python preprocess.py` with N workers, from its start to its exit
    limit     decode + resize by area, nothing else, in one thread; the streams are in memory
    loop      `pixel_array`, `cv2.resize`, append to an HDF5 file, in one thread; no masks
    at once   the limit's work in N processes at the same time: the share of N x the limit that N cores with
              one memory can reach; for information, no target depends on it

They take turns, so that other work on the machine affects all of them alike. Each round gives one ratio; the
script prints median, minimum and maximum. The command's start-up (imports, a pool) is measured by itself, on
a handful of files in every round, since the real set of 12,047 files has it only once, like this small one.
The script prints both ratios: with start-up, and for each file beyond the handful.

Last, it prints the memory of the command's whole tree of processes (proportional set size, shared memory
counted once), against the number of files.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402  the line above finds the project
import h5py  # noqa: E402
import numpy as np  # noqa: E402
import pydicom  # noqa: E402
import simplejpeg  # noqa: E402
from paired_timings import spread  # noqa: E402
from pydicom.encaps import generate_frames  # noqa: E402

from core.base.system import available_cores  # noqa: E402
from data.phantoms.data_set import ANNOTATIONS, IMAGES, PhantomSettings, write_phantoms  # noqa: E402
from data.radiographs.dicom import find  # noqa: E402

SIZE = 384
HANDFUL = 8
SINGLE_THREAD = 100  # files for each of the two loops
LEAST_OF_LIMIT, LEAST_OF_LOOP = 0.8, 2.0


@dataclass(frozen=True)
class Round:
    """The seconds of one round: of the two commands, then of one file in each of the loops."""

    command: float
    handful: float
    limit: float
    loop: float
    at_once: float


def main() -> int:
    """Measure and print; return exit status 1 if a target is missed."""
    arguments = parse()
    options = ("--size", SIZE, "--workers", arguments.workers, "--storage", arguments.storage)
    with tempfile.TemporaryDirectory(prefix="pneumoseg-benchmark-") as name:
        folder = Path(name)
        print(f"drawing {arguments.count} radiographs …", flush=True)
        write_phantoms(PhantomSettings(folder / "all", count=arguments.count, seed=1))
        few = part(folder, HANDFUL)
        rounds = [
            measure(folder / "all", few, options, number) for number in range(arguments.repetitions + 1)
        ][1:]  # the first one fills the page cache
        memory = {
            count: peak_memory(part(folder, count), options)
            for count in (arguments.count // 4, arguments.count // 2, arguments.count)
        }
    record = report(arguments, rounds, memory)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if record["met"] else 1


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1200, help="radiographs")
    parser.add_argument("--repetitions", type=int, default=5, help="rounds that count")
    parser.add_argument("--workers", type=int, default=available_cores(), help="of the command")
    parser.add_argument("--storage", choices=("float32", "uint8"), default="float32", help="of the command")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    arguments = parser.parse_args()
    if arguments.count < 4 * HANDFUL or arguments.repetitions < 1 or arguments.workers < 1:
        parser.error(f"at least {4 * HANDFUL} radiographs, 1 repetition and 1 worker are needed")
    return arguments


def part(folder: Path, count: int) -> Path:
    """Make a folder with links to the first `count` radiographs and to all annotations."""
    small = folder / f"part-{count}"
    if small.exists():
        return small
    images = small / IMAGES
    images.mkdir(parents=True)
    for path in find(folder / "all")[:count]:
        os.link(path, images / path.name)
    shutil.copy(folder / "all" / ANNOTATIONS, small)
    return small


def measure(sources: Path, few: Path, options: Sequence[object], number: int) -> Round:
    """Measure one round; every second one is in the reverse order."""
    paths = find(sources)[:SINGLE_THREAD]
    workers = int(str(options[options.index("--workers") + 1]))
    steps: dict[str, Callable[[], float]] = {
        "limit": lambda: limit(paths),
        "command": lambda: timed_command(sources, options),
        "loop": lambda: loop(paths, sources / "loop.h5"),
        "at_once": lambda: at_once(paths, workers),
        "handful": lambda: timed_command(few, options),
    }
    names = list(steps)[:: -1 if number % 2 else 1]
    found = Round(**{name: steps[name]() for name in names})
    print(f"  round {number}: command {found.command:.2f} s", flush=True)
    return found


def words(sources: Path, options: Sequence[object]) -> list[str]:
    """Return the command line that is measured."""
    places = (
        "--images",
        sources / IMAGES,
        "--annotations",
        sources / ANNOTATIONS,
        "--out",
        sources / "out.h5",
    )
    return [sys.executable, str(ROOT / "preprocess.py"), *map(str, (*places, *options)), "--overwrite"]


def timed_command(sources: Path, options: Sequence[object]) -> float:
    """Return the seconds of the whole command. It makes a new file, since deleting the old one takes time."""
    (sources / "out.h5").unlink(missing_ok=True)
    os.sync()
    start = time.perf_counter()
    subprocess.run(words(sources, options), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def limit(paths: Sequence[Path], wait: Callable[[], object] = lambda: None) -> float:
    """Return the seconds that the necessary work takes for a file; begin when `wait` returns."""
    streams = []
    for path in paths:
        pixel_data = pydicom.dcmread(path).PixelData
        streams.append(next(generate_frames(pixel_data, number_of_frames=1)))
    wait()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    start = time.perf_counter()
    for stream in streams:
        pixels = simplejpeg.decode_jpeg(stream, colorspace="GRAY")[..., 0].astype(np.float32)
        cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    seconds = time.perf_counter() - start
    cv2.setNumThreads(threads)
    return seconds / len(paths)


def at_once(paths: Sequence[Path], workers: int) -> float:
    """Return the seconds for a file of the slowest of several processes that do the limit's work at once."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers), context.SimpleQueue()
    processes = [
        context.Process(target=limit_beside_others, args=(paths, barrier, results)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    seconds = [float(results.get()) for _ in processes]
    for process in processes:
        process.join()
    return max(seconds)


def limit_beside_others(paths: Sequence[Path], barrier: Any, results: Any) -> None:
    """Do the limit's work in one of these processes."""
    results.put(limit(paths, barrier.wait))


def loop(paths: Sequence[Path], out: Path) -> float:
    """Return the seconds that the usual code takes for a file."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    start = time.perf_counter()
    with h5py.File(out, "w") as file:
        images = file.create_dataset("images", (0, SIZE, SIZE, 1), "f4", maxshape=(None, SIZE, SIZE, 1))
        for path in paths:
            pixels = pydicom.dcmread(path).pixel_array
            small = cv2.resize(pixels, (SIZE, SIZE)) / 255
            images.resize(len(images) + 1, axis=0)
            images[-1] = small[..., None]
    seconds = time.perf_counter() - start
    cv2.setNumThreads(threads)
    return seconds / len(paths)


def peak_memory(sources: Path, options: Sequence[object]) -> int:
    """Return the peak proportional set size of the command's processes, in bytes; 0 if it is unknown."""
    process = subprocess.Popen(words(sources, options), stdout=subprocess.DEVNULL)
    peak = 0
    watch = threading.Event()
    while process.poll() is None:
        peak = max(peak, sum(proportional(pid) for pid in tree(process.pid)))
        watch.wait(0.02)
    if process.returncode:
        raise SystemExit(f"the command ended with status {process.returncode}")
    return peak


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(found for child in children for found in tree(int(child)))]


def proportional(pid: int) -> int:
    """Return the proportional set size of a process, in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def report(
    arguments: argparse.Namespace, rounds: Sequence[Round], memory: dict[int, int]
) -> dict[str, object]:
    """Print everything; return the record."""
    count, workers = arguments.count, arguments.workers
    beyond = [(one.command - one.handful) / (count - HANDFUL) for one in rounds]
    whole = [one.command / count for one in rounds]
    shares = [one.limit / one.at_once for one in rounds]
    ratios = {
        "of the limit, start-up included": ratio([one.limit for one in rounds], whole, workers),
        "of the limit, beyond start-up": ratio([one.limit for one in rounds], beyond, workers),
        "over the loop, start-up included": ratio([one.loop for one in rounds], whole, workers),
        "over the loop, beyond start-up": ratio([one.loop for one in rounds], beyond, workers),
    }
    print(
        f"{count} radiographs of 1024x1024, {workers} workers, {len(rounds)} rounds; median (least, greatest)"
    )
    for name, seconds, of in (
        ("command", [one.command for one in rounds], count),
        ("handful", [one.handful for one in rounds], HANDFUL),
        ("limit", [one.limit for one in rounds], 1),
        ("loop", [one.loop for one in rounds], 1),
        ("at once", [one.at_once for one in rounds], workers),
    ):
        middle, low, high = spread([of / one for one in seconds])
        print(f"  {name:<8} {middle:8.1f} images/s ({low:.1f}, {high:.1f})")
    print("per core, images/s of the command")
    for name, values in {**ratios, "(limit at once, of the limit)": shares}.items():
        middle, low, high = spread(values)
        print(f"  {name:<34} {middle:6.2f} ({low:.2f}, {high:.2f})")
    print("greatest memory of all its processes")
    for files, peak in memory.items():
        print(f"  {files:6} files {peak / 1e6:8.0f} MB")
    met = (
        statistics.median(ratios["of the limit, beyond start-up"]) >= LEAST_OF_LIMIT
        and statistics.median(ratios["over the loop, beyond start-up"]) >= LEAST_OF_LOOP
    )
    targets = f"{LEAST_OF_LIMIT} of the limit, {LEAST_OF_LOOP} over the loop"
    print(f"targets beyond start-up ({targets}): {'met' if met else 'MISSED'}")
    return {
        "count": count,
        "workers": workers,
        "storage": arguments.storage,
        "rounds": [asdict(one) for one in rounds],
        "ratios": ratios,
        "memory": memory,
        "met": met,
    }


def ratio(bare: Sequence[float], command: Sequence[float], workers: int) -> list[float]:
    """Return for each round the command's images/s per worker, divided by the images/s of the other."""
    return [one / (other * workers) for one, other in zip(bare, command, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
