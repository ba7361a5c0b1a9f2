#!/usr/bin/env python
"""Measure whether time and memory grow linearly.

    python benchmarks/scaling.py [-f tf] [--counts 3000 6000 12047 24094] [--sizes 192 288 384 576]
                                 [--batch-size 4] [--repetitions 5] [--device cpu] [--json FILE]

    images       for files with these numbers of images of 64x64 (uint8): the time to open the file and that
                 of a shuffled epoch in batches of 32, for each 1,000 images, and the process's peak memory
    image size   the time of a training step of the default network, for each megapixel, and the process's
                 peak memory: the increase over that of the smallest size, for each further megapixel

Each line is a process of its own; times are medians of the repetitions. Linear growth gives equal numbers.
benchmarks/preprocess.py shows how `preprocess.py` scales.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the line above finds the project
from noise import write_noise  # noqa: E402
from paired_timings import Contender, Turn, take_turns  # noqa: E402
from training import ours  # noqa: E402

SMALL, BATCH, IMAGES = 64, 32, 16
STEPS = 3  # of a turn


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-f", "--framework", default="tf", metavar="NAME")
    parser.add_argument("--counts", type=int, nargs="+", default=[3000, 6000, 12047, 24094])
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 288, 384, 576])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pneumoseg-benchmark-") as name:
        record = {
            "images": [by_count(Path(name), n, arguments.repetitions) for n in arguments.counts],
            "sizes": by_size(Path(name), arguments),
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def by_count(folder: Path, count: int, repetitions: int) -> dict[str, Any]:
    """Measure one number of images."""
    path = folder / "images.h5"
    write_noise(path, SMALL, "uint8", count)
    contender = Contender(f"{count} images", epochs, path)
    take_turns([contender], 1, repetitions)
    seconds = [block.seconds for block in contender.blocks]
    opened = contender.facts["opened"]
    epoch = statistics.median(seconds)
    print(
        f"{count:6} images: opened in {1e6 * opened / count:6.2f} ms a 1,000, "
        f"epoch {1e6 * epoch / count:6.1f} ms a 1,000, memory {contender.peak_memory / 1e6:4.0f} MB",
        flush=True,
    )
    return {"count": count, "opened": opened, "epochs": seconds, "peak_memory": contender.peak_memory}


def epochs(turn: Turn, path: Path) -> None:
    """Load epoch after epoch, in the process of a contender."""
    from data.batches.loader import Loader
    from data.hdf5.store import Store

    began = time.perf_counter()
    with Store.open(path) as store:
        opened = time.perf_counter() - began
        loader = Loader(store, np.arange(store.count), BATCH, seed=0)
        turn.ready(opened=opened)
        for epoch in range(1, 1 << 30):
            for _ in loader.epoch(epoch):
                pass
            turn.step_done(lambda: None)


def by_size(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every size of the images."""
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        path = folder / "sizes.h5"
        write_noise(path, size, "float32", IMAGES)
        facts = ("fcn", path, arguments.batch_size, size, arguments.device, "float32")
        steps = STEPS * (1 + arguments.repetitions)  # the first turn does not count
        contender = Contender(f"{size}x{size}", ours, arguments.framework, *facts, steps)
        take_turns([contender], STEPS, arguments.repetitions)
        pixels = arguments.batch_size * size * size / 1e6
        step = statistics.median(block.seconds / block.steps for block in contender.blocks)
        rows.append({"size": size, "pixels": pixels, "step": step, "peak_memory": contender.peak_memory})
        line = f"{size:4}x{size:<4} {arguments.framework}: step {1e3 * step / pixels:6.1f} ms a megapixel, "
        line += f"memory {contender.peak_memory / 1e6:5.0f} MB"
        if len(rows) > 1:
            more = (contender.peak_memory - rows[0]["peak_memory"]) / (pixels - rows[0]["pixels"])
            line += f", {more / 1e6:4.0f} MB more a megapixel"
        print(line, flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
