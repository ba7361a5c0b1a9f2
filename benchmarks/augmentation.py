#!/usr/bin/env python
"""Measure how much sampling and augmentation slow the loader down.

    python benchmarks/augmentation.py [--count 256] [--size 384] [--repetitions 7] [--json FILE]

In one run, on a file of noise stored as uint8, batches of 32:

    plain       shuffled
    sampled     a share of positives, falling
    siim        the augmentation of configs/siim.yaml
    elastic     an elastic displacement for every image
    grid        a displaced grid for every image
    moved       an affine map, an elastic displacement and a displaced grid, in one, for every image
    clahe       an equalisation for every image
    crop        a crop of half the size of every image
    everything  every kind of alteration for every image

They take turns, so that other work on the machine affects all of them alike. The script prints the median
rate in images/s, its ratio to `plain` of the same round, and the processor's time for each image, on which
other work has less effect.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the line above finds the project
from noise import write_noise  # noqa: E402

from core.base.system import available_cores  # noqa: E402
from core.experiment.configuration import load_configuration  # noqa: E402
from core.tasks.training_batches import training_batches  # noqa: E402
from data.hdf5.store import Store  # noqa: E402

EVERYTHING = (
    "{horizontal_flip: 0.5, shift: 0.0625, scale: 0.1, rotate: 15, "
    "brightness: 0.2, contrast: 0.2, gamma: 0.25, noise: 0.02, elastic: 0.05, grid_distortion: 0.2, clahe: 3}"
)
OFF = ["training.sampling=null", "training.augmentation={}"]
KINDS = {
    "plain": OFF,
    "sampled": ["training.augmentation={}"],
    "siim": ["training.sampling=null"],
    **{
        kind: ["training.sampling=null", f"training.augmentation={{{keys}}}"]
        for kind, keys in {
            "elastic": "elastic: 0.05",
            "grid": "grid_distortion: 0.2",
            "moved": "shift: 0.0625, scale: 0.1, rotate: 15, elastic: 0.05, grid_distortion: 0.2",
            "clahe": "clahe: 3",
        }.items()
    },
    "crop": [*OFF, "training.crop={size: HALF}"],
    "everything": ["training.sampling=null", f"training.augmentation={EVERYTHING}"],
}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    processor: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="pneumoseg-benchmark-") as folder:
        path = Path(folder) / "noise.h5"
        write_noise(path, arguments.size, "uint8", arguments.count)
        with Store.open(path) as store:
            half = str(arguments.size // 2)
            tiles = f"training.augmentation.clahe_tiles={min(8, arguments.size // 8)}"  # not too small
            loaders = {
                kind: training_batches(
                    store,
                    np.arange(store.count),
                    load_configuration(
                        ROOT / "configs/siim.yaml",
                        [
                            "training.stages=[]",
                            "training.batch_size=32",
                            *(key.replace("HALF", half) for key in how),
                            tiles,
                        ],
                    ).training,
                )
                for kind, how in KINDS.items()
            }
            for epoch in range(arguments.repetitions + 1):
                for kind, loader in loaders.items():
                    wall, cpu = time.perf_counter(), time.process_time()
                    images = sum(len(batch.images) for batch in loader.epoch(epoch + 1))
                    if epoch:  # the first one fills the disk's cache
                        rates[kind].append(images / (time.perf_counter() - wall))
                        processor[kind].append((time.process_time() - cpu) / images)
    print(f"{arguments.count} images of {arguments.size}x{arguments.size}, {available_cores()} cores")
    rows = {}
    for kind in KINDS:
        ratios = [one / plain for one, plain in zip(rates[kind], rates["plain"], strict=True)]
        rows[kind] = {
            "images_per_second": statistics.median(rates[kind]),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "processor_ms": 1e3 * statistics.median(processor[kind]),
        }
        print(
            f"{kind:<11}{rows[kind]['images_per_second']:7.0f} images/s  {rows[kind]['ratio']:5.2f} of plain "
            f"({min(ratios):.2f} to {max(ratios):.2f})  {rows[kind]['processor_ms']:5.2f} ms of CPU each"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
