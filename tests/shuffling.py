"""Checks of the order of images: shuffling and sampling.

Shuffled means that over many epochs every image has every position, next to every other image. Sampled means
in addition that each class is used up before it repeats, and that every batch has the wanted share of
positives.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np

from data.batches.loader import Loader
from data.batches.sampling import SamplingSchedule
from data.hdf5.file_writing import ImageMetadata, write

COUNT = 8
SAMPLING = SamplingSchedule(0.5, 0.5, 1)
_EPOCHS = 150  # for less than one in a million seeds, a pair is missing by chance


def unshuffled(loader: Loader) -> str | None:
    """Return why the order of `COUNT` images in 150 epochs is not random; None if nothing is wrong."""
    orders = [
        [index for batch in loader.epoch(epoch) for index in batch.indices.tolist()]
        for epoch in range(_EPOCHS)
    ]
    if any(sorted(order) != list(range(COUNT)) for order in orders):
        return "an epoch leaves an image out, or has one twice"
    return _never(orders)


def badly_sampled(loader: Loader) -> str | None:
    """Return what is wrong with 400 epochs of a loader with `SAMPLING`; None if nothing is."""
    orders = [loader.order(epoch).tolist() for epoch in range(1, 401)]
    positive = loader.store.positive
    for number, order in enumerate(orders, start=1):
        for end in [*range(loader.batch_size, COUNT, loader.batch_size), COUNT]:
            wanted, found = math.floor(end / 2 + 0.5), int(positive[order[:end]].sum())
            if found != wanted:
                return f"of the first {end} images of epoch {number} {found} are positive, not {wanted}"
    dealt = np.concatenate(orders)
    for name, members in (("positive", np.flatnonzero(positive)), ("negative", np.flatnonzero(~positive))):
        of_class = dealt[np.isin(dealt, members)]
        for begin in range(0, len(of_class) - len(members) + 1, len(members)):
            if len(set(of_class[begin : begin + len(members)])) < len(members):
                return f"a {name} image comes again before all others came"
    return _never(orders)


def _never(orders: list[list[int]]) -> str | None:
    """Return a position or a successor that an image never has; None if there is none."""
    images = range(COUNT)
    seen = {pair for order in orders for pair in enumerate(order)}
    for place, image in itertools.product(images, images):
        if (place, image) not in seen:
            return f"in {len(orders)} epochs image {image} never comes to place {place}"
    neighbours = {pair for order in orders for pair in itertools.pairwise(order)}
    for one, other in itertools.permutations(images, 2):
        if (one, other) not in neighbours:
            return f"in {len(orders)} epochs image {other} never follows image {one}"
    return None


def write_store(path: Path) -> None:
    """Write `COUNT` tiny images, each with its own brightness."""
    pixels = np.repeat(np.arange(COUNT, dtype=np.float32) / COUNT, 6).reshape(COUNT, 2, 3)
    masks = (pixels > 0.5).astype(np.uint8)
    rows = ImageMetadata(
        [str(n) for n in range(COUNT)], np.full((COUNT, 2), 9, np.int32), masks.any(axis=(1, 2))
    )
    blocks = iter([(pixels, masks)])
    write(path, rows, (2, 3), blocks, per_dataset=3, storage="float32", attributes={})
