"""Data files of noise, for benchmarks to which pictures make no difference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.store import Rows, write


def write_noise(path: Path, size: int, storage: str, count: int) -> None:
    """A data file of `count` images (size, size) and masks of which a tenth is set."""
    rng = np.random.default_rng(0)

    def blocks() -> Iterator[tuple[Any, ...]]:
        for _ in range(count):
            pixels = rng.integers(0, 256, (1, size, size), dtype=np.uint8)
            masks = (rng.random((1, size, size), dtype=np.float32) < 0.1).astype(np.uint8)
            yield (pixels if storage == "uint8" else pixels / np.float32(255)), masks

    sizes = np.full((count, 2), size, np.int32)
    rows = Rows([f"image{n}" for n in range(count)], sizes, np.ones(count, bool))
    write(path, rows, (size, size), blocks(), per_dataset=512, storage=storage, attributes={})
