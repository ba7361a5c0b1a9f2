"""Data files of noise, for benchmarks that do not depend on the images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.hdf5.file_writing import ImageMetadata, write


def write_noise(path: Path, size: int, storage: str, count: int) -> None:
    """Write a data file of `count` images (size, size); every fourth has a mask, a rectangle."""
    rng = np.random.default_rng(0)
    positive = np.arange(count) % 4 == 0

    def blocks() -> Iterator[tuple[Any, ...]]:
        for has_mask in positive:
            pixels = rng.integers(0, 256, (1, size, size), dtype=np.uint8)
            masks = np.zeros(pixels.shape, np.uint8)
            masks[:, size // 8 : size // 4, size // 6 : size // 2] = has_mask
            yield (pixels if storage == "uint8" else pixels / np.float32(255)), masks

    rows = ImageMetadata([f"image{n}" for n in range(count)], np.full((count, 2), size, np.int32), positive)
    write(path, rows, (size, size), blocks(), per_dataset=512, storage=storage, attributes={})
