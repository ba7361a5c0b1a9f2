#!/usr/bin/env python
"""Measure how fast batches are loaded: by this project, from memory, and by common alternatives.

    python benchmarks/loader.py [--count 1024] [--size 384] [--batch-size 32] [--steps 16] [--repetitions 9]
                                [--device cpu|gpu] [--json FILE]

The script loads shuffled batches of images and masks, from a file of uint8 and one of float32. Each contender
is a process (`paired_timings.py`):

    ours         data.batches.loader.Loader over the HDF5 file, which is in the page cache
    ours, cold   the same after the file was dropped from the page cache (Linux), read once
    memory       `numpy.take` from arrays in memory, then float32: the limit
    h5py         sorted fancy indexing of the same file, one thread: the usual code
    tf.data      `from_tensor_slices` of arrays in memory, shuffled, batched, prefetched
    torch        a `DataLoader` with two worker processes, each with the file open

`tf.data` and `torch` are left out if the framework is not installed. The script prints images/s and the
ratio to `memory` of each round. The target is 0.6 from the uint8 file. With `--device gpu` each batch is also
copied to the GPU, by torch.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the line above finds the project
from noise import write_noise  # noqa: E402
from paired_timings import Contender, Turn, ratios, shown, spread, take_turns  # noqa: E402

LEAST = 0.6
Batches = Iterator[tuple[Any, Any]]


def main() -> int:
    """Measure and print; return exit status 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1024, help="images of the file")
    parser.add_argument("--size", type=int, default=384, help="rows and columns")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16, help="batches of a turn")
    parser.add_argument("--repetitions", type=int, default=9, help="rounds that count")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    arguments = parser.parse_args()
    record, met = [], True
    with tempfile.TemporaryDirectory(prefix="pneumoseg-benchmark-") as name:
        for storage in ("uint8", "float32"):
            path = Path(name) / f"{storage}.h5"
            write_noise(path, arguments.size, storage, arguments.count)
            rows, ratio = measure(arguments, path, storage)
            record += rows
            met = met and (storage != "uint8" or ratio >= LEAST)
            path.unlink()
    print(f"target ({LEAST} of memory from the uint8 file): {'met' if met else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if met else 1


def measure(arguments: argparse.Namespace, path: Path, storage: str) -> tuple[list[dict[str, Any]], float]:
    """Measure one file; return the record, and the median ratio of ours to memory."""
    kinds = {"ours": from_loader, "memory": from_memory, "h5py": from_h5py}
    if importlib.util.find_spec("tensorflow"):
        kinds["tf.data"] = from_tf_data
    if importlib.util.find_spec("torch"):
        kinds["torch"] = from_torch
    contenders = {
        name: Contender(name, consume, function, path, arguments.batch_size, arguments.device)
        for name, function in kinds.items()
    }
    take_turns(list(contenders.values()), arguments.steps, arguments.repetitions, warm_up=2)
    print(
        f"{storage}, {arguments.count} images of {arguments.size}x{arguments.size}, "
        f"batches of {arguments.batch_size}, {arguments.repetitions} rounds; median (least, greatest)"
    )
    rates = {
        name: [arguments.batch_size * block.steps / block.seconds for block in contender.blocks]
        for name, contender in contenders.items()
    }
    record, ours = [], 0.0
    for name, contender in contenders.items():
        line = f"  {name:<10}{shown(spread(rates[name]), '.0f'):>22} images/s "
        line += f"{contender.peak_memory / 1e6:6.0f} MB"
        if name != "memory":
            found = ratios(rates[name], rates["memory"])
            line += f"  {shown(found)} of memory"
            ours = found[0] if name == "ours" else ours
        print(line, flush=True)
        record.append(
            {
                "storage": storage,
                "contender": name,
                "peak_memory": contender.peak_memory,
                "blocks": [asdict(block) for block in contender.blocks],
            }
        )
    if (seconds := cold(path, arguments.batch_size)) is not None:
        print(f"  ours, cold{arguments.count / seconds:8.0f} images/s, one epoch")
        record.append({"storage": storage, "contender": "ours, cold", "seconds": seconds})
    return record, ours


def consume(turn: Turn, function: Any, path: Path, batch_size: int, device: str) -> None:
    """Take batch after batch, in the process of one contender."""
    batches: Batches = function(path, batch_size)
    to_device = to_gpu() if device == "gpu" else lambda _: None
    turn.ready()
    for images, masks in batches:
        to_device((images, masks))
        turn.step_done(lambda: None)


def to_gpu() -> Any:
    """Return a function that copies a batch to the GPU and waits for it."""
    import torch

    def copy(batch: tuple[Any, Any]) -> None:
        for array in batch:
            torch.as_tensor(np.asarray(array)).to("cuda")
        torch.cuda.synchronize()

    return copy


def from_loader(path: Path, batch_size: int) -> Batches:
    """Yield batches of this project's loader, epoch after epoch."""
    from data.batches.loader import Loader
    from data.hdf5.store import Store

    store = Store.open(path)
    loader = Loader(store, np.arange(store.count), batch_size, seed=0)
    for epoch in itertools.count(1):
        for batch in loader.epoch(epoch):
            yield batch.images, batch.masks


def from_memory(path: Path, batch_size: int) -> Batches:
    """Yield batches by `numpy.take` into new arrays."""
    images, masks = in_memory(path)
    for chosen in orders(len(images), batch_size):
        taken = np.take(images, chosen, axis=0)
        if taken.dtype == np.uint8:
            taken = np.divide(taken, np.float32(255), dtype=np.float32)
        yield taken, np.take(masks, chosen, axis=0)


def from_h5py(path: Path, batch_size: int) -> Batches:
    """Yield batches read by sorted indices and put back into their order."""
    import h5py

    file = h5py.File(path)
    parts = sorted((name for name in file if name.startswith("images_")), key=lambda name: int(name[7:]))
    per_part = len(file[parts[0]])
    for chosen in orders(sum(len(file[name]) for name in parts), batch_size):
        found: list[list[Any]] = [[], []]
        order = np.argsort(chosen, kind="stable")
        for number, name in enumerate(parts):
            within = chosen[order][chosen[order] // per_part == number] - number * per_part
            if len(within):
                found[0].append(file[name][within])
                found[1].append(file[f"ann_{number}"][within])
        images, masks = (np.concatenate(part)[np.argsort(order)] for part in found)
        yield images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images, masks


def from_tf_data(path: Path, batch_size: int) -> Batches:
    """Yield batches by the pipeline of TensorFlow's own guides."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    images, masks = in_memory(path)
    data = tf.data.Dataset.from_tensor_slices((images, masks)).shuffle(len(images)).repeat().batch(batch_size)
    if images.dtype == np.uint8:
        data = data.map(lambda x, z: (tf.cast(x, tf.float32) / 255, z), 2)
    yield from data.prefetch(2)


def from_torch(path: Path, batch_size: int) -> Batches:
    """Yield batches of a map-style data set over the file, which each worker opens."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        TorchImages(path), batch_size, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True
    )
    while True:
        yield from loader


class TorchImages:
    """A map-style data set for `DataLoader`."""

    def __init__(self, path: Path) -> None:
        from data.hdf5.store import Store

        self._path, self._store = path, None
        with Store.open(path) as store:
            self._count = store.count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        from data.hdf5.store import Store

        if self._store is None:
            self._store = Store.open(self._path)  # type: ignore[assignment]
        store: Any = self._store
        image = np.empty((1, store.height, store.width, 1), np.float32)
        mask = np.empty(image.shape, np.uint8)
        store.read(np.array([index]), image, mask)
        return image[0], mask[0]


def in_memory(path: Path) -> tuple[Any, Any]:
    """Return all images as they are stored, and all masks."""
    import h5py

    with h5py.File(path) as file:
        parts = range(sum(name.startswith("images_") for name in file))
        return tuple(np.concatenate([file[f"{kind}_{n}"][:] for n in parts]) for kind in ("images", "ann"))  # type: ignore[return-value]


def orders(count: int, batch_size: int) -> Iterator[Any]:
    """Yield shuffled indices in batches, epoch after epoch."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(count)
        yield from (order[n : n + batch_size] for n in range(0, count - batch_size + 1, batch_size))


def cold(path: Path, batch_size: int) -> float | None:
    """Return the seconds of an epoch of ours from the disk; None if the page cache cannot be dropped."""
    if not hasattr(os, "posix_fadvise"):
        return None
    from data.batches.loader import Loader
    from data.hdf5.store import Store

    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with (
        Store.open(path) as store,
        contextlib.closing(Loader(store, np.arange(store.count), batch_size, seed=0).epoch(1)) as batches,
    ):
        began = time.perf_counter()
        for _ in batches:
            pass
        return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
