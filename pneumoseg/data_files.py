"""Read the images and masks of the data file that preprocessing writes.

The images are those that a network is trained on. Opening a damaged file is an error that names the file.
docs/data.md describes the format.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.base.byte_images import as_numbers
from core.base.errors import UserError
from data.batches.loader import Loader
from data.hdf5.store import Store
from pneumoseg.radiographs import PathLike


class Batch(NamedTuple):
    """A batch of images.

    Attributes:
        ids: Image ids.
        images: (n, height, width, 1) float32 in [0, 1].
        masks: (n, height, width, 1) uint8 in {0, 1}; None if the file has no annotations.
        indices: (n,) int64, the positions of the images in the file.
    """

    ids: tuple[str, ...]
    images: NDArray[np.float32]
    masks: NDArray[np.uint8] | None
    indices: NDArray[np.int64]


class DataFile:
    """An open data file. `open_data` returns it. Use it in a `with` statement, or `close` it.

    Attributes:
        path: The file.
        height: Height of the stored images in pixels.
        width: Width of the stored images in pixels.
        ids: Image ids, in the order of the file.
        sizes: (n, 2) int32, height and width of the original images.
        annotated: Whether the file has masks.
        patients: A pseudonym for each image's patient, "" if unknown.
    """

    def __init__(self, store: Store) -> None:
        self._store: Store | None = store
        self.path = store.path
        self.height, self.width = store.height, store.width
        self.ids, self.sizes, self.patients = store.ids, store.sizes, store.patients
        self.annotated = store.annotated

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        state = "closed" if self._store is None else f"{len(self)} images of {self.height}x{self.width}"
        return f"<pneumoseg.DataFile {self.path}, {state}>"

    @property
    def store(self) -> Store:
        """The open file, as the toolkit's own type.

        Raises:
            Error: The file was closed.
        """
        if self._store is None:
            raise UserError(f"{self.path} was closed.", "Open it again with pneumoseg.open_data.")
        return self._store

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Whether each image has an annotation that is not empty, (n,) bool.

        Raises:
            Error: The file has no annotations.
        """
        return self.store.positive

    def index(self, image: int | str) -> int:
        """Return the position of an image in the file, from 0.

        Args:
            image: The image's id or position; -1 is the last image.

        Raises:
            Error: There is no such image.
        """
        if isinstance(image, str):
            if image not in self._places:
                raise UserError(f"{self.path} has no image {image!r}.")
            return self._places[image]
        place = int(image) + (len(self) if image < 0 else 0)
        if not 0 <= place < len(self):
            raise UserError(f"{self.path} has {len(self)} images; there is none at {image}.")
        return place

    def image(self, image: int | str) -> NDArray[np.float32]:
        """Return an image, by position or id, as a network gets it: (height, width) float32 in [0, 1]."""
        return self._read([self.index(image)], masks=False).images[0, ..., 0]

    def mask(self, image: int | str) -> NDArray[np.uint8]:
        """Return the mask of an image at the same size: (height, width) uint8 in {0, 1}.

        Raises:
            Error: There is no such image, or the file has no annotations.
        """
        masks = self._read([self.index(image)], masks=True).masks
        assert masks is not None
        return masks[0, ..., 0]

    def truth(self, image: int | str) -> NDArray[np.uint8]:
        """Return the mask of an image at its original size, given by `sizes`: uint8 in {0, 1}.

        Raises:
            Error: There is no such image, or the file has no mask of that size.
        """
        return self.store.truth(self.index(image))

    def batches(
        self, batch_size: int = 32, *, images: Sequence[int | str] | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        """Iterate over images in batches, each image once. The last batch may be smaller.

        Args:
            batch_size: The number of images in a batch.
            images: Positions or ids, in the wanted order; None is all images.
            seed: The seed that shuffles them; None keeps the order.

        Raises:
            Error: The batch size is below 1, an image does not exist, or the file cannot be read.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1. Received: {batch_size}")
        places = range(len(self)) if images is None else [self.index(image) for image in images]
        chosen = np.array(places, dtype=np.int64)
        return self._batches(chosen, batch_size, seed) if len(chosen) else iter(())

    def close(self) -> None:
        """Close the file. Closing it twice is allowed."""
        if self._store is not None:
            self._store.close()
        self._store = None

    def __enter__(self) -> DataFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in reversed(list(enumerate(self.ids)))}

    def _batches(self, chosen: NDArray[np.int64], batch_size: int, seed: int | None) -> Iterator[Batch]:
        loader = Loader(self.store, chosen, batch_size, seed)
        if not self.annotated:
            order = loader.order(0)
            for start in range(0, len(order), batch_size):
                yield self._read(order[start : start + batch_size], masks=False)
            return
        with closing(loader.epoch(0)) as found:
            for images, masks, indices in found:
                yield Batch(tuple(self.ids[place] for place in indices), as_numbers(images), masks, indices)

    def _read(self, places: Any, *, masks: bool) -> Batch:
        indices = np.array(places, dtype=np.int64)
        shape = (len(indices), self.height, self.width, 1)
        images, truth = np.empty(shape, np.float32), np.empty(shape, np.uint8) if masks else None
        self.store.read(indices, images, truth)
        return Batch(tuple(self.ids[place] for place in indices), images, truth, indices)


def open_data(path: PathLike) -> DataFile:
    """Open a data file and check its format.

    Raises:
        Error: The file is missing, damaged, or not a data file.
    """
    return DataFile(Store.open(Path(path)))
