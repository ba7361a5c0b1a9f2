"""A small data file with every kind of row, for tests of what reads one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.annotations import rle
from data.hdf5.file_writing import ImageMetadata, write
from data.hdf5.store import Store

COUNT, HEIGHT, WIDTH = 7, 5, 4


SIZES = np.array([(HEIGHT * (1 + n % 3), WIDTH * (1 + n % 2)) for n in range(COUNT)], dtype=np.int32)


def content() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    random = np.random.default_rng(7)
    images = (random.integers(0, 256, (COUNT, HEIGHT, WIDTH)) / 255).astype(np.float32)
    masks = (random.random((COUNT, HEIGHT, WIDTH)) < 0.4).astype(np.uint8)
    masks[[2, 5]] = 0
    return images, masks


def truths() -> list[NDArray[np.uint8]]:
    """The annotations at the original sizes, of which `content` has the masks; 5 vanishes when shrunk."""
    found = [
        mask.repeat(height // HEIGHT, axis=0).repeat(width // WIDTH, axis=1)
        for mask, (height, width) in zip(content()[1], SIZES.tolist(), strict=True)
    ]
    found[5][7, 3] = 1
    return found


def write_store(path: Path, storage: str = "float32", per_dataset: int = 3, block: int = 2) -> None:
    images, masks = content()
    stored: NDArray[Any] = images
    if storage == "uint8":
        stored = np.rint(images * 255).astype(np.uint8)

    def blocks() -> Iterator[tuple[NDArray[Any], NDArray[np.uint8]]]:
        for start in range(0, COUNT, block):
            yield stored[start : start + block], masks[start : start + block]

    rows = ImageMetadata(
        ids=[f"é{number}" + "x" * number for number in range(COUNT)],
        sizes=SIZES,
        positive=np.array([True, True, False, True, True, True, True]),  # 5: vanished when shrunk
        runs=[rle.runs(rle.encode(truth)) for truth in truths()],
    )
    write(
        path,
        rows,
        (HEIGHT, WIDTH),
        blocks(),
        per_dataset=per_dataset,
        storage=storage,
        attributes={"annotations_sha256": "abc"},
    )


def read_all(store: Store, indices: list[int]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    shape = (len(indices), store.height, store.width, 1)
    images, masks = np.full(shape, 9, np.float32), np.full(shape, 9, np.uint8)
    store.read(np.array(indices), images, masks)
    return images, masks
