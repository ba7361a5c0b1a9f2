"""Batches for training and evaluation, read ahead in the background.

The batches of an epoch depend, to the byte, only on the file, the indices, the batch size, the seed, the
settings of sampling, augmentation and crops, and the epoch's number. The last, short batch is used. An epoch
that starts at a later batch gives the same batches as an uninterrupted one from there on. Each batch has its
own arrays, which are not overwritten while anything refers to them.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from core.base.byte_images import Images
from core.base.system import available_cores
from data.batches.augmentation import AugmentationSettings, augment
from data.batches.crops import CropSettings, crop_window
from data.batches.sampling import SamplingSchedule, check_classes, sampled, shuffled
from data.hdf5.store import Store

_MOST_THREADS = 8  # for augmentation; with more threads the reader is the bottleneck
_READ_AHEAD = 2  # batches; one being read and one waiting are enough for any consumer
_MOST_RECYCLED = _READ_AHEAD + 3  # also one being read, one in use, and one that a framework still copies


class Batch(NamedTuple):
    """Some images of a store: a batch, or the rows of it that the loader reads.

    Attributes:
        images: (n, H, W, 1) float32 in [0, 1], or uint8 from a loader `in_bytes`; H and W are those of the
            crops, if there are any.
        masks: (n, H, W, 1) uint8 in {0, 1}.
        indices: (n,) int64, their indices in the store.
    """

    images: Images
    masks: NDArray[np.uint8]
    indices: NDArray[np.int64]


class Loader:
    """Batches of chosen images of a store.

    Args:
        store: An open store; it must stay open while batches are read.
        indices: (n,) indices of the chosen images; without a seed this is their order.
        batch_size: Images in each batch but the last.
        seed: Seed of the shuffling; None leaves the images in the given order.
        sampling: Share of positives in each batch; None takes every image once. Needs a seed.
        augmentation: Random changes of the images. Needs a seed.
        rows: Returns, for the number of images in a batch, the places of those to read; None reads all.
        crops: Random crops of the images. They need a seed, and images that are not smaller.

    Raises:
        ValueError: A batch size below 1, no images, or no seed where one is needed.
        UserError: The sampling needs images of a class that has none.
    """

    def __init__(
        self,
        store: Store,
        indices: NDArray[np.int64],
        batch_size: int,
        seed: int | None = None,
        sampling: SamplingSchedule | None = None,
        augmentation: AugmentationSettings | None = None,
        rows: Callable[[int], range] | None = None,
        crops: CropSettings | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1. Received: {batch_size}")
        if len(indices) == 0:
            raise ValueError("a loader needs at least one image. Received: no indices")
        if seed is None and any(one is not None for one in (sampling, augmentation, crops)):
            raise ValueError("sampling, augmentation and crops are drawn by a seed. Received: None")
        self.store = store
        self.batch_size = batch_size
        self.seed = seed
        self._indices = np.array(indices, dtype=np.int64)
        self._rows = rows or range
        self._crops = crops
        self._reserve(np.float32)
        self._sampling = sampling
        self._augmentation = augmentation if augmentation is not None and augmentation.alters else None
        if sampling is not None:
            self._positive = store.positive[self._indices]
            check_classes(self._positive, sampling)

    def _reserve(self, kind: type[np.generic]) -> None:
        """Reserve memory for batches with images of this type."""
        rows = len(self._rows(min(self.batch_size, self.images)))
        shape = (rows, self.store.height, self.store.width, 1)
        self._memory = _Recycled(shape, kind), _Recycled(shape, np.uint8)
        if self._crops is not None:
            shape = (rows, self._crops.size, self._crops.size, 1)
        self._cropped = _Recycled(shape, kind), _Recycled(shape, np.uint8)

    def in_bytes(self) -> Loader:
        """Return a loader of the same batches whose images are bytes, as a GPU should get them.

        It is this loader if the images are not bytes: in the file, reduced, or augmented.
        """
        if self._augmentation is not None or not self.store.is_in_bytes:
            return self
        of_bytes = copy.copy(self)
        of_bytes._reserve(np.uint8)
        return of_bytes

    @property
    def images(self) -> int:
        """Number of images in an epoch."""
        return len(self._indices)

    @property
    def batches(self) -> int:
        """Number of batches in an epoch, including the last, short one."""
        return -(-self.images // self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the indices in the store in the order of an epoch, (n,) int64."""
        if self.seed is None:
            return self._indices.copy()
        if self._sampling is None:
            return self._indices[shuffled(self.images, self.seed, epoch)]
        return self._indices[sampled(self._positive, self.batch_size, self._sampling, self.seed, epoch)]

    def epoch(self, epoch: int, start: int = 0, every: int = 1) -> Generator[Batch, None, None]:
        """Yield batches of an epoch, read ahead by a thread that lives as long as the generator.

        Args:
            epoch: Number of the epoch; with a seed it determines the order.
            start: Number of batches to skip at the beginning.
            every: Yield only every `every`-th batch from there on.

        Raises:
            UserError: The file could not be read (raised when the batch is requested).
        """
        order = self.order(epoch)
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=_READ_AHEAD)
        stop = threading.Event()

        def read_ahead() -> None:
            try:
                with self._helpers() as helpers:
                    for number in range(start, self.batches, every):
                        if stop.is_set():
                            return
                        batch, first = self._batch(order, number)
                        ready.put(self._altered(batch, epoch, first, helpers))
                        del batch  # so that its memory can be used again
                ready.put(None)
            except BaseException as error:  # raised in the consumer, which would otherwise wait forever
                ready.put(error)

        # A daemon thread, so that a program that fails while it holds a half-used generator can still end.
        thread = threading.Thread(target=read_ahead, name="read-ahead", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            with contextlib.suppress(queue.Empty):
                while True:
                    ready.get_nowait()  # makes room for one `put` that may be waiting
            thread.join()

    def _batch(self, order: NDArray[np.int64], number: int) -> tuple[Batch, int]:
        """Return a batch, and the place of its first row in the epoch."""
        first = number * self.batch_size
        count = min(self.batch_size, self.images - first)
        rows = self._rows(count)
        indices = order[first + rows.start : first + rows.stop].copy()
        images, masks = (recycled.array(len(indices)) for recycled in self._memory)
        self.store.read(indices, images, masks)
        return Batch(images, masks, indices), first + rows.start

    def _helpers(self) -> ThreadPoolExecutor:
        """Return the threads for augmentation and crops; they start with the first image to change."""
        return ThreadPoolExecutor(min(available_cores(), _MOST_THREADS), thread_name_prefix="augmentation")

    def _altered(self, batch: Batch, epoch: int, first: int, helpers: Executor) -> Batch:
        """Return a batch augmented and cropped; `first` is the place of its first image in the epoch."""
        settings, crops, seed = self._augmentation, self._crops, self.seed
        if seed is None or (settings is None and crops is None):
            return batch
        result = batch
        if crops is not None:
            images, masks = (recycled.array(len(batch.indices)) for recycled in self._cropped)
            result = Batch(images, masks, batch.indices)

        def alter(row: int) -> None:
            image, mask, place = batch.images[row, ..., 0], batch.masks[row, ..., 0], first + row
            if settings is not None:
                augment(cast(NDArray[np.float32], image), mask, settings, seed, epoch, place)
            if crops is not None:
                window = crop_window(mask, crops, seed, epoch, place)
                result.images[row, ..., 0], result.masks[row, ..., 0] = image[window], mask[window]

        list(helpers.map(alter, range(len(batch.indices))))  # asks for each result, and so for its error
        return result


class _Recycled:
    """Arrays of one shape, whose memory is used again once nobody holds them any more.

    New memory has to be filled with zeros by the system first, which takes as long as reading into it.
    """

    def __init__(self, shape: tuple[int, ...], kind: type[np.generic]) -> None:
        self._shape, self._kind = shape, kind
        self._owners: list[NDArray[Any]] = []

    def array(self, count: int) -> NDArray[Any]:
        """Return an array of `count` rows with any content."""
        (unheld,) = _references([np.empty(0)])
        for owner, references in zip(self._owners, _references(self._owners), strict=True):
            if references == unheld:
                return owner[:count]  # refers to its owner, as do all views of it
        owner = np.empty(self._shape, self._kind)
        if len(self._owners) < _MOST_RECYCLED:
            self._owners.append(owner)
        return owner[:count]


def _references(owners: list[NDArray[Any]]) -> list[int]:
    """Return Python's reference count of each array of a list.

    The count includes references made by counting, so all counts are taken here. Up to Python 3.13 an array
    without other references has 3: from the list, the variable and the argument. Python 3.14 omits references
    that do not outlive another one.
    """
    return [sys.getrefcount(owner) for owner in owners]
