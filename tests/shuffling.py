"""What shuffled means: every image comes to every place of an epoch, beside every other one."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from data.loader import Loader
from data.store import Rows, write

COUNT = 8
_EPOCHS = 150  # a place, or a neighbour, is missed by chance less than once in a million seeds


def unshuffled(loader: Loader) -> str | None:
    """What of the order of `COUNT` images in 150 epochs cannot be chance; None where it can."""
    orders = [
        [index for batch in loader.epoch(epoch) for index in batch.indices.tolist()]
        for epoch in range(_EPOCHS)
    ]
    images = range(COUNT)
    if any(sorted(order) != list(images) for order in orders):
        return "an epoch leaves an image out, or has one twice"
    seen = {pair for order in orders for pair in enumerate(order)}
    for place, image in itertools.product(images, images):
        if (place, image) not in seen:
            return f"in {_EPOCHS} epochs image {image} never comes to place {place}"
    neighbours = {pair for order in orders for pair in itertools.pairwise(order)}
    for one, other in itertools.permutations(images, 2):
        if (one, other) not in neighbours:
            return f"in {_EPOCHS} epochs image {other} never follows image {one}"
    return None


def write_store(path: Path) -> None:
    """`COUNT` tiny images, each of its own brightness."""
    pixels = np.repeat(np.arange(COUNT, dtype=np.float32) / COUNT, 6).reshape(COUNT, 2, 3)
    masks = (pixels > 0.5).astype(np.uint8)
    rows = Rows([str(n) for n in range(COUNT)], np.full((COUNT, 2), 9, np.int32), masks.any(axis=(1, 2)))
    blocks = iter([(pixels, masks)])
    write(path, rows, (2, 3), blocks, per_dataset=3, storage="float32", attributes={})
